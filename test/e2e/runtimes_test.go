package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/postern-cri/postern/profiles/ceiling"
	"github.com/postern-cri/postern/test/cgroup"
)

// handlers are Debian's OCI runtimes, and a copy of one that a test changes.
const handlers = `
[[handler]]
name = "crun"
path = "/usr/bin/crun"
user_namespaces = true
recursive_read_only = true

[[handler]]
name = "runc"
path = "/usr/sbin/runc"
user_namespaces = true

[[handler]]
name = "open"
path = "%s"
`

// startRuntimes starts a tree whose ceiling is baseline with these handlers.
func startRuntimes(t *testing.T) (tr *tree, open string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: namespaces, cgroups, mounts")
	}
	cgroup.OnlyV1(t)
	dir, err := os.MkdirTemp("/var/lib", "postern-e2e.") // where every directory is root's alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	open = filepath.Join(dir, "runtime")
	b, err := os.ReadFile("/usr/bin/crun")
	if err == nil {
		err = os.WriteFile(open, b, 0o755)
	}
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	base, _ := ceiling.Shipped("baseline")
	file := filepath.Join(dir, "ceiling.toml")
	if err == nil {
		err = os.WriteFile(file, []byte(string(base)+fmt.Sprintf(handlers, open)), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	tr = startTree(t, "baseline", fmt.Sprintf("[ceiling]\nfile = %q\n", file))
	tr.pull()
	return tr, open
}

// under runs a pod of a runtime.
func (tr *tree) under(handler string, cfg *cri.PodSandboxConfig) string {
	tr.t.Helper()
	p, err := tr.rt.RunPodSandbox(ctx(tr.t), &cri.RunPodSandboxRequest{Config: cfg, RuntimeHandler: handler})
	if err != nil {
		tr.t.Fatalf("RunPodSandbox under %q: %v", handler, err)
	}
	return p.PodSandboxId
}

// view is what a container sees of its rights, in words that are the same under
// every runtime where the rights are.
const view = `exec 2>/dev/null
grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp|Speculation)' /proc/self/status
grep -v '^Max pending' /proc/self/limits; cat /proc/self/oom_score_adj /proc/self/uid_map /proc/self/attr/current; umask; hostname; pwd; env | sort
cat /sys/fs/cgroup/devices/devices.list 2>/dev/null | sort
for d in $(ls /dev); do [ $d = core ] || stat -c '%n %F %t:%T %a %u:%g' /dev/$d; done
for n in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$n | sed 's/[0-9].*//'; done
awk '{print $5}' /proc/self/mountinfo | sort -u | grep -v '^/sys/fs/cgroup/'
for p in / /proc/sys /proc/bus /proc/irq /proc/sysrq-trigger /sys /sys/fs/cgroup /sys/fs/cgroup/* /sys/firmware /dev /dev/shm /tmp; do
	[ -e $p ] || continue; [ -h $p ] && continue
	touch $p/.w 2>/dev/null || mkdir $p/.w 2>/dev/null && echo "$p is writable"; rm -rf $p/.w 2>/dev/null
done
for f in acpi kcore keys timer_list sched_debug; do [ -e /proc/$f ] && echo "$f: $(cat /proc/$f 2>/dev/null | wc -c)"; done
ls /proc/self/fd | wc -l
`

// TestRuntimesInside: a container has the same rights under every runtime.
func TestRuntimesInside(t *testing.T) {
	tr, _ := startRuntimes(t)
	var builtin [2]string
	for _, handler := range []string{"", "crun", "runc"} {
		p := tr.podConfig("same")
		p.Metadata.Uid = "same" + handler + "-uid"
		p.LogDirectory = tr.logs + "_same_" + p.Metadata.Uid
		pod := tr.under(handler, p)
		c := tr.ctrConfig("c", view+"exec sleep 1000")
		c.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, CpuQuota: 20000, CpuPeriod: 100000, OomScoreAdj: 500}
		c.WorkingDir = "/tmp"
		ctr := tr.create(pod, p, c)
		tr.start(ctr)
		var log string
		tr.eventually(10*time.Second, "the container has looked", func() error {
			b, err := os.ReadFile(filepath.Join(p.LogDirectory, "c.log"))
			log = ""
			for l := range strings.Lines(string(b)) {
				if f := strings.SplitN(l, " ", 4); len(f) == 4 {
					log += f[3]
				}
			}
			if err == nil && !strings.HasSuffix(log, "\n4\n") {
				err = fmt.Errorf("%q", log)
			}
			return err
		})
		out, _ := tr.exec(ctr, "sh", "-c", view)
		if handler == "" {
			builtin = [2]string{log, out}
			for _, want := range []string{"NoNewPrivs", "Seccomp:\t2", "CapInh:\t0000000000000000", "/dev/null", "/tmp is writable"} {
				if !strings.Contains(log, want) {
					t.Fatalf("the view lacks %q:\n%s", want, log)
				}
			}
			continue
		}
		for i, got := range []string{log, out} {
			if d := lineDiff(builtin[i], got); d != "" {
				t.Errorf("%s, %s: another view than the built-in runtime's:\n%s", handler, []string{"container", "exec"}[i], d)
			}
		}
	}
}

// lineDiff lists lines that are in one text alone.
func lineDiff(a, b string) (d string) {
	for l := range strings.Lines(a) {
		if !strings.Contains("\n"+b, "\n"+l) {
			d += "- " + l
		}
	}
	for l := range strings.Lines(b) {
		if !strings.Contains("\n"+a, "\n"+l) {
			d += "+ " + l
		}
	}
	return d
}

// TestRuntimes: all that is done with a container is done under every runtime, and
// goes on when the privileged side is killed.
func TestRuntimes(t *testing.T) {
	tr, _ := startRuntimes(t)
	for _, handler := range []string{"crun", "runc"} {
		tr.life(handler)
		tr.interrupt(handler)
	}
	dirs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, d := range dirs {
		if b, err := os.ReadFile(d); err == nil && strings.Contains(string(b), tr.root+"/run/box/launch") {
			t.Errorf("a runtime is left: %q", b)
		}
	}
	for _, d := range []string{"launch", "ctr"} {
		if left, err := os.ReadDir(filepath.Join(tr.root, "run/box", d)); err != nil || len(left) > 0 {
			t.Errorf("left in the box: %v, %v", left, err)
		}
	}
}

func (tr *tree) life(handler string) {
	t := tr.t
	p := tr.podConfig(handler)
	pod := tr.under(handler, p)
	if st, err := tr.rt.PodSandboxStatus(ctx(t), &cri.PodSandboxStatusRequest{PodSandboxId: pod}); err != nil || st.Status.RuntimeHandler != handler {
		t.Errorf("handler %v, %v", st.GetStatus().GetRuntimeHandler(), err)
	}
	c := tr.ctrConfig("c", "echo out; echo err >&2; while [ ! -e /tmp/go ]; do sleep 0.05; done; exit 23")
	c.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, CpuPeriod: 100000, CpuQuota: 20000}
	ctr := tr.create(pod, p, c)
	tr.start(ctr)
	tr.eventually(10*time.Second, "the log", func() error {
		if l := strings.Join(tr.logLines(handler, "c"), ","); !strings.Contains(l, "stdout F out") || !strings.Contains(l, "stderr F err") {
			return fmt.Errorf("%q", l)
		}
		return nil
	})
	if out, code := tr.exec(ctr, "sh", "-c", "echo said; echo erred >&2; exit 7"); code != 7 || out != "said\nerred\n" {
		t.Errorf("exec: %q, exit code %d", out, code)
	}
	if _, err := tr.rt.ExecSync(ctx(t), &cri.ExecSyncRequest{ContainerId: ctr, Cmd: []string{"nonesuch"}, Timeout: 20}); err == nil || !strings.Contains(err.Error(), "nonesuch") {
		t.Errorf("exec of a program that is not there: %v", err)
	}
	if out, err := tr.crictl(ctr, `stty cols 100 rows 30; $crictl exec -it $c sh -c 'tty; sleep 0.5; stty size; exit 0'`, true); err != nil || !strings.Contains(out, "/dev/pts/0\n30 100") {
		t.Errorf("exec on a terminal: %v: %s", err, out)
	}
	if _, err := tr.rt.UpdateContainerResources(ctx(t), &cri.UpdateContainerResourcesRequest{ContainerId: ctr,
		Linux: &cri.LinuxContainerResources{MemoryLimitInBytes: 96 << 20, CpuPeriod: 100000, CpuQuota: -1, OomScoreAdj: 950}}); err != nil {
		t.Errorf("UpdateContainerResources: %v", err)
	}
	if got := tr.inGroup(ctr, "memory.max", "memory/memory.limit_in_bytes"); got != "100663296" {
		t.Errorf("the new memory limit is %s", got)
	}
	if got := tr.inGroup(ctr, "cpu.max", "cpu/cpu.cfs_quota_us"); got != "max 100000" && got != "-1" {
		t.Errorf("the new CPU quota is %s", got)
	}
	if out, _ := tr.exec(ctr, "cat", "/proc/1/oom_score_adj"); out != "950\n" {
		t.Errorf("the new OOM score of 1: %q", out)
	}
	for _, d := range []string{"postern-helper", "posternd"} {
		old := tr.processes()[d]
		for _, pid := range old {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		tr.eventually(5*time.Second, d+" is back", func() error {
			if now := tr.processes()[d]; len(now) == 0 || len(old) == 0 || now[0] == old[0] {
				return fmt.Errorf("pids %v", now)
			}
			return nil
		})
	}
	tr.answers(10 * time.Second)
	tr.letGo(ctr)
	tr.exited(ctr, 23)

	// A terminal of the container's own, which a signal ends.
	c = tr.ctrConfig("tty", "tty; trap 'exit 9' TERM; while :; do sleep 0.05; done")
	c.Tty = true
	ctr = tr.create(pod, p, c)
	tr.start(ctr)
	tr.eventually(10*time.Second, "the terminal's name", func() error {
		if l := strings.Join(tr.logLines(handler, "tty"), ","); !strings.Contains(l, "/dev/pts/0") {
			return fmt.Errorf("%q", l)
		}
		return nil
	})
	if _, err := tr.rt.StopContainer(ctx(t), &cri.StopContainerRequest{ContainerId: ctr, Timeout: int64(20 * slow)}); err != nil {
		t.Error(err)
	}
	tr.exited(ctr, 9)

	c = tr.ctrConfig("oom", "tail /dev/zero")
	c.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 16 << 20}
	ctr = tr.create(pod, p, c)
	tr.start(ctr)
	tr.exited(ctr, 137)
	if s := tr.status(ctr); s.Reason != "OOMKilled" {
		t.Errorf("reason %q, want OOMKilled", s.Reason)
	}

	// A user namespace, and a container that has to be killed.
	u := tr.podConfig(handler + "-userns")
	maps := []*cri.IDMapping{{HostId: 1 << 20, ContainerId: 0, Length: 65536}}
	u.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: maps, Gids: maps}
	upod := tr.under(handler, u)
	c = tr.ctrConfig("c", "trap '' TERM; while :; do sleep 0.05; done")
	c.Linux.SecurityContext.NamespaceOptions = u.Linux.SecurityContext.NamespaceOptions
	ctr = tr.create(upod, u, c)
	tr.start(ctr)
	if out, code := tr.exec(ctr, "sh", "-c", "cat /proc/self/uid_map; id -u; touch /made && stat -c %u /made"); code != 0 || strings.Join(strings.Fields(out), " ") != "0 1048576 65536 0 0" {
		t.Errorf("user namespace: %q, %d", out, code)
	}
	if _, err := tr.rt.StopContainer(ctx(t), &cri.StopContainerRequest{ContainerId: ctr, Timeout: 1}); err != nil {
		t.Error(err)
	}
	tr.exited(ctr, 137)
	for _, id := range []string{pod, upod} {
		if _, err := tr.rt.StopPodSandbox(ctx(t), &cri.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
			t.Error(err)
		}
		if _, err := tr.rt.RemovePodSandbox(ctx(t), &cri.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
			t.Error(err)
		}
	}
}

// interrupt kills the privileged side at some moments of creates and execs: what
// was half made is removed, and the request works again.
func (tr *tree) interrupt(handler string) {
	t := tr.t
	p := tr.podConfig(handler + "-cut")
	pod := tr.under(handler, p)
	for i := range 3 {
		c := tr.ctrConfig(fmt.Sprintf("c%d", i), "exec sleep 1000")
		done := make(chan error, 1)
		go func() {
			_, err := tr.rt.CreateContainer(ctx(t), &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: p})
			done <- err
		}()
		time.Sleep(time.Duration(1+2*i) * 25 * time.Millisecond)
		for _, pid := range tr.processes()["postern-helper"] {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		if err := <-done; err != nil {
			t.Logf("%s, killed after %d ms: %v", handler, (1+2*i)*25, err)
		}
		var ctr string
		tr.eventually(20*time.Second, "the container is made after all", func() error {
			r, err := tr.rt.CreateContainer(ctx(t), &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: p})
			ctr = r.GetContainerId()
			return err
		})
		tr.eventually(20*time.Second, "the container is started", func() error {
			_, err := tr.rt.StartContainer(ctx(t), &cri.StartContainerRequest{ContainerId: ctr})
			return err
		})
		if out, code := tr.exec(ctr, "echo", "there"); out != "there\n" || code != 0 {
			t.Errorf("%q, %d", out, code)
		}
	}
	if _, err := tr.rt.StopPodSandbox(ctx(t), &cri.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Error(err)
	}
	if _, err := tr.rt.RemovePodSandbox(ctx(t), &cri.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Error(err)
	}
}

// TestRuntimesRefused: a handler is what the ceiling names, a runtime is what root
// alone can write, and each says what it can do.
func TestRuntimesRefused(t *testing.T) {
	tr, open := startRuntimes(t)
	st, err := tr.rt.Status(ctx(t), &cri.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, h := range st.RuntimeHandlers {
		got += fmt.Sprintf("%q userns %v rro %v\n", h.Name, h.Features.UserNamespaces, h.Features.RecursiveReadOnlyMounts)
	}
	if want := "\"\" userns true rro true\n\"crun\" userns true rro true\n\"runc\" userns true rro false\n\"open\" userns false rro false\n"; got != want {
		t.Errorf("handlers:\n%swant\n%s", got, want)
	}
	for _, handler := range []string{"other", "/usr/bin/crun", "../crun"} {
		_, err := tr.rt.RunPodSandbox(ctx(t), &cri.RunPodSandboxRequest{Config: tr.podConfig("refused"), RuntimeHandler: handler})
		if status.Code(err) != codes.NotFound {
			t.Errorf("handler %q: %v", handler, err)
		}
	}
	p := tr.podConfig("open")
	pod := tr.under("open", p)
	if err := os.Chmod(open, 0o757); err != nil {
		t.Fatal(err)
	}
	_, err = tr.rt.CreateContainer(ctx(t), &cri.CreateContainerRequest{PodSandboxId: pod, Config: tr.ctrConfig("c", "true"), SandboxConfig: p})
	if err == nil || !strings.Contains(err.Error(), "only root may be able to write it") {
		t.Errorf("a runtime that others can write: %v", err)
	}
}
