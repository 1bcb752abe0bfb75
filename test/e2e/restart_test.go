package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestRestarts kills every daemon while containers run: they go on, no log line
// is lost or doubled, exit codes arrive, nothing leaks, and the killed process
// is back.
func TestRestarts(t *testing.T) {
	tr := startTree(t, "baseline", "")
	tr.pull()
	// One container that counts without end, and one that exits when it is told.
	_, counter := tr.run("counter", "i=0; while :; do i=$((i+1)); echo line $i; [ $((i % 50)) = 0 ] && sleep 0.01; done")
	for _, d := range []struct {
		name     string
		onDemand bool
	}{
		{"posternd", false}, {"postern-policyd", false}, {"postern-logd", false}, {"postern-auditd", false},
		{"postern-helper", false}, {"postern-streamd", true}, {"postern-imaged", true},
	} {
		t.Run(d.name, func(t *testing.T) {
			_, ends := tr.run("ends-"+d.name, "while [ ! -e /tmp/go ]; do sleep 0.05; done; exit 23")
			if d.name == "postern-streamd" {
				if _, err := tr.rt.Exec(ctx(t), &cri.ExecRequest{ContainerId: ends, Cmd: []string{"true"}, Stdout: true}); err != nil {
					t.Fatalf("Exec: %v", err)
				}
			}
			if d.name == "postern-imaged" {
				if _, err := tr.img.ImageFsInfo(ctx(t), &cri.ImageFsInfoRequest{}); err != nil {
					t.Fatalf("ImageFsInfo: %v", err)
				}
			}
			old := tr.processes()[d.name]
			if len(old) == 0 && !d.onDemand {
				t.Fatalf("%s does not run", d.name)
			}
			for _, pid := range old {
				syscall.Kill(pid, syscall.SIGKILL)
			}
			killed := time.Now()
			if !d.onDemand {
				tr.eventually(patience, d.name+" is back", func() error {
					now := tr.processes()[d.name]
					if len(now) == 0 || now[0] == old[0] {
						return fmt.Errorf("pids %v", now)
					}
					return nil
				})
				t.Logf("back after %v", time.Since(killed).Round(time.Millisecond))
			}
			tr.answers(5 * time.Second)
			if st := tr.status(counter); st.State != cri.ContainerState_CONTAINER_RUNNING {
				t.Errorf("the counter's state is %v", st.State)
			}
			tr.letGo(ends)
			tr.exited(ends, 23)
			tr.pull()
			if _, err := tr.rt.Exec(ctx(t), &cri.ExecRequest{ContainerId: counter, Cmd: []string{"true"}, Stdout: true}); err != nil {
				t.Errorf("Exec: %v", err)
			}
		})
	}
	if _, err := tr.rt.StopContainer(ctx(t), &cri.StopContainerRequest{ContainerId: counter}); err != nil {
		t.Fatal(err)
	}
	tr.exited(counter, 137)
	var lines []string
	tr.eventually(5*time.Second, "the log is drained", func() error {
		n := len(lines)
		if lines = tr.logLines("counter", "c"); len(lines) == 0 || len(lines) != n {
			return fmt.Errorf("%d lines", len(lines))
		}
		return nil
	})
	want := 1
	for i, l := range lines {
		rest, ok := strings.CutPrefix(l, "stdout F line ")
		if !ok {
			if i == len(lines)-1 { // killed in the middle of a line
				continue
			}
			t.Fatalf("log line %d is %q", i, l)
		}
		if n, err := strconv.Atoi(rest); err != nil || n != want {
			t.Fatalf("log line %d is %q, want number %d: a line was lost or doubled", i, l, want)
		}
		want++
	}
	t.Logf("%d lines, none lost, none doubled", want-1)
}

// TestStopAndUpAgain: containers survive a stop of the whole tree, as configured,
// and are found again.
func TestStopAndUpAgain(t *testing.T) {
	tr := startTree(t, "baseline", "")
	tr.pull()
	_, ctr := tr.run("survivor", "while [ ! -e /tmp/go ]; do sleep 0.05; done; exit 5")
	tr.stop()
	tr.up("baseline")
	if st := tr.status(ctr); st.State != cri.ContainerState_CONTAINER_RUNNING {
		t.Fatalf("state after the restart: %v", st.State)
	}
	if out, code := tr.exec(ctr, "true"); code != 0 {
		t.Fatalf("exec after the restart: %d %s", code, out)
	}
	tr.letGo(ctr)
	tr.exited(ctr, 5)
}
