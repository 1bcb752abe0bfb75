package cri

import (
	"context"
	"errors"
	"fmt"
	"path"
	"time"

	"github.com/postern-cri/postern/policy/facts"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/wire"
	"github.com/postern-cri/postern/runtime/container"
	"github.com/postern-cri/postern/runtime/store"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// CreateContainer makes a container. It is decided at the boundary.
func (s *Server) CreateContainer(ctx context.Context, r *cri.CreateContainerRequest) (*cri.CreateContainerResponse, error) {
	const method = "CreateContainer"
	pod, err := s.store.Pod(r.PodSandboxId)
	if err != nil {
		return nil, fail(method, err)
	}
	if pod.State != store.Running {
		return nil, status.Errorf(codes.FailedPrecondition, "pod_sandbox_id: pod %s is not ready: it was stopped; run another", pod.ID)
	}
	m := r.GetConfig().GetMetadata()
	if m.GetName() == "" {
		return nil, invalid("%s: metadata.name: missing", method)
	}
	request := digest(r)
	taken := func() error {
		return status.Errorf(codes.AlreadyExists, "metadata: a container %s (attempt %d) of pod %s exists already or is being made by another request: remove it, or count metadata.attempt up", m.Name, m.Attempt, pod.ID)
	}
	id, err := s.store.Once(ctx, store.ContainerKey(pod.ID, m.Name, m.Attempt), request,
		func(id string) (string, error) {
			if old, err := s.store.Container(id); err == nil && old.State == store.Created && old.Request == request {
				return id, nil // the answer to the first request was lost
			}
			return "", taken()
		}, taken,
		func(ctx context.Context) (string, error) {
			ctx, cancel := context.WithTimeout(ctx, createLimit)
			defer cancel()
			return s.create(ctx, pod, r.Config, request)
		})
	if err != nil {
		return nil, fail(method, err)
	}
	return &cri.CreateContainerResponse{ContainerId: id}, nil
}

func (s *Server) create(ctx context.Context, pod *store.Pod, c *cri.ContainerConfig, request string) (string, error) {
	const method = "CreateContainer"
	if err := s.checkSpec("image", c.GetImage()); err != nil {
		return "", err
	}
	img, err := s.findImage(ctx, c.GetImage().GetImage())
	if err != nil {
		return "", err
	}
	if img.Files {
		return "", invalid("image: %s is an OCI artifact: it has files for an image volume, and nothing to run", clip(img.Ref(), 256))
	}
	users, err := s.users(img)
	if err != nil {
		return "", fmt.Errorf("opening the image's files: %w", err)
	}
	defer users.Close()
	p, err := container.Plan(container.Input{
		Config: c, Image: img.Config, At: s.places, Users: users,
		Pod: container.Pod{
			UID: pod.UID, Network: pod.Network, PID: pod.PID, IPC: pod.IPC, UserNS: pod.UserNS, UIDs: pod.UIDs, GIDs: pod.GIDs,
			Privileged: pod.Privileged, Hostname: hostnameOf(pod), HasLogs: pod.LogDir != "",
		},
		VolumeImage: func(spec *cri.ImageSpec) (string, error) {
			return s.volumeImage(ctx, spec)
		},
		CDI: s.cdi, Rlimits: s.rlimits,
		Target: func(id string) error {
			t, err := s.store.Container(id)
			if err != nil || t.ID != id || t.Pod != pod.ID || t.State != store.Running {
				return fmt.Errorf("%q is no running container of this pod", id)
			}
			return nil
		},
	})
	if err != nil {
		return "", s.outside(ctx, method, facts.Facts{Pod: podFacts(pod), Container: &facts.Container{
			Name: c.Metadata.Name, Attempt: c.Metadata.Attempt, Image: c.GetImage().GetImage()}}, err)
	}
	in := plan.PodPlan{
		UID: pod.UID, Network: pod.Network, PID: pod.PID, IPC: pod.IPC, UserNS: pod.UserNS, Privileged: pod.Privileged,
		Logs: plan.Place{Root: plan.RootLog, Rel: pod.LogDir},
	}
	s.places.FitContainer(&in, &p)
	if _, err := plan.EncodeContainer(p); err != nil {
		return "", badPlan(method, err)
	}
	ctr := newContainer(pod, c, img, &p)
	ctr.Request = request
	claims := s.claims(ctx, method)
	claimPod(&claims, pod)
	claimContainer(&claims, ctr)
	if _, err := plan.EncodeClaims(claims); err != nil {
		return "", badPlan(method, err)
	}
	defer s.creating.begin()()
	a, err := s.helper.CtrCreate(ctx, pod.ID, p, claims)
	if err != nil {
		s.doubt(err)
		return "", err
	}
	ctr.ID, ctr.Cgroup, ctr.Created = a.Container, a.Cgroup, time.Now().UnixNano()
	if err := s.store.AddContainer(ctr); err != nil {
		derr := s.discard(ctx, wire.Entry{Handle: a.Container, State: wire.StateCreated})
		if derr != nil {
			s.seekOrphans()
		}
		return "", errors.Join(err, derr)
	}
	for _, n := range a.Notes {
		s.log.Info("tightened", "container", ctr.ID, "name", ctr.Name, "note", n)
	}
	s.event(ctr.ID, cri.ContainerEventType_CONTAINER_CREATED_EVENT)
	s.applyExit(ctr.ID) // it may have died while its name was unknown here
	return ctr.ID, nil
}

func newContainer(pod *store.Pod, c *cri.ContainerConfig, img Image, p *plan.Plan) *store.Container {
	ctr := &store.Container{
		Pod: pod.ID, Name: c.Metadata.Name, Attempt: c.Metadata.Attempt, State: store.Created,
		Image: c.Image.GetImage(), UserImage: c.Image.GetUserSpecifiedImage(), ImageID: img.ID, ImageRef: img.Ref(), Manifest: img.Config.Manifest,
		Labels: c.Labels, Annotations: c.Annotations, Resources: &p.Resources, User: p.User, StopSignal: p.StopSignal,
		TTY: p.TTY, Stdin: p.Stdin, StdinOnce: p.StdinOnce,
	}
	if ctr.UserImage == "" {
		ctr.UserImage = ctr.Image
	}
	if c.LogPath != "" {
		ctr.LogPath = path.Join(pod.LogDir, c.LogPath)
	}
	at := map[string]string{} // digests of the image volumes, by where they are mounted
	for _, m := range p.Mounts {
		if m.From.Root == plan.RootImage {
			at[m.To] = m.From.Name
		}
	}
	for _, m := range c.Mounts {
		o := store.Mount{
			To: m.ContainerPath, Host: m.HostPath, ReadOnly: m.Readonly, Recursive: m.RecursiveReadOnly, Relabel: m.SelinuxRelabel,
			Propagation: int32(m.Propagation), Image: m.GetImage().GetImage(), UserImage: m.GetImage().GetUserSpecifiedImage(),
			SubPath: m.ImageSubPath, Options: m.MountOptions,
		}
		if o.Image != "" {
			o.ImageRef = at[path.Clean("/"+m.ContainerPath)]
		}
		if len(m.UidMappings) > 0 {
			o.IDMapped |= store.MapsUIDs
		}
		if len(m.GidMappings) > 0 {
			o.IDMapped |= store.MapsGIDs
		}
		ctr.Mounts = append(ctr.Mounts, o)
	}
	return ctr
}

// StartContainer lets a created container run. It is decided at the boundary.
func (s *Server) StartContainer(ctx context.Context, r *cri.StartContainerRequest) (*cri.StartContainerResponse, error) {
	const method = "StartContainer"
	c, err := s.store.Container(r.ContainerId)
	if err != nil {
		return nil, fail(method, err)
	}
	unlock := s.lock(c.ID)
	defer unlock()
	if c, err = s.store.Container(c.ID); err != nil {
		return nil, fail(method, err)
	}
	if c.State != store.Created {
		return nil, status.Errorf(codes.FailedPrecondition, "container %s is not in the created state: a container is started once; remove it and create another", c.ID)
	}
	at := time.Now().UnixNano()
	if err := s.helper.CtrStart(ctx, c.ID); err != nil {
		if isHelper(err, wire.Failed) {
			s.setExited(c.ID, at, 128, "StartError", err.Error())
		}
		return nil, fail(method, err)
	}
	_, err = s.store.UpdateContainer(c.ID, func(c *store.Container) bool {
		c.Started = at
		if c.State == store.Created {
			c.State = store.Running
		}
		return true
	})
	if err != nil {
		s.log.Error("storing that a container runs", "container", c.ID, "error", err)
	}
	s.event(c.ID, cri.ContainerEventType_CONTAINER_STARTED_EVENT)
	return &cri.StartContainerResponse{}, nil
}

// StopContainer asks a container to end and makes it after the timeout.
func (s *Server) StopContainer(ctx context.Context, r *cri.StopContainerRequest) (*cri.StopContainerResponse, error) {
	c, err := s.store.Container(r.ContainerId)
	if errors.Is(err, store.ErrNotFound) {
		return &cri.StopContainerResponse{}, nil
	}
	if err == nil {
		timeout := max(r.Timeout, 0)
		err = s.stop(ctx, c, time.Duration(min(timeout, 1<<31))*time.Second)
	}
	if err != nil {
		return nil, fail("StopContainer", err)
	}
	return &cri.StopContainerResponse{}, nil
}

// killWait is how long a killed process may take to be reported as gone.
const killWait = 10 * time.Second

// stop ends a container: its own signal, the grace period, then SIGKILL to all
// of it. It never waits for more than ctx, grace and killWait together.
func (s *Server) stop(ctx context.Context, c *store.Container, grace time.Duration) error {
	gone := s.exits.gone(c.ID)
	if now, err := s.store.Container(c.ID); err != nil || now.State == store.Exited {
		s.exits.wake(c.ID)
		return nil
	} else if now.State == store.Running && grace > 0 {
		sig := c.StopSignal
		if sig == 0 {
			sig = 15
		}
		if err := s.helper.CtrSignal(ctx, c.ID, sig, false); err != nil && !isHelper(err, wire.NotFound) {
			return err
		}
		t := time.NewTimer(grace)
		defer t.Stop()
		select {
		case <-gone:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
	if err := s.helper.CtrSignal(ctx, c.ID, 9, true); err != nil {
		if !isHelper(err, wire.NotFound) {
			return err
		}
		s.setExited(c.ID, time.Now().UnixNano(), 255, "Unknown", "the container is unknown to the privileged side")
		return nil
	}
	t := time.NewTimer(killWait)
	defer t.Stop()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
	}
	return s.stopLost(ctx, c.ID)
}

// stopLost looks whether a container whose exit was never reported is gone.
func (s *Server) stopLost(ctx context.Context, id string) error {
	entries, err := s.helper.List(ctx)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Handle == id && e.State != wire.StateStopped {
			return status.Errorf(codes.DeadlineExceeded, "container %s was killed and does not end: it waits in the kernel", id)
		}
	}
	s.setExited(id, time.Now().UnixNano(), 255, "Unknown", "the exit status was lost")
	return nil
}

// RemoveContainer removes a container, killing it first where it runs.
func (s *Server) RemoveContainer(ctx context.Context, r *cri.RemoveContainerRequest) (*cri.RemoveContainerResponse, error) {
	c, err := s.store.Container(r.ContainerId)
	if errors.Is(err, store.ErrNotFound) {
		return &cri.RemoveContainerResponse{}, nil
	}
	if err == nil {
		err = s.remove(ctx, c)
	}
	if err != nil {
		return nil, fail("RemoveContainer", err)
	}
	return &cri.RemoveContainerResponse{}, nil
}

func (s *Server) remove(ctx context.Context, c *store.Container) error {
	if err := s.stop(ctx, c, 0); err != nil {
		return err
	}
	if err := s.helper.CtrDelete(ctx, c.ID); err != nil && !isHelper(err, wire.NotFound) {
		return err
	}
	s.event(c.ID, cri.ContainerEventType_CONTAINER_DELETED_EVENT)
	s.startOnce.Delete(c.ID)
	s.exits.forget(c.ID)
	s.usage.forget(c.ID)
	s.rates.forget(c.ID)
	s.store.Remove(c.ID)
	return nil
}

// UpdateContainerResources changes limits. It is decided at the boundary.
func (s *Server) UpdateContainerResources(ctx context.Context, r *cri.UpdateContainerResourcesRequest) (*cri.UpdateContainerResourcesResponse, error) {
	const method = "UpdateContainerResources"
	c, err := s.store.Container(r.ContainerId)
	if err != nil {
		return nil, fail(method, err)
	}
	if r.Windows != nil {
		return nil, invalid("windows: this is a Linux runtime")
	}
	if c.State == store.Exited {
		return nil, status.Errorf(codes.FailedPrecondition, "container %s has exited", c.ID)
	}
	res, err := container.Resources("linux", r.Linux)
	if err != nil {
		return nil, badPlan(method, err)
	}
	res = mergeResources(c.Resources, res)
	if err := s.helper.CtrUpdate(ctx, c.ID, res); err != nil {
		return nil, fail(method, err)
	}
	if _, err := s.store.UpdateContainer(c.ID, func(c *store.Container) bool { c.Resources = &res; return true }); err != nil {
		s.log.Error("storing new limits", "container", c.ID, "error", err)
	}
	return &cri.UpdateContainerResourcesResponse{}, nil
}

// ReopenContainerLog follows a rotation. It is decided at the boundary.
func (s *Server) ReopenContainerLog(ctx context.Context, r *cri.ReopenContainerLogRequest) (*cri.ReopenContainerLogResponse, error) {
	const method = "ReopenContainerLog"
	c, err := s.store.Container(r.ContainerId)
	if err != nil {
		return nil, fail(method, err)
	}
	if c.State != store.Running {
		return nil, status.Errorf(codes.FailedPrecondition, "container %s is not running", c.ID)
	}
	if err := s.helper.LogReopen(ctx, c.ID); err != nil {
		return nil, fail(method, err)
	}
	return &cri.ReopenContainerLogResponse{}, nil
}
