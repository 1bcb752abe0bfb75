package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
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

// mounts counts the mounts of this tree that the helper sees: those of pods and
// containers, and those that hold their namespaces.
func (tr *tree) mounts() int {
	n := 0
	for _, pid := range tr.processes()["postern-helper"] {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
		n += strings.Count(string(b), tr.root+"/")
	}
	return n
}

// files lists everything that this tree keeps on the disk, but for its log of all
// that was ever done.
func (tr *tree) files() map[string]bool {
	out := map[string]bool{}
	for _, dir := range []string{tr.root, filepath.Join(filepath.Dir(tr.root), "ipam")} {
		filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err == nil && p != filepath.Join(tr.root, "lib/audit") {
				out[p] = true
				return nil
			}
			return filepath.SkipDir
		})
	}
	return out
}

// goroutines ends a daemon in the way that makes it tell what it was about, and
// counts. Init starts it again.
func (tr *tree) goroutines(daemon string) int {
	tr.t.Helper()
	pids := tr.processes()[daemon]
	if len(pids) != 1 {
		tr.t.Fatalf("%s: pids %v", daemon, pids)
	}
	log := filepath.Join(tr.root, "log", daemon+".log")
	before, err := os.ReadFile(log)
	if err != nil {
		tr.t.Fatal(err)
	}
	if err := syscall.Kill(pids[0], syscall.SIGQUIT); err != nil {
		tr.t.Fatal(err)
	}
	tr.eventually(patience, daemon+" is back", func() error {
		if now := tr.processes()[daemon]; len(now) != 1 || now[0] == pids[0] {
			return fmt.Errorf("pids %v", now)
		}
		return nil
	})
	tr.answers(patience)
	after, err := os.ReadFile(log)
	if err != nil {
		tr.t.Fatal(err)
	}
	n := strings.Count(string(after[len(before):]), "\ngoroutine ")
	if n == 0 {
		tr.t.Errorf("%s does not tell its goroutines: %.500s", daemon, after[len(before):])
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
	// One that cannot be started leaves nothing either (CVE-2022-23471).
	if r, err := tr.rt.ExecSync(c, &cri.ExecSyncRequest{ContainerId: ctr.ContainerId, Cmd: []string{"/nope"}, Timeout: 60 * int64(slow)}); err == nil && r.ExitCode == 0 {
		return fmt.Errorf("ExecSync of a command that is not there: %v", r)
	}
	if _, err := tr.rt.Exec(c, &cri.ExecRequest{ContainerId: ctr.ContainerId, Cmd: []string{"/nope"}, Tty: true, Stdin: true, Stdout: true}); err != nil && !strings.Contains(err.Error(), "too many sessions") {
		return fmt.Errorf("Exec: %w", err) // nobody comes for it, nor for hundreds
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
	return os.RemoveAll(tr.logDir(name)) // as the kubelet does
}

// lives has n pods live, eight at a time.
func (tr *tree) lives(prefix string, n int) {
	tr.t.Helper()
	var wg sync.WaitGroup
	slots := make(chan struct{}, max(1, 8/slow)) // a crowd on an emulated machine meets every time limit
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := tr.oneLife(fmt.Sprintf("%s-%d", prefix, i)); err != nil {
				tr.t.Errorf("pod %s-%d: %v", prefix, i, err)
			}
		})
	}
	wg.Wait()
}

// TestChurn makes and removes pods, eight at a time, and looks for what is left of
// them. POSTERN_CHURN is how many: make test-churn has 1,000, and then no process
// may have grown by a tenth.
func TestChurn(t *testing.T) {
	pods, warm, idle, settle := 50, 8, limit(time.Second), patience
	more := func(b usage) int64 { return b.pss/4 + 2<<20 } // few pods fill no heap
	if v := os.Getenv("POSTERN_CHURN"); v != "" {
		var err error
		if pods, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
		// Go collects an idle heap every two minutes, and gives back what is free then. A heap that
		// was never collected still grows to the size at which it is: 300 pods fill every one.
		warm, idle, settle = 300, 150*time.Second, 15*time.Minute
		more = func(b usage) int64 { return b.pss / 10 }
	}
	tr := startTree(t, "baseline", "")
	tr.pull()
	tr.lives("warm", warm) // threads and heaps that eight at a time need once
	time.Sleep(idle)
	before, mounts, files := tr.measure(), tr.mounts(), tr.files()
	start := time.Now()
	tr.lives("churn", pods)
	t.Logf("%d pods in %v", pods, time.Since(start).Round(time.Millisecond))

	tr.eventually(settle, fmt.Sprintf("nothing is left of %d pods", pods), func() error {
		after, grown := tr.measure(), []error{}
		for name, b := range before {
			a, ok := after[name]
			switch {
			case !ok || a.pid != b.pid:
				t.Fatalf("%s was started again", name)
			case a.fds > b.fds+16: // a pool of connections may have grown; the pods have not stayed
				grown = append(grown, fmt.Errorf("%s: fds: before %v, after %v", name, b, a))
			case a.threads > b.threads+8:
				grown = append(grown, fmt.Errorf("%s: threads: before %v, after %v", name, b, a))
			case a.pss > b.pss+more(b):
				grown = append(grown, fmt.Errorf("%s: memory: before %v, after %v", name, b, a))
			}
		}
		if err := errors.Join(grown...); err != nil {
			return err
		}
		if n := tr.mounts(); n != mounts {
			return fmt.Errorf("mounts: before %d, after %d", mounts, n)
		}
		for f := range tr.files() {
			if !files[f] {
				return fmt.Errorf("a file that was not there: %s", f)
			}
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
	daemons := []string{"posternd", "postern-helper", "postern-logd", "postern-policyd", "postern-auditd"}
	old := map[string]int{}
	for _, d := range daemons {
		old[d] = tr.goroutines(d)
	}
	tr.lives("fresh", 8)
	time.Sleep(limit(time.Second))
	for _, d := range daemons {
		fresh := tr.goroutines(d)
		t.Logf("%-20s %d goroutines; one that has seen 8 pods has %d", d, old[d], fresh)
		if old[d] > fresh+16 {
			t.Errorf("%s: %d goroutines after %d pods, %d after 8", d, old[d], pods, fresh)
		}
	}
}
