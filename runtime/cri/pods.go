package cri

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/postern-cri/postern/policy/facts"
	"github.com/postern-cri/postern/privsep/ceiling"
	"github.com/postern-cri/postern/privsep/gate"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/wire"
	"github.com/postern-cri/postern/runtime/sandbox"
	"github.com/postern-cri/postern/runtime/store"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// createLimit bounds a creation whose caller went away; podLimit that of a pod, for
// which a kubelet waits four minutes, and whose network plugins may take their time
// twice where they fail.
const (
	createLimit = 2 * time.Minute
	podLimit    = 200 * time.Second
)

// RunPodSandbox makes a pod. It is decided at the boundary.
func (s *Server) RunPodSandbox(ctx context.Context, r *cri.RunPodSandboxRequest) (*cri.RunPodSandboxResponse, error) {
	const method = "RunPodSandbox"
	if err := s.checkHandler(r.RuntimeHandler); err != nil {
		return nil, err
	}
	p, err := sandbox.Plan(r.Config, r.RuntimeHandler, s.places)
	if err != nil {
		m := r.GetConfig().GetMetadata()
		return nil, s.outside(ctx, method, facts.Facts{Pod: &facts.Pod{
			Name: m.GetName(), Namespace: m.GetNamespace(), UID: m.GetUid(), Attempt: m.GetAttempt()}}, err)
	}
	overhead, resources, err := podResources("linux.", r.Config.GetLinux().GetOverhead(), r.Config.GetLinux().GetResources())
	if err != nil {
		return nil, badPlan(method, err)
	}
	defer s.autoUserNS(&p)()
	s.places.FitPod(&p)
	if _, err := plan.EncodePod(p); err != nil {
		return nil, badPlan(method, err)
	}
	c, m := r.Config, r.Config.Metadata
	pod := &store.Pod{
		Name: m.Name, Namespace: m.Namespace, UID: m.Uid, Attempt: m.Attempt, State: store.Running,
		Hostname: p.Hostname, LogDir: c.LogDirectory, Handler: r.RuntimeHandler, Labels: c.Labels, Annotations: c.Annotations,
		Network: p.Network, PID: p.PID, IPC: p.IPC, UserNS: p.UserNS, UIDs: p.UIDs, GIDs: p.GIDs,
		Privileged: p.Privileged, Request: digest(r), Overhead: overhead, Resources: resources,
	}
	claims := s.claims(ctx, method)
	claimPod(&claims, pod)
	if _, err := plan.EncodeClaims(claims); err != nil {
		return nil, badPlan(method, err)
	}
	taken := func() error {
		return status.Errorf(codes.AlreadyExists, "metadata: a pod %s/%s (uid %s, attempt %d) exists already or is being made by another request: remove it, or count metadata.attempt up", m.Namespace, m.Name, m.Uid, m.Attempt)
	}
	id, err := s.store.Once(ctx, pod.Key(), pod.Request,
		func(id string) (string, error) {
			if old, err := s.store.Pod(id); err == nil && old.State == store.Running && old.Request == pod.Request {
				return id, nil // the answer to the first request was lost
			}
			return "", taken()
		}, taken,
		func(ctx context.Context) (string, error) {
			ctx, cancel := context.WithTimeout(ctx, podLimit)
			defer cancel()
			defer s.creating.begin()()
			a, err := s.helper.PodCreate(ctx, p, claims)
			if err != nil {
				s.doubt(err)
				return "", err
			}
			pod.ID, pod.IPs, pod.Cgroup, pod.Created = a.Pod, a.IPs, a.Cgroup, time.Now().UnixNano()
			if err := s.store.AddPod(pod); err != nil {
				_, derr := s.helper.PodDelete(ctx, a.Pod)
				if derr != nil {
					s.seekOrphans()
				}
				return "", errors.Join(err, derr)
			}
			s.log.Info("pod", "id", pod.ID, "namespace", pod.Namespace, "name", pod.Name)
			s.podEvent(pod.ID, cri.ContainerEventType_CONTAINER_CREATED_EVENT)
			s.podEvent(pod.ID, cri.ContainerEventType_CONTAINER_STARTED_EVENT)
			return pod.ID, nil
		})
	if err != nil {
		return nil, fail(method, err)
	}
	return &cri.RunPodSandboxResponse{PodSandboxId: id}, nil
}

const unknownHandler = `runtime_handler: unknown handler %q: use "", or give it a [[handler]] in ceiling.toml`

func (s *Server) checkHandler(name string) error {
	if !s.hasHandler(name) {
		return status.Errorf(codes.NotFound, unknownHandler, clip(name, 256))
	}
	return nil
}

// hasHandler says whether a runtime handler is one of this node's: "" is the
// built-in runtime; the ceiling names the others, its own and those of OCI runtimes.
func (s *Server) hasHandler(name string) bool {
	return name == "" || slices.Contains(s.handlers, name) || slices.ContainsFunc(s.runtimes, func(h ceiling.Handler) bool { return h.Name == name })
}

// badPlan is the error for a request that no plan can say, or whose place on the
// host has no name in the ceiling.
func badPlan(method string, err error) error {
	var out *Outside
	if errors.As(err, &out) {
		return status.Errorf(codes.PermissionDenied, "ceiling denied %s: %s %s", method, out.Rule, clip(err.Error(), maxErrorText))
	}
	var st interface{ GRPCStatus() *status.Status }
	if errors.As(err, &st) {
		return err
	}
	return invalid("%s: %s", method, clip(err.Error(), maxErrorText))
}

// Outside is a path that lies beneath no root of the ceiling, and the rule that
// says so. A plan has no words for it, so the privileged side never hears of it.
type Outside struct{ Rule, Text string }

func (e *Outside) Error() string { return e.Text }

// outside is badPlan where the request must not be missing among the refusals of
// the audit log: nobody but this process will have seen it.
func (s *Server) outside(ctx context.Context, method string, f facts.Facts, err error) error {
	var out *Outside
	if errors.As(err, &out) {
		who := callerOf(ctx)
		f.RequestID, f.Caller = requestID(ctx), &facts.Caller{UID: who.UID, PID: who.PID}
		d := gate.Decision{Rule: out.Rule, Message: clip(err.Error(), maxErrorText)}
		s.record(ctx, gate.StageDecision, method, rules[method].class, f, d, nil, 0, false)
	}
	return badPlan(method, err)
}

// StopPodSandbox kills what runs in the pod and takes its network down. It
// succeeds for a pod that is stopped or gone, and while the CNI plugin is broken.
func (s *Server) StopPodSandbox(ctx context.Context, r *cri.StopPodSandboxRequest) (*cri.StopPodSandboxResponse, error) {
	p, err := s.store.Pod(r.PodSandboxId)
	if errors.Is(err, store.ErrNotFound) {
		return &cri.StopPodSandboxResponse{}, nil
	}
	if err == nil {
		err = s.stopPod(ctx, p)
	}
	if err != nil {
		return nil, fail("StopPodSandbox", err)
	}
	return &cri.StopPodSandboxResponse{}, nil
}

func (s *Server) stopPod(ctx context.Context, p *store.Pod) error {
	var errs []error
	for _, c := range s.store.Containers(p.ID) {
		errs = append(errs, s.stop(ctx, c, 0))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	deferred, err := s.helper.PodDelete(ctx, p.ID)
	if err != nil && !isHelper(err, wire.NotFound) {
		return err
	}
	if deferred {
		s.log.Warn("part of the pod's teardown is put off", "pod", p.ID)
	}
	stopped := false
	if _, err := s.store.UpdatePod(p.ID, func(p *store.Pod) bool {
		stopped = p.State != store.Exited
		p.State = store.Exited
		return stopped
	}); err != nil && !errors.Is(err, store.ErrNotFound) {
		s.log.Error("storing that a pod stopped", "pod", p.ID, "error", err)
	}
	if stopped {
		s.podEvent(p.ID, cri.ContainerEventType_CONTAINER_STOPPED_EVENT)
	}
	return nil
}

// RemovePodSandbox removes the pod and every container of it.
func (s *Server) RemovePodSandbox(ctx context.Context, r *cri.RemovePodSandboxRequest) (*cri.RemovePodSandboxResponse, error) {
	const method = "RemovePodSandbox"
	p, err := s.store.Pod(r.PodSandboxId)
	f := facts.Facts{}
	if err == nil {
		f.Pod = podFacts(p)
	}
	done, aerr := s.ask(ctx, method, f)
	if aerr != nil {
		return nil, aerr
	}
	switch {
	case errors.Is(err, store.ErrNotFound):
		err = nil // gone already
	case err == nil:
		err = s.removePod(ctx, p)
	}
	if err = done(fail(method, err)); err != nil {
		return nil, err
	}
	return &cri.RemovePodSandboxResponse{}, nil
}

func (s *Server) removePod(ctx context.Context, p *store.Pod) error {
	if p.State == store.Running {
		if err := s.stopPod(ctx, p); err != nil {
			return err
		}
	}
	for _, c := range s.store.Containers(p.ID) {
		if err := s.remove(ctx, c); err != nil {
			return err
		}
	}
	// Stopping has deleted it; this is for a pod that was put off.
	if _, err := s.helper.PodDelete(ctx, p.ID); err != nil && !isHelper(err, wire.NotFound) {
		return err
	}
	s.podEvent(p.ID, cri.ContainerEventType_CONTAINER_DELETED_EVENT)
	s.rates.forget(p.ID)
	s.usage.forget(p.ID)
	s.store.Remove(p.ID)
	return nil
}

// PodSandboxStatus describes one pod.
func (s *Server) PodSandboxStatus(ctx context.Context, r *cri.PodSandboxStatusRequest) (*cri.PodSandboxStatusResponse, error) {
	if err := s.askRead(ctx, "PodSandboxStatus"); err != nil {
		return nil, err
	}
	p, err := s.store.Pod(r.PodSandboxId)
	if err != nil {
		return nil, fail("PodSandboxStatus", err)
	}
	// No timestamp: with one, a kubelet with the gate EventedPLEG (seen: 1.37.2) takes
	// the containers from here, counts none of them as active, and runs init
	// containers for ever. Without, it asks for each, as it does without the gate.
	a := &cri.PodSandboxStatusResponse{Status: podStatus(p)}
	for _, c := range s.store.Containers(p.ID) {
		a.ContainersStatuses = append(a.ContainersStatuses, s.containerStatus(c))
	}
	if r.Verbose {
		a.Info = info(map[string]any{
			"cgroup": p.Cgroup, "hostname": p.Hostname, "runtimeHandler": p.Handler, "overhead": p.Overhead, "resources": p.Resources,
		})
	}
	return a, nil
}
