package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func ownNamespaces() *cri.NamespaceOption {
	return &cri.NamespaceOption{Network: cri.NamespaceMode_POD, Pid: cri.NamespaceMode_CONTAINER, Ipc: cri.NamespaceMode_POD}
}

// logDir is named as the kubelet names it: the ceiling insists on that.
func (tr *tree) logDir(pod string) string { return tr.logs + "_" + pod + "_" + pod + "-uid" }

func (tr *tree) podConfig(name string) *cri.PodSandboxConfig {
	return &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: name, Namespace: "e2e", Uid: name + "-uid"},
		Hostname: name, LogDirectory: tr.logDir(name),
		Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: ownNamespaces()}},
	}
}

func (tr *tree) ctrConfig(name string, script string) *cri.ContainerConfig {
	return &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: name},
		Image:    &cri.ImageSpec{Image: tr.reg + "/demo/signed:1"},
		Command:  []string{"/bin/sh", "-c"}, Args: []string{script},
		LogPath: name + ".log",
		Linux:   &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{NamespaceOptions: ownNamespaces()}},
	}
}

func (tr *tree) pull() {
	tr.t.Helper()
	if _, err := tr.img.PullImage(ctx(tr.t), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: tr.reg + "/demo/signed:1"}}); err != nil {
		tr.t.Fatalf("pulling the signed image: %v", err)
	}
}

func (tr *tree) runPod(cfg *cri.PodSandboxConfig) string {
	tr.t.Helper()
	p, err := tr.rt.RunPodSandbox(ctx(tr.t), &cri.RunPodSandboxRequest{Config: cfg})
	if err != nil {
		tr.t.Fatalf("RunPodSandbox: %v", err)
	}
	return p.PodSandboxId
}

func (tr *tree) create(pod string, pcfg *cri.PodSandboxConfig, cfg *cri.ContainerConfig) string {
	tr.t.Helper()
	c, err := tr.rt.CreateContainer(ctx(tr.t), &cri.CreateContainerRequest{PodSandboxId: pod, Config: cfg, SandboxConfig: pcfg})
	if err != nil {
		tr.t.Fatalf("CreateContainer: %v", err)
	}
	return c.ContainerId
}

func (tr *tree) start(id string) {
	tr.t.Helper()
	if _, err := tr.rt.StartContainer(ctx(tr.t), &cri.StartContainerRequest{ContainerId: id}); err != nil {
		tr.t.Fatalf("StartContainer: %v", err)
	}
}

// run starts a pod with one container.
func (tr *tree) run(name, script string) (pod, ctr string) {
	tr.t.Helper()
	p := tr.podConfig(name)
	pod = tr.runPod(p)
	ctr = tr.create(pod, p, tr.ctrConfig("c", script))
	tr.start(ctr)
	return pod, ctr
}

func (tr *tree) exec(ctr string, cmd ...string) (string, int32) {
	tr.t.Helper()
	r, err := tr.rt.ExecSync(ctx(tr.t), &cri.ExecSyncRequest{ContainerId: ctr, Cmd: cmd, Timeout: 60 * int64(slow)})
	if err != nil {
		tr.t.Fatalf("ExecSync %v: %v", cmd, err)
	}
	return string(r.Stdout) + string(r.Stderr), r.ExitCode
}

// letGo makes the file that the container waits for, and then ends. Its end kills
// the process that made the file, should that still be there.
func (tr *tree) letGo(ctr string) {
	tr.t.Helper()
	tr.eventually(10*time.Second, "exec works", func() error {
		r, err := tr.rt.ExecSync(ctx(tr.t), &cri.ExecSyncRequest{ContainerId: ctr, Cmd: []string{"touch", "/tmp/go"}, Timeout: 60 * int64(slow)})
		switch {
		case err == nil && r.ExitCode != 0 && r.ExitCode != 137:
			return fmt.Errorf("exit code %d: %s", r.ExitCode, r.Stderr)
		case err != nil && tr.status(ctr).State != cri.ContainerState_CONTAINER_EXITED:
			return err
		}
		return nil
	})
}

func (tr *tree) status(ctr string) *cri.ContainerStatus {
	tr.t.Helper()
	s, err := tr.rt.ContainerStatus(ctx(tr.t), &cri.ContainerStatusRequest{ContainerId: ctr})
	if err != nil {
		tr.t.Fatalf("ContainerStatus: %v", err)
	}
	return s.Status
}

func (tr *tree) exited(ctr string, code int32) {
	tr.t.Helper()
	tr.eventually(10*time.Second, "the container exits", func() error {
		s := tr.status(ctr)
		if s.State != cri.ContainerState_CONTAINER_EXITED {
			return fmt.Errorf("state %v", s.State)
		}
		if s.ExitCode != code {
			tr.t.Fatalf("exit code %d, want %d (%s: %s)", s.ExitCode, code, s.Reason, s.Message)
		}
		return nil
	})
}

// logLines returns the container's log without time stamps.
func (tr *tree) logLines(pod, ctr string) []string {
	b, err := os.ReadFile(filepath.Join(tr.logDir(pod), ctr+".log"))
	if err != nil {
		return nil
	}
	var out []string
	for _, l := range strings.Split(strings.TrimSuffix(string(b), "\n"), "\n") {
		if f := strings.SplitN(l, " ", 4); len(f) == 4 {
			out = append(out, f[1]+" "+f[2]+" "+f[3])
		}
	}
	return out
}

func TestOnePod(t *testing.T) {
	tr := startTree(t, "baseline", "")
	tr.pull()
	pod, ctr := tr.run("web", "echo out; echo err >&2; exec sleep 1000")
	if st := tr.status(ctr); st.State != cri.ContainerState_CONTAINER_RUNNING {
		t.Fatalf("state %v", st.State)
	}
	tr.eventually(5*time.Second, "the log is written", func() error {
		if l := strings.Join(tr.logLines("web", "c"), ","); !strings.Contains(l, "stdout F out") || !strings.Contains(l, "stderr F err") {
			return fmt.Errorf("log: %s", l)
		}
		return nil
	})
	view, code := tr.exec(ctr, "cat", "/proc/self/status")
	if code != 0 {
		t.Fatalf("exit %d: %s", code, view)
	}
	for _, want := range []string{"CapInh:\t0000000000000000", "CapAmb:\t0000000000000000", "Seccomp:\t2"} {
		if !strings.Contains(view, want) {
			t.Errorf("inside view lacks %q:\n%s", want, view)
		}
	}
	if out, code := tr.exec(ctr, "sh", "-c", "exit 7"); code != 7 {
		t.Errorf("exec exit code %d, want 7 (%s)", code, out)
	}
	if out, _ := tr.exec(ctr, "hostname"); strings.TrimSpace(out) != "web" {
		t.Errorf("hostname %q", out)
	}
	if out, _ := tr.exec(ctr, "cat", "/etc/hosts"); !strings.Contains(out, "web") {
		t.Errorf("/etc/hosts: %q", out)
	}
	if out, code := tr.exec(ctr, "sh", "-c", "mount -t tmpfs x /mnt || mknod /dev/x b 8 0"); code == 0 {
		t.Errorf("mount or mknod worked: %s", out)
	}
	if out, _ := tr.exec(ctr, "sh", "-c", "ls /proc/self/fd | wc -l"); strings.TrimSpace(out) != "4" { // 0, 1, 2 and ls's own
		t.Errorf("fds of an exec'ed process: %q, want 4", out)
	}
	var files unix.Rlimit // ours are what the daemons were started with
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	if out, _ := tr.exec(ctr, "sh", "-c", "ulimit -Sn; ulimit -Hn"); strings.Join(strings.Fields(out), " ") != fmt.Sprintf("%d %[1]d", files.Max) {
		t.Errorf("open files: %q, want %d", out, files.Max)
	}
	ps, err := tr.rt.PodSandboxStatus(ctx(t), &cri.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil || !strings.HasPrefix(ps.Status.GetNetwork().GetIp(), "10.221.") {
		t.Errorf("pod ip %v, %v", ps.GetStatus().GetNetwork(), err)
	}
	stats, err := tr.rt.ContainerStats(ctx(t), &cri.ContainerStatsRequest{ContainerId: ctr})
	if err != nil || stats.Stats.GetMemory().GetWorkingSetBytes().GetValue() == 0 {
		t.Errorf("stats: %v, %v", stats, err)
	}
	if _, err := tr.rt.StopContainer(ctx(t), &cri.StopContainerRequest{ContainerId: ctr, Timeout: 1}); err != nil {
		t.Fatal(err)
	}
	tr.exited(ctr, 137)
	if _, err := tr.rt.RemoveContainer(ctx(t), &cri.RemoveContainerRequest{ContainerId: ctr}); err != nil {
		t.Fatal(err)
	}
}

func TestIdempotentNames(t *testing.T) {
	tr := startTree(t, "baseline", "")
	tr.pull()
	p := tr.podConfig("same")
	a, b := tr.runPod(p), tr.runPod(p)
	if a != b {
		t.Errorf("the same pod was run twice: %s and %s", a, b)
	}
	c := tr.ctrConfig("c", "sleep 1000")
	if x, y := tr.create(a, p, c), tr.create(a, p, c); x != y {
		t.Errorf("the same container was created twice: %s and %s", x, y)
	}
}
