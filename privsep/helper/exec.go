package helper

import (
	"time"

	"github.com/postern-cri/postern/privsep/gate"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/wire"
)

func ctrExec(r *request, q *wire.CtrExecRequest) (wire.Message, error) {
	p, err := plan.DecodeExec(r.plan)
	if err != nil {
		return nil, err
	}
	claims, err := plan.DecodeClaims(r.claims)
	if err != nil {
		return nil, err
	}
	id, fds, err := r.h.exec(q.Container, &p, &claims, r.plan)
	if err != nil {
		return &wire.CtrExecAnswer{Answer: failure(err)}, nil
	}
	r.out = fds
	return &wire.CtrExecAnswer{Exec: id}, nil
}

func (h *Helper) exec(ctrID string, p *plan.ExecPlan, claims *plan.Claims, b []byte) (string, []int, error) {
	c, err := h.findCtr(ctrID)
	if err != nil {
		return "", nil, err
	}
	// What is decided about the exec is decided under the container's lock; the
	// launch itself is not, so that execs run side by side. A container that goes
	// meanwhile makes the launch fail.
	j, err := h.judgeExec(c, p, claims, b)
	c.op.Unlock()
	if err != nil {
		return "", nil, err
	}
	id := newHandle()
	proc, fds, err := h.Kernel.Exec(ctrID, id, p)
	j.done(err)
	if err != nil {
		return "", nil, err
	}
	h.mu.Lock()
	h.execs[id] = &exec{id: id, ctr: ctrID, proc: proc}
	h.mu.Unlock()
	return id, fds, nil
}

func (h *Helper) judgeExec(c *ctr, p *plan.ExecPlan, claims *plan.Claims, b []byte) (*judged, error) {
	method := "Exec"
	if p.Sync {
		method = "ExecSync"
	}
	s := subject{method: method, class: gate.ClassExec, pod: c.Pod, ctr: c.ID, claims: &c.claims, planSHA256: sum(b), image: c.plan.Image}
	with := c.claims
	with.RequestID, with.CallerUID, with.CallerPID = claims.RequestID, claims.CallerUID, claims.CallerPID
	s.claims = &with
	if h.ctrState(c) != wire.StateRunning {
		return nil, Exists("the container does not run")
	}
	sections := []gate.Section{{Kind: gate.SectionPlan, Data: c.Plan}, {Kind: gate.SectionExecPlan, Data: b}, {Kind: gate.SectionClaims, Data: c.Claims}}
	if pod, ok := h.podOf(c); ok {
		sections = append(sections, gate.Section{Kind: gate.SectionPodPlan, Data: pod.Plan})
	}
	return h.judge(s, h.Ceiling.CheckExec(&c.plan, p), sections...)
}

// execKept is how long a finished exec can still be listed and its exit asked
// for: as long as init keeps the exit (package keeper).
const execKept = 10 * time.Minute

// pruneExecs forgets execs that ended long ago.
func (h *Helper) pruneExecs() {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	for id, x := range h.execs {
		switch {
		case !x.ended.IsZero() && now.Sub(x.ended) > execKept:
			delete(h.execs, id)
			h.Kernel.Forget(id)
		case x.ended.IsZero() && !h.Kernel.Alive(x.proc):
			x.ended = now
		}
	}
}
