package cri

import (
	"context"

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

// UpdateRuntimeConfig is accepted: the pod CIDR, which is all it can say,
// belongs to the CNI configuration, which only the operator writes.
func (s *Server) UpdateRuntimeConfig(ctx context.Context, _ *cri.UpdateRuntimeConfigRequest) (*cri.UpdateRuntimeConfigResponse, error) {
	done, err := s.ask(ctx, "UpdateRuntimeConfig", facts.Facts{})
	if err != nil {
		return nil, err
	}
	return &cri.UpdateRuntimeConfigResponse{}, done(nil)
}
