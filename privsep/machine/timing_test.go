package machine

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

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
		took("exec", func() {
			_, fds, err := r.m.Exec(ci.ID, id(3), &plan.ExecPlan{Args: []string{"busybox", "sleep", "0.05"}})
			r.must(err)
			if len(fds) != 0 {
				t.Error("fds without streams")
			}
		})
		// Unreaped it would keep the container's first process from going.
		r.mu.Lock()
		pid := r.watch[id(3)]
		r.mu.Unlock()
		if _, err := unix.Wait4(pid, nil, 0, nil); err != nil {
			t.Error(err)
		}
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
