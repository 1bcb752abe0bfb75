package cri

import (
	"context"
	"strings"

	"github.com/postern-cri/postern/runtime/store"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// chunk is how many items one message of a streamed list holds, and chunkBytes what
// they may take: a client takes 4 MiB, and the annotations of one item can be 256 KiB.
const (
	chunk      = 128
	chunkBytes = 2 << 20
)

func sendChunks[T proto.Message](items []T, send func([]T) error) error {
	for len(items) > 0 {
		n, size := 0, 0
		for n < min(chunk, len(items)) {
			if size += proto.Size(items[n]); size > chunkBytes && n > 0 {
				break
			}
			n++
		}
		if err := send(items[:n]); err != nil {
			return err
		}
		items = items[n:]
	}
	return nil
}

// idMatches lets a filter name an id by its beginning, as crictl prints it.
func idMatches(id, want string) bool { return want == "" || strings.HasPrefix(id, want) }

func (s *Server) filterPods(f *cri.PodSandboxFilter) []*cri.PodSandbox {
	var out []*cri.PodSandbox
	for _, p := range s.store.Pods() {
		if !idMatches(p.ID, f.GetId()) || !store.Matches(p.Labels, f.GetLabelSelector()) ||
			f.GetState() != nil && f.State.State != podState(p) {
			continue
		}
		out = append(out, &cri.PodSandbox{
			Id: p.ID, Metadata: podMetadata(p), State: podState(p), CreatedAt: p.Created,
			Labels: p.Labels, Annotations: p.Annotations, RuntimeHandler: p.Handler,
		})
	}
	return out
}

// ListPodSandbox lists pods.
func (s *Server) ListPodSandbox(ctx context.Context, r *cri.ListPodSandboxRequest) (*cri.ListPodSandboxResponse, error) {
	if err := s.askRead(ctx, "ListPodSandbox"); err != nil {
		return nil, err
	}
	return &cri.ListPodSandboxResponse{Items: s.filterPods(r.Filter)}, nil
}

// StreamPodSandboxes lists pods in several messages.
func (s *Server) StreamPodSandboxes(r *cri.StreamPodSandboxesRequest, out grpc.ServerStreamingServer[cri.StreamPodSandboxesResponse]) error {
	if err := s.askRead(out.Context(), "StreamPodSandboxes"); err != nil {
		return err
	}
	return sendChunks(s.filterPods(r.Filter), func(p []*cri.PodSandbox) error {
		return out.Send(&cri.StreamPodSandboxesResponse{PodSandboxes: p})
	})
}

func (s *Server) filterContainers(f *cri.ContainerFilter) []*cri.Container {
	var out []*cri.Container
	for _, c := range s.store.Containers("") {
		if !idMatches(c.ID, f.GetId()) || !idMatches(c.Pod, f.GetPodSandboxId()) || !store.Matches(c.Labels, f.GetLabelSelector()) ||
			f.GetState() != nil && f.State.State != containerState(c) {
			continue
		}
		out = append(out, &cri.Container{
			Id: c.ID, PodSandboxId: c.Pod, Metadata: &cri.ContainerMetadata{Name: c.Name, Attempt: c.Attempt},
			Image: imageSpec(c), ImageRef: c.ImageRef, ImageId: c.ImageID, State: containerState(c), CreatedAt: c.Created,
			Labels: c.Labels, Annotations: c.Annotations,
		})
	}
	return out
}

// ListContainers lists containers.
func (s *Server) ListContainers(ctx context.Context, r *cri.ListContainersRequest) (*cri.ListContainersResponse, error) {
	if err := s.askRead(ctx, "ListContainers"); err != nil {
		return nil, err
	}
	return &cri.ListContainersResponse{Containers: s.filterContainers(r.Filter)}, nil
}

// StreamContainers lists containers in several messages.
func (s *Server) StreamContainers(r *cri.StreamContainersRequest, out grpc.ServerStreamingServer[cri.StreamContainersResponse]) error {
	if err := s.askRead(out.Context(), "StreamContainers"); err != nil {
		return err
	}
	return sendChunks(s.filterContainers(r.Filter), func(c []*cri.Container) error {
		return out.Send(&cri.StreamContainersResponse{Containers: c})
	})
}

// ContainerStatus describes one container.
func (s *Server) ContainerStatus(ctx context.Context, r *cri.ContainerStatusRequest) (*cri.ContainerStatusResponse, error) {
	if err := s.askRead(ctx, "ContainerStatus"); err != nil {
		return nil, err
	}
	c, err := s.store.Container(r.ContainerId)
	if err != nil {
		return nil, fail("ContainerStatus", err)
	}
	a := &cri.ContainerStatusResponse{Status: s.containerStatus(c)}
	if r.Verbose {
		a.Info = info(map[string]any{"sandboxID": c.Pod, "cgroup": c.Cgroup, "manifest": c.Manifest, "user": c.User, "tty": c.TTY})
	}
	return a, nil
}
