package cri

import (
	"context"
	"os"

	"github.com/postern-cri/postern/privsep/gate"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/wire"
	"github.com/postern-cri/postern/runtime/container"
	"github.com/postern-cri/postern/runtime/sandbox"
)

// Helper is the privileged side: one method per verb of the boundary.
type Helper interface {
	PodCreate(context.Context, plan.PodPlan, plan.Claims) (*wire.PodCreateAnswer, error)
	PodDelete(ctx context.Context, pod string) (deferred bool, err error)
	PodSocket(ctx context.Context, pod string, kind wire.SocketKind) (*os.File, error)
	CtrCreate(ctx context.Context, pod string, p plan.Plan, c plan.Claims) (*wire.CtrCreateAnswer, error)
	CtrStart(ctx context.Context, id string) error
	CtrSignal(ctx context.Context, target string, signal uint8, all bool) error
	CtrExec(ctx context.Context, id string, p plan.ExecPlan, c plan.Claims) (*wire.CtrExecAnswer, []*os.File, error)
	CtrUpdate(ctx context.Context, id string, r plan.Resources) error
	CtrDelete(ctx context.Context, id string) error
	CtrUsage(ctx context.Context, id string) (*wire.CtrUsageAnswer, error)
	LogReopen(ctx context.Context, id string) error
	List(ctx context.Context) ([]wire.Entry, error)
	Hello(ctx context.Context) (*wire.HelloAnswer, error)
}

// Policy decides.
type Policy interface {
	Decide(context.Context, gate.Question) (gate.Decision, error)
}

// Audit makes records durable.
type Audit interface {
	Commit(ctx context.Context, stage gate.Stage, payload []byte, async bool) (uint64, error)
}

// Places names places on the host in the words of the ceiling.
type Places interface {
	sandbox.Locator
	container.Locator
	// FitPod and FitContainer give a plan the narrowest class that allows it, and
	// report whether there is one.
	FitPod(*plan.PodPlan) bool
	FitContainer(*plan.PodPlan, *plan.Plan) bool
	// AutoUserNS is the range of host ids for pods that do not ask for a user
	// namespace; 0 as the first is none.
	AutoUserNS() (first, last uint32)
}
