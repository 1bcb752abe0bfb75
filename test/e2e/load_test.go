package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestLongLog: every one of 200,000 lines is in the log, once and in order.
func TestLongLog(t *testing.T) {
	tr := startTree(t, "baseline", "")
	tr.pull()
	const lines = 200000
	_, ctr := tr.run("long", fmt.Sprintf("seq %d", lines))
	tr.eventually(60*time.Second, "the container ends", func() error {
		if s := tr.status(ctr); s.State != cri.ContainerState_CONTAINER_EXITED || s.ExitCode != 0 {
			return fmt.Errorf("%v, exit code %d", s.State, s.ExitCode)
		}
		return nil
	})
	tr.eventually(10*time.Second, "the log is written", func() error {
		if n := len(tr.logLines("long", "c")); n < lines {
			return fmt.Errorf("%d lines", n)
		}
		return nil
	})
	for i, l := range tr.logLines("long", "c") {
		if want := fmt.Sprintf("stdout F %d", i+1); l != want {
			t.Fatalf("line %d is %q, want %q", i, l, want)
		}
	}
}

// TestExecOutputLimit: of a flood, 16 MiB are kept; the command is not held up.
func TestExecOutputLimit(t *testing.T) {
	tr := startTree(t, "baseline", "")
	tr.pull()
	_, ctr := tr.run("flood", "exec sleep 1000")
	r, err := tr.rt.ExecSync(ctx(t), &cri.ExecSyncRequest{ContainerId: ctr, Cmd: []string{"sh", "-c", "head -c 40000000 /dev/zero; echo end >&2; exit 3"}, Timeout: 60 * int64(slow)})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Stdout) != 16<<20 || string(r.Stderr) != "end\n" || r.ExitCode != 3 {
		t.Errorf("%d bytes, stderr %q, exit code %d; want %d bytes, \"end\", 3", len(r.Stdout), r.Stderr, r.ExitCode, 16<<20)
	}
}

// TestDeafContainer ignores SIGTERM: the grace period is kept, then it is killed.
func TestDeafContainer(t *testing.T) {
	tr := startTree(t, "baseline", "")
	tr.pull()
	_, ctr := tr.run("deaf", "trap 'echo heard' TERM; echo ready; while :; do sleep 0.1; done")
	tr.eventually(5*time.Second, "it is ready", func() error {
		if l := tr.logLines("deaf", "c"); len(l) == 0 {
			return fmt.Errorf("no log")
		}
		return nil
	})
	start := time.Now()
	if _, err := tr.rt.StopContainer(ctx(t), &cri.StopContainerRequest{ContainerId: ctr, Timeout: 2}); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took < 2*time.Second || took > limit(patience) {
		t.Errorf("StopContainer with 2 s took %v", took)
	}
	tr.exited(ctr, 137)
	if l := strings.Join(tr.logLines("deaf", "c"), ","); !strings.Contains(l, "heard") {
		t.Errorf("it was never asked: %s", l)
	}
}

// TestForkBomb stays within its limit and hurts nobody but itself.
func TestForkBomb(t *testing.T) {
	b, err := os.ReadFile("../../profiles/ceiling/baseline.toml")
	if err != nil {
		t.Fatal(err)
	}
	const most = 64
	file := filepath.Join(t.TempDir(), "ceiling.toml")
	text := strings.Replace(string(b), "max_pids = 4096", fmt.Sprintf("max_pids = %d", most), 1)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil || text == string(b) {
		t.Fatalf("lowering max_pids: %v", err)
	}
	tr := startTree(t, "baseline", fmt.Sprintf("[ceiling]\nfile = %q\n", file))
	tr.pull()
	_, other := tr.run("other", "exec sleep 1000")
	_, bomb := tr.run("bomb", "bomb() { while :; do sleep 1000 & done; }; while :; do bomb 2>/dev/null; done & exec sleep 1000")
	deadline := time.Now().Add(limit(patience))
	seen := 0
	for time.Now().Before(deadline) && seen < most {
		seen = max(seen, processesOf(bomb))
		time.Sleep(50 * time.Millisecond)
	}
	if seen = max(seen, processesOf(bomb)); seen < most/2 || seen > most {
		t.Errorf("the bomb has %d processes, want it to reach its limit of %d and no more", seen, most)
	}
	if out, code := tr.exec(other, "echo", "alive"); code != 0 || out != "alive\n" {
		t.Errorf("another container: %d %q", code, out)
	}
	if _, err := tr.rt.StopContainer(ctx(t), &cri.StopContainerRequest{ContainerId: bomb}); err != nil {
		t.Errorf("StopContainer: %v", err)
	}
	tr.exited(bomb, 137)
	if n := processesOf(bomb); n != 0 {
		t.Errorf("%d processes are left of it", n)
	}
}

// processesOf counts the processes in the cgroup of a container.
func processesOf(ctr string) int {
	n := 0
	files, _ := filepath.Glob("/proc/[0-9]*/cgroup")
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), ctr) {
			n++
		}
	}
	return n
}

// TestOOM: a container that the kernel killed for its memory says so.
func TestOOM(t *testing.T) {
	tr := startTree(t, "baseline", "")
	tr.pull()
	p := tr.podConfig("oom")
	pod := tr.runPod(p)
	c := tr.ctrConfig("c", "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done")
	c.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 32 << 20, MemorySwapLimitInBytes: 32 << 20}
	ctr := tr.create(pod, p, c)
	tr.start(ctr)
	tr.exited(ctr, 137)
	if s := tr.status(ctr); s.Reason != "OOMKilled" {
		t.Errorf("reason %q, want OOMKilled", s.Reason)
	}
	if mine := tr.handles(); !mine(ctr) || !mine(pod) {
		t.Error("the audit log does not know this pod and container: leaks would not be seen")
	}
}
