package cri

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/postern-cri/postern/runtime/store"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestCrowd lists a thousand containers and pods whose annotations are large: whole
// to a client that takes the kubelet's 16 MiB, and in a stream to one that takes
// gRPC's 4 MiB, each once.
func TestCrowd(t *testing.T) {
	w := newWorld(t)
	const many = 1000
	much := map[string]string{"much": strings.Repeat("x", 12<<10)}
	for i := range many {
		id := fmt.Sprintf("%064d", i)
		if err := errors.Join(
			w.store.AddPod(&store.Pod{ID: "b" + id[1:], UID: id, Name: "p", State: store.Running, Annotations: much}),
			w.store.AddContainer(&store.Container{ID: "a" + id[1:], Pod: "b" + id[1:], Name: "c", State: store.Running, Annotations: much}),
		); err != nil {
			t.Fatal(err)
		}
	}
	kubelet, usual := grpc.MaxCallRecvMsgSize(16<<20), grpc.MaxCallRecvMsgSize(4<<20)
	if a, err := w.runtime.ListContainers(t.Context(), &cri.ListContainersRequest{}, kubelet); err != nil || len(a.Containers) != many {
		t.Errorf("%d containers, %v", len(a.GetContainers()), err)
	}
	if a, err := w.runtime.ListPodSandbox(t.Context(), &cri.ListPodSandboxRequest{}, kubelet); err != nil || len(a.Items) != many {
		t.Errorf("%d pods, %v", len(a.GetItems()), err)
	}
	if _, err := w.runtime.ListContainers(t.Context(), &cri.ListContainersRequest{}, usual); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("12 MB to a client that takes 4: %v", err)
	}
	seen := map[string]bool{}
	count := func(id string) {
		if seen[id] {
			t.Errorf("%s twice", id)
		}
		seen[id] = true
	}
	ctrs, err := w.runtime.StreamContainers(t.Context(), &cri.StreamContainersRequest{}, usual)
	for err == nil {
		var a *cri.StreamContainersResponse
		if a, err = ctrs.Recv(); err == nil {
			for _, c := range a.Containers {
				count(c.Id)
			}
		}
	}
	if err != io.EOF || len(seen) != many {
		t.Errorf("%d containers streamed, %v", len(seen), err)
	}
	pods, err := w.runtime.StreamPodSandboxes(t.Context(), &cri.StreamPodSandboxesRequest{}, usual)
	for err == nil {
		var a *cri.StreamPodSandboxesResponse
		if a, err = pods.Recv(); err == nil {
			for _, p := range a.PodSandboxes {
				count(p.Id)
			}
		}
	}
	if err != io.EOF || len(seen) != 2*many {
		t.Errorf("%d pods streamed, %v", len(seen)-many, err)
	}
	// A filter of one costs what one costs.
	if a, err := w.runtime.ListContainers(t.Context(), &cri.ListContainersRequest{Filter: &cri.ContainerFilter{Id: "a" + strings.Repeat("0", 63)}}); err != nil || len(a.Containers) != 1 {
		t.Errorf("%v, %v", a, err)
	}
}
