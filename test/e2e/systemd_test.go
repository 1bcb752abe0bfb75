package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/postern-cri/postern/profiles/ceiling"
	"github.com/postern-cri/postern/test/cgroup"
)

const underSystemd = "POSTERN_E2E_SYSTEMD"

// TestRuntimesInSlices runs itself once more where systemd is the first process, and with
// cgroup_driver = "systemd": pods lie in slices, containers in scopes, and stay as
// they are when systemd reads its units again.
func TestRuntimesInSlices(t *testing.T) {
	if os.Getenv(underSystemd) != "" {
		tr := startSystemd(t)
		handlers := []string{"", "runc"}
		if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
			handlers = append(handlers, "crun") // 1.8.1 cannot set the device rules of a scope on v1
		}
		for _, handler := range handlers {
			tr.slice(handler)
		}
		tr.noSlice()
		return
	}
	if os.Getuid() != 0 {
		t.Skip("needs root: namespaces, cgroups, mounts")
	}
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "./systemd.sh", dir, "env", underSystemd+"=1", "PATH="+os.Getenv("PATH"), fmt.Sprintf("POSTERN_SLOW=%d", slow),
		self, "-test.run=^TestRuntimesInSlices$", "-test.v")
	boot, err := cmd.CombinedOutput()
	out, _ := os.ReadFile(filepath.Join(dir, "out"))
	status, _ := os.ReadFile(filepath.Join(dir, "status"))
	if string(status) != "0\n" || err != nil || !strings.Contains(string(out), "--- PASS: TestRuntimesInSlices") {
		t.Errorf("under systemd: status %q, %v\n%s\n%s", status, err, boot, out)
	}
}

func startSystemd(t *testing.T) *tree {
	t.Helper()
	cgroup.OnlyV1(t)
	base, _ := ceiling.Shipped("baseline")
	file := filepath.Join(t.TempDir(), "ceiling.toml")
	text := "cgroup_driver = \"systemd\"\n" + string(base) + fmt.Sprintf(handlers, "/usr/bin/crun")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	tr := startTree(t, "baseline", fmt.Sprintf("[ceiling]\nfile = %q\n", file))
	tr.pull()
	return tr
}

func systemctl(args ...string) string {
	out, err := exec.Command("systemctl", args...).CombinedOutput()
	if err != nil {
		return err.Error() + ": " + string(out)
	}
	return strings.TrimSpace(string(out))
}

// slice runs a pod in a slice, as a kubelet names it.
func (tr *tree) slice(handler string) {
	t := tr.t
	p := tr.podConfig("pod" + handler)
	slice := "kubepods-burstable-pod" + handler + "1.slice"
	p.Linux.CgroupParent = slice
	pod := tr.under(handler, p)
	c := tr.ctrConfig("c", "while [ ! -e /tmp/go ]; do sleep 0.05; done; exit 5")
	c.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, CpuPeriod: 100000, CpuQuota: 20000}
	ctr := tr.create(pod, p, c)
	tr.start(ctr)
	unit := "postern-" + ctr + ".scope"
	at := "/kubepods.slice/kubepods-burstable.slice/" + slice + "/" + unit
	if got := systemctl("show", "-P", "ControlGroup", unit); got != at {
		t.Fatalf("%q: the container's unit is at %q, want %q", handler, got, at)
	}
	look := func(when string, memory string) {
		t.Helper()
		if got := tr.inGroup(ctr, "memory.max", "memory/memory.limit_in_bytes"); got != memory {
			t.Errorf("%q, %s: the memory limit is %s, want %s", handler, when, got, memory)
		}
		if got := tr.inGroup(ctr, "cpu.max", "cpu/cpu.cfs_quota_us"); got != "20000 100000" && got != "20000" {
			t.Errorf("%q, %s: the quota is %s", handler, when, got)
		}
		if rules, err := os.ReadFile("/sys/fs/cgroup/devices" + at + "/devices.list"); err == nil && strings.Contains(string(rules), "*:*") {
			t.Errorf("%q, %s: devices %q", handler, when, rules)
		}
		if out, code := tr.exec(ctr, "sh", "-c", "echo x > /dev/null"); code != 0 {
			t.Errorf("%q, %s: /dev/null: %s", handler, when, out)
		}
	}
	look("at first", "67108864")
	systemctl("daemon-reload")
	look("after systemd read its units again", "67108864")
	if _, err := tr.rt.UpdateContainerResources(ctx(t), &cri.UpdateContainerResourcesRequest{ContainerId: ctr,
		Linux: &cri.LinuxContainerResources{MemoryLimitInBytes: 96 << 20}}); err != nil {
		t.Errorf("%q: UpdateContainerResources: %v", handler, err)
	}
	look("after an update", "100663296")
	systemctl("daemon-reload")
	look("after an update and a reload", "100663296")
	if s, err := tr.rt.ContainerStats(ctx(t), &cri.ContainerStatsRequest{ContainerId: ctr}); err != nil || s.Stats.GetMemory().GetWorkingSetBytes().GetValue() == 0 {
		t.Errorf("%q: statistics %v, %v", handler, s, err)
	}
	for _, pid := range tr.processes()["postern-helper"] {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	tr.letGo(ctr)
	tr.exited(ctr, 5)
	// One that has to be killed goes with all that is in its scope.
	ctr = tr.create(pod, p, tr.ctrConfig("d", "sleep 1000 & trap '' TERM; while :; do sleep 0.05; done"))
	tr.start(ctr)
	for _, err := range []error{
		func() error {
			_, err := tr.rt.StopPodSandbox(ctx(t), &cri.StopPodSandboxRequest{PodSandboxId: pod})
			return err
		}(),
		func() error {
			_, err := tr.rt.RemovePodSandbox(ctx(t), &cri.RemovePodSandboxRequest{PodSandboxId: pod})
			return err
		}(),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	tr.eventually(20*time.Second, "the units are gone", func() error {
		if left := systemctl("list-units", "--all", "--plain", "--no-legend", "postern-*.scope"); left != "" {
			return fmt.Errorf("%q", left)
		}
		return nil
	})
}

// noSlice: what is no slice is refused, and the kubelet is told who makes cgroups.
func (tr *tree) noSlice() {
	t := tr.t
	rc, err := tr.rt.RuntimeConfig(ctx(t), &cri.RuntimeConfigRequest{})
	if err != nil || rc.Linux.CgroupDriver != cri.CgroupDriver_SYSTEMD {
		t.Errorf("RuntimeConfig: %v, %v", rc, err)
	}
	for _, parent := range []string{"", "/kubepods/burstable/pod1", "/kubepods.slice", "system-x.slice", "kubepods-.slice"} {
		p := tr.podConfig("none")
		p.Linux.CgroupParent = parent
		if r, err := tr.rt.RunPodSandbox(ctx(t), &cri.RunPodSandboxRequest{Config: p}); err == nil {
			t.Errorf("parent %q was taken: %v", parent, r)
		}
	}
}
