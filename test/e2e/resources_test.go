package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestResourceOptions: the limits that TestLimits does not look at, at create and
// after an update. Where the machine has no controller for one, a note in the log
// says so, and for raw values of version 2 the request is refused.
func TestResourceOptions(t *testing.T) {
	tr := startTree(t, "conformance", "[container]\nulimits = [\"nofile=300:400\", \"core=0\"]\n")
	tr.pull()
	p := tr.podConfig("resources")
	pod := tr.runPod(p)
	ctr := tr.sleeper(pod, p, "c", func(c *cri.ContainerConfig) {
		c.Linux.Resources = &cri.LinuxContainerResources{
			MemoryLimitInBytes: 64 << 20, MemorySwapLimitInBytes: 80 << 20, OomScoreAdj: 700, CpusetCpus: "0", CpusetMems: "0",
			HugepageLimits: []*cri.HugepageLimit{{PageSize: "2MB", Limit: 4 << 20}},
		}
	})
	oom := func() string { out, _ := tr.exec(ctr, "cat", "/proc/1/oom_score_adj"); return strings.TrimSpace(out) }
	tr.among("the score of 1", oom(), "700")
	tr.has(ctr, "ulimits", "ulimit -Sn; ulimit -Hn; ulimit -Hc", "300\n400\n0\n")
	tr.among("the processors", tr.inGroup(ctr, "cpuset.cpus", "cpuset/cpuset.cpus"), "0")
	tr.among("the memory nodes", tr.inGroup(ctr, "cpuset.mems", "cpuset/cpuset.mems"), "0")
	if huge := tr.inGroup(ctr, "hugetlb.2MB.max", "hugetlb/hugetlb.2MB.limit_in_bytes"); !strings.Contains(huge, "can't open") {
		tr.among("huge pages", huge, strconv.Itoa(4<<20))
	}
	if swap := tr.inGroup(ctr, "memory.swap.max", "memory/memory.memsw.limit_in_bytes"); !strings.Contains(swap, "can't open") {
		tr.among("swap", swap, strconv.Itoa(16<<20), strconv.Itoa(80<<20))
	}
	if r := tr.status(ctr).Resources.GetLinux(); r.GetOomScoreAdj() != 700 || r.GetMemorySwapLimitInBytes() != 80<<20 || len(r.GetHugepageLimits()) != 1 {
		t.Errorf("resources in the status: %v", r)
	}
	if _, err := tr.rt.UpdateContainerResources(ctx(t), &cri.UpdateContainerResourcesRequest{ContainerId: ctr,
		Linux: &cri.LinuxContainerResources{OomScoreAdj: 900}}); err != nil {
		t.Fatal(err)
	}
	tr.among("the new score of 1", oom(), "900")
	if out, _ := tr.exec(ctr, "cat", "/proc/self/oom_score_adj"); strings.TrimSpace(out) != "900" {
		t.Errorf("the new score of an exec is %q", out)
	}
	tr.among("the processors", tr.inGroup(ctr, "cpuset.cpus", "cpuset/cpuset.cpus"), "0")

	c := tr.ctrConfig("unified", "exec sleep 1000")
	c.Linux.Resources = &cri.LinuxContainerResources{Unified: map[string]string{"memory.high": "50331648"}}
	if v2() {
		id := tr.create(pod, p, c)
		tr.start(id)
		tr.among("memory.high", tr.inGroup(id, "memory.high", ""), "50331648")
	} else if _, err := tr.rt.CreateContainer(ctx(t), &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: p}); err == nil || !strings.Contains(err.Error(), `unified "memory.high"`) {
		t.Errorf("a value of cgroup v2 on version 1: %v", err)
	}
	c.Metadata.Name, c.Linux.Resources.Unified = "escape", map[string]string{"cgroup.procs": "1"}
	if _, err := tr.rt.CreateContainer(ctx(t), &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: p}); err == nil || !strings.Contains(err.Error(), "CEIL-UNIFIED") {
		t.Errorf("a raw value that is no limit: %v", err)
	}
}

// node makes a device node for the test, in a directory of /dev that is its own.
func node(t *testing.T, name string, major, minor uint32) (hostPath string) {
	t.Helper()
	if err := unix.Mount("tmpfs", "/dev/shm", "tmpfs", 0, ""); err != nil { // in the test's mount namespace
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount("/dev/shm", 0); err != nil {
			t.Errorf("umount of /dev/shm: %v", err)
		}
	})
	hostPath = filepath.Join("/dev/shm", name)
	if err := unix.Mknod(hostPath, unix.S_IFCHR|0o660, int(unix.Mkdev(major, minor))); err != nil {
		t.Fatalf("mknod: %v", err)
	}
	if err := os.Chmod(hostPath, 0o660); err != nil {
		t.Fatal(err)
	}
	setLabel(t, hostPath, "null_device_t")
	return hostPath
}

// TestDeviceOptions: a device is where, and what, and as open as was asked for.
func TestDeviceOptions(t *testing.T) {
	tr := startTree(t, "conformance", "")
	tr.pull()
	// The clock of real time: opening it changes nothing, whether there is one or not.
	path := node(t, "postern-e2e", 10, 135)
	p := tr.podConfig("devices")
	pod := tr.runPod(p)
	ctr := tr.sleeper(pod, p, "c", func(c *cri.ContainerConfig) {
		c.Devices = []*cri.Device{{HostPath: path, ContainerPath: "/dev/some/thing", Permissions: "r"}}
	})
	tr.has(ctr, "a device", "stat -c '%F %t:%T %a' /dev/some/thing", "character special file a:87 660")
	const open = "(: %s/dev/some/thing) 2>&1; echo end"
	if out, _ := tr.exec(ctr, "sh", "-c", fmt.Sprintf(open, "<")); strings.Contains(out, "not permitted") {
		t.Errorf("a device that may be read: %s", out)
	}
	tr.has(ctr, "a device that may only be read", fmt.Sprintf(open, ">"), "not permitted")
	// The same by CDI: what the specification says becomes part of the plan.
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	tr.write(dir+"/lib", "a library\n")
	setLabel(t, dir+"/lib", "lib_t") // as a driver's libraries on a node
	tr.write(tr.root+"/run/cdi/thing.yaml", fmt.Sprintf(`cdiVersion: 0.6.0
kind: postern.test/thing
containerEdits: {env: ["OF=all"]}
devices:
- name: one
  containerEdits:
    env: ["THING=one"]
    deviceNodes: [{path: /dev/thing, hostPath: %s, permissions: r, type: c, major: 10, minor: 135}]
    mounts: [{hostPath: %s/lib, containerPath: /usr/lib/thing, options: [ro, nosuid, nodev]}]
    additionalGids: [4242]
- name: hooked
  containerEdits: {hooks: [{hookName: createContainer, path: /bin/true}]}
`, path, dir))
	byCDI := func(name string) func(*cri.ContainerConfig) {
		return func(c *cri.ContainerConfig) { c.CDIDevices = []*cri.CDIDevice{{Name: "postern.test/thing=" + name}} }
	}
	ctr = tr.sleeper(pod, p, "cdi", byCDI("one"))
	tr.has(ctr, "a CDI device", "stat -c '%F %t:%T %a' /dev/thing; cat /usr/lib/thing; echo $OF $THING; id -G; touch /usr/lib/thing",
		"character special file a:87 660\na library\nall one\n", " 4242\n", "Read-only file system")
	annotated := tr.sleeper(pod, p, "annotated", func(c *cri.ContainerConfig) {
		c.Annotations = map[string]string{"cdi.k8s.io/test": "postern.test/thing=one"}
	})
	if out, _ := tr.exec(annotated, "ls", "/dev"); strings.Contains(out, "thing") {
		t.Errorf("an annotation named a device: %s", out)
	}
	for name, want := range map[string]string{"hooked": "hooks", "other": "no specification"} {
		c := tr.ctrConfig(name, "true")
		byCDI(name)(c)
		if _, err := tr.rt.CreateContainer(ctx(t), &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: p}); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "CDI_devices[0]") {
			t.Errorf("CDI device %s: %v, want %q", name, err, want)
		}
	}
	c := tr.ctrConfig("none", "true")
	c.Devices = []*cri.Device{{HostPath: "/dev/shm/none", ContainerPath: "/dev/none", Permissions: "r"}}
	if _, err := tr.rt.CreateContainer(ctx(t), &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: p}); err == nil || !strings.Contains(err.Error(), "shm/none") {
		t.Errorf("a device that is not there: %v", err)
	}
}
