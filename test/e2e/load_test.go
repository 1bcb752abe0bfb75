package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// usage is what one process holds.
type usage struct {
	pid, fds, threads int
	pss               int64
}

func (u usage) String() string {
	return fmt.Sprintf("pid %d: %d fds, %d threads, %.1f MiB", u.pid, u.fds, u.threads, float64(u.pss)/(1<<20))
}

// measure looks at every process that stays for as long as the tree does.
func (tr *tree) measure() map[string]usage {
	out := map[string]usage{}
	for name, pids := range tr.processes() {
		if name == "postern-imaged" || name == "postern-streamd" || name == "postern-launch" || name == "postern-cni" || name == "postern" {
			continue // come and go
		}
		for i, pid := range pids {
			proc := fmt.Sprintf("/proc/%d", pid)
			u := usage{pid: pid}
			fds, _ := os.ReadDir(proc + "/fd")
			tasks, _ := os.ReadDir(proc + "/task")
			u.fds, u.threads = len(fds), len(tasks)
			b, _ := os.ReadFile(proc + "/smaps_rollup")
			for _, l := range strings.Split(string(b), "\n") {
				var kb int64
				if n, _ := fmt.Sscanf(l, "Pss: %d kB", &kb); n == 1 {
					u.pss = kb << 10
				}
			}
			if len(fds) > 0 {
				out[fmt.Sprintf("%s/%d", name, i)] = u
			}
		}
	}
	return out
}

// mounts counts the mounts of this tree that the helper sees.
func (tr *tree) mounts() int {
	n := 0
	for _, pid := range tr.processes()["postern-helper"] {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
		n += strings.Count(string(b), tr.root+"/")
	}
	return n
}

// oneLife makes a pod with a container, uses it, and removes it.
func (tr *tree) oneLife(name string) error {
	c := ctx(tr.t)
	p := tr.podConfig(name)
	pod, err := tr.rt.RunPodSandbox(c, &cri.RunPodSandboxRequest{Config: p})
	if err != nil {
		return fmt.Errorf("RunPodSandbox: %w", err)
	}
	ctr, err := tr.rt.CreateContainer(c, &cri.CreateContainerRequest{PodSandboxId: pod.PodSandboxId, Config: tr.ctrConfig("c", "echo up; exec sleep 1000"), SandboxConfig: p})
	if err != nil {
		return fmt.Errorf("CreateContainer: %w", err)
	}
	if _, err := tr.rt.StartContainer(c, &cri.StartContainerRequest{ContainerId: ctr.ContainerId}); err != nil {
		return fmt.Errorf("StartContainer: %w", err)
	}
	if r, err := tr.rt.ExecSync(c, &cri.ExecSyncRequest{ContainerId: ctr.ContainerId, Cmd: []string{"hostname"}, Timeout: 60 * int64(slow)}); err != nil || strings.TrimSpace(string(r.Stdout)) != name {
		return fmt.Errorf("ExecSync: %v, %w", r, err)
	}
	if _, err := tr.rt.StopContainer(c, &cri.StopContainerRequest{ContainerId: ctr.ContainerId}); err != nil {
		return fmt.Errorf("StopContainer: %w", err)
	}
	if _, err := tr.rt.StopPodSandbox(c, &cri.StopPodSandboxRequest{PodSandboxId: pod.PodSandboxId}); err != nil {
		return fmt.Errorf("StopPodSandbox: %w", err)
	}
	if _, err := tr.rt.RemovePodSandbox(c, &cri.RemovePodSandboxRequest{PodSandboxId: pod.PodSandboxId}); err != nil {
		return fmt.Errorf("RemovePodSandbox: %w", err)
	}
	return nil
}

// TestChurn makes and removes 50 pods, eight at a time, and looks for what is
// left of them.
func TestChurn(t *testing.T) {
	tr := startTree(t, "baseline", "")
	tr.pull()
	lives := func(prefix string, n int) {
		t.Helper()
		var wg sync.WaitGroup
		slots := make(chan struct{}, max(1, 8/slow)) // a crowd on an emulated machine meets every time limit
		for i := range n {
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				if err := tr.oneLife(fmt.Sprintf("%s-%d", prefix, i)); err != nil {
					t.Errorf("pod %s-%d: %v", prefix, i, err)
				}
			})
		}
		wg.Wait()
	}
	lives("warm", 8) // threads and heaps that eight at a time need once
	time.Sleep(limit(time.Second))
	before, mounts := tr.measure(), tr.mounts()
	start := time.Now()
	lives("churn", 50)
	t.Logf("50 pods in %v", time.Since(start).Round(time.Millisecond))

	tr.eventually(30*time.Second, "nothing is left of 50 pods", func() error {
		after := tr.measure()
		for name, b := range before {
			a, ok := after[name]
			switch {
			case !ok || a.pid != b.pid:
				t.Fatalf("%s was started again", name)
			case a.fds > b.fds+16: // a pool of connections may have grown; 50 pods have not stayed
				return fmt.Errorf("%s: fds: before %v, after %v", name, b, a)
			case a.threads > b.threads+8:
				return fmt.Errorf("%s: threads: before %v, after %v", name, b, a)
			case a.pss > b.pss+b.pss/4+2<<20:
				return fmt.Errorf("%s: memory: before %v, after %v", name, b, a)
			}
		}
		if n := tr.mounts(); n != mounts {
			return fmt.Errorf("mounts: before %d, after %d", mounts, n)
		}
		for _, dir := range []string{"run/box/pod", "run/box/ctr", "lib/box/ctr", "lib/box/state/pod", "lib/box/state/ctr"} {
			if left, _ := os.ReadDir(filepath.Join(tr.root, dir)); len(left) > 0 {
				return fmt.Errorf("%s: %d entries, such as %s", dir, len(left), left[0].Name())
			}
		}
		for _, l := range tr.leaks() {
			if strings.HasPrefix(l, "cgroup") || strings.HasPrefix(l, "links") {
				return fmt.Errorf("%s", l)
			}
		}
		return nil
	})
	for name, a := range tr.measure() {
		t.Logf("%-20s before %v; after %v", name, before[name], a)
	}
	if pods, err := tr.rt.ListPodSandbox(ctx(t), &cri.ListPodSandboxRequest{}); err != nil || len(pods.Items) != 0 {
		t.Errorf("pods: %v, %v", pods, err)
	}
}

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
