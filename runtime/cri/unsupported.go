package cri

import (
	"context"
	"net/netip"
	"strings"

	"github.com/postern-cri/postern/policy/facts"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const noCheckpoint = "checkpoints are not supported: restoring one means that root parses an archive that a container's owner can write, and three peers' escapes began there"

func (s *Server) unsupported(ctx context.Context, method string, f facts.Facts, why string) error {
	done, err := s.ask(ctx, method, f)
	if err != nil {
		return err
	}
	return done(status.Errorf(codes.Unimplemented, "%s: %s", method, why))
}

// CheckpointContainer is refused.
func (s *Server) CheckpointContainer(ctx context.Context, r *cri.CheckpointContainerRequest) (*cri.CheckpointContainerResponse, error) {
	f := facts.Facts{}
	if c, err := s.store.Container(r.ContainerId); err == nil {
		f.Container = containerFacts(c)
	}
	return nil, s.unsupported(ctx, "CheckpointContainer", f, noCheckpoint)
}

// CheckpointPod is refused.
func (s *Server) CheckpointPod(ctx context.Context, r *cri.CheckpointPodRequest) (*cri.CheckpointPodResponse, error) {
	f := facts.Facts{}
	if p, err := s.store.Pod(r.PodSandboxId); err == nil {
		f.Pod = podFacts(p)
	}
	return nil, s.unsupported(ctx, "CheckpointPod", f, noCheckpoint)
}

// RestorePod is refused.
func (s *Server) RestorePod(ctx context.Context, _ *cri.RestorePodRequest) (*cri.RestorePodResponse, error) {
	return nil, s.unsupported(ctx, "RestorePod", facts.Facts{}, noCheckpoint)
}

// UpdateRuntimeConfig is told the node's pod CIDR, which is all it can say. Which
// addresses pods get stands in the CNI configuration, which only the operator
// writes; what was said here is shown by a verbose Status, to be compared.
func (s *Server) UpdateRuntimeConfig(ctx context.Context, r *cri.UpdateRuntimeConfigRequest) (*cri.UpdateRuntimeConfigResponse, error) {
	done, err := s.ask(ctx, "UpdateRuntimeConfig", facts.Facts{})
	if err != nil {
		return nil, err
	}
	err = s.setPodCIDR(r.GetRuntimeConfig().GetNetworkConfig().GetPodCidr())
	if err = done(err); err != nil {
		return nil, err
	}
	return &cri.UpdateRuntimeConfigResponse{}, nil
}

func (s *Server) setPodCIDR(list string) error {
	if list == "" {
		return nil
	}
	for c := range strings.SplitSeq(list, ",") {
		if _, err := netip.ParsePrefix(c); err != nil {
			return invalid("runtime_config.network_config.pod_cidr: %q is no network", clip(c, 64))
		}
	}
	s.podCIDR.Store(&list)
	return nil
}
