package cri

import (
	"context"
	"fmt"

	"github.com/postern-cri/postern/policy/facts"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/runtime/container"
	"github.com/postern-cri/postern/runtime/store"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// podResources translates what the kubelet says of a pod as a whole; nil is nothing
// said.
func podResources(field string, overhead, resources *cri.LinuxContainerResources) (o, r *plan.Resources, err error) {
	for _, f := range []struct {
		name string
		in   *cri.LinuxContainerResources
		out  **plan.Resources
	}{{"overhead", overhead, &o}, {"resources", resources, &r}} {
		if f.in == nil {
			continue
		}
		p, err := container.Resources(field+f.name, f.in)
		if err != nil {
			return nil, nil, err
		}
		if _, err := plan.EncodeResources(p); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", field+f.name, err)
		}
		*f.out = &p
	}
	return o, r, nil
}

// UpdatePodSandboxResources takes note of a resized pod. The kubelet has changed the
// pod's cgroup, which is its own, before it calls; what is left to do is to have
// policy judge the new size, and to remember it: PodSandboxStatus shows it.
func (s *Server) UpdatePodSandboxResources(ctx context.Context, r *cri.UpdatePodSandboxResourcesRequest) (*cri.UpdatePodSandboxResourcesResponse, error) {
	const method = "UpdatePodSandboxResources"
	overhead, resources, err := podResources("", r.Overhead, r.Resources)
	if err != nil {
		return nil, badPlan(method, err)
	}
	f := facts.Facts{PodResources: &facts.PodResources{Overhead: overhead, Resources: resources}}
	p, err := s.store.Pod(r.PodSandboxId)
	if err == nil {
		f.Pod = podFacts(p)
	}
	done, aerr := s.ask(ctx, method, f)
	if aerr != nil {
		return nil, aerr
	}
	if err == nil && p.State != store.Running {
		err = status.Errorf(codes.FailedPrecondition, "pod_sandbox_id: pod %s is not ready: it was stopped; run another", p.ID)
	}
	if err == nil {
		_, err = s.store.UpdatePod(p.ID, func(p *store.Pod) bool {
			p.Overhead, p.Resources = merged(p.Overhead, overhead), merged(p.Resources, resources)
			return true
		})
	}
	if err = done(fail(method, err)); err != nil {
		return nil, err
	}
	return &cri.UpdatePodSandboxResourcesResponse{}, nil
}

// merged puts an update over what holds.
func merged(old, n *plan.Resources) *plan.Resources {
	if n == nil {
		return old
	}
	r := mergeResources(old, *n)
	return &r
}
