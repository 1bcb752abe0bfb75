package machine

import (
	"testing"
	"time"

	"github.com/postern-cri/postern/privsep/helper"
	"github.com/postern-cri/postern/privsep/plan"
)

// TestTimings prints how long each operation takes; it asserts nothing.
func TestTimings(t *testing.T) {
	r := newRig(t)
	sum := map[string]time.Duration{}
	took := func(name string, f func()) {
		start := time.Now()
		f()
		sum[name] += time.Since(start)
	}
	const rounds = 20
	for range rounds {
		var in helper.PodIn
		var out helper.PodOut
		var ci helper.CtrIn
		var co helper.CtrOut
		took("pod create", func() { in, out = r.pod(1, plan.NamespaceContainer) })
		took("container create", func() { ci, co = r.ctr(2, in, out, "exec sleep 1000", nil) })
		took("container start", func() { r.must(r.m.CtrStart(ci.ID, co.Proc)) })
		var x helper.Proc
		took("exec", func() {
			proc, fds, err := r.m.Exec(ci.ID, id(3), &plan.ExecPlan{Args: []string{"busybox", "sleep", "0.05"}})
			r.must(err)
			if x = proc; len(fds) != 0 {
				t.Error("fds without streams")
			}
		})
		r.gone(x)
		took("kill", func() { r.must(r.m.KillAll(co.Cgroup)); r.gone(co.Proc) })
		took("container delete", func() { r.must(r.m.CtrDelete(ci.ID, co)) })
		took("pod delete", func() {
			r.must(r.m.PodDelete(in, out))
			r.must(r.m.NetworkDelete(helper.PodIn{ID: in.ID, Plan: in.Plan}))
		})
	}
	for name, d := range sum {
		t.Logf("%-18s %v", name, d/rounds)
	}
}
