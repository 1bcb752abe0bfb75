package launch_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"testing"
	"time"

	"github.com/postern-cri/postern/privsep/netns"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/spec"
	"golang.org/x/sys/unix"
)

// TestTimings prints what each operation costs; nothing is asserted.
func TestTimings(t *testing.T) {
	if os.Getenv("POSTERN_TIMINGS") == "" {
		t.Skip("set POSTERN_TIMINGS=1 to print timings")
	}
	for _, filter := range []plan.ProfileKind{plan.ProfileRuntimeDefault, plan.ProfileUnconfined} {
		m := newMachine(t)
		pod := filepath.Join(m.dir, "pod")
		os.Mkdir(pod, 0o700)
		if err := netns.Create(pod, netns.Options{Net: true, IPC: true, Hostname: "box"}); err != nil {
			t.Fatal(err)
		}
		defer netns.Remove(pod)
		times := map[string][]time.Duration{}
		timed := func(what string, f func()) {
			t0 := time.Now()
			f()
			times[what] = append(times[what], time.Since(t0))
		}
		null, _ := os.OpenFile("/dev/null", os.O_RDWR, 0)
		defer null.Close()
		stdio := []*os.File{null, null, null}
		for range 30 {
			l := m.request("sleep", "60")
			l.Plan.Seccomp.Kind = filter
			l.Namespaces = spec.Namespaces{Net: pod + "/net", IPC: pod + "/ipc", UTS: pod + "/uts"}
			var r spec.Result
			timed("create", func() { r = m.do(l, stdio, nil) })
			if r.Error != "" {
				t.Fatal(r.Error)
			}
			timed("start", func() { m.start(l) })
			timed("exec", func() {
				e := m.do(&spec.Launch{Op: spec.Exec, ID: l.ID, StateDir: l.StateDir, Exec: &plan.ExecPlan{Args: []string{"true"}}}, stdio, nil)
				m.reap(e.PID)
			})
			unix.Kill(r.PID, unix.SIGKILL)
			m.reap(r.PID)
			timed("delete", func() { m.remove(l) })
		}
		for _, what := range []string{"create", "start", "exec", "delete"} {
			d := times[what]
			sort.Slice(d, func(i, j int) bool { return d[i] < d[j] })
			fmt.Printf("filter %d: %-7s p50 %6.2f ms  min %6.2f  p25 %6.2f  p90 %6.2f\n", filter, what, ms(d[len(d)/2]), ms(d[0]), ms(d[len(d)/4]), ms(d[len(d)*9/10]))
		}
	}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
