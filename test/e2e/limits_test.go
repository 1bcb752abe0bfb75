package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// inGroup reads a file of the container's control group from within: of version
// 2, or else of a controller of version 1.
func (tr *tree) inGroup(ctr, v2, v1 string) string {
	tr.t.Helper()
	out, _ := tr.exec(ctr, "sh", "-c", fmt.Sprintf("cat /sys/fs/cgroup/%s 2>/dev/null || cat /sys/fs/cgroup/%s", v2, v1))
	return strings.TrimSpace(out)
}

// TestLimits: what is asked for is what the kernel holds the container to, before
// and after an update, and the statistics are of that very container.
func TestLimits(t *testing.T) {
	tr := startTree(t, "baseline", "")
	tr.pull()
	p := tr.podConfig("limits")
	pod := tr.runPod(p)
	c := tr.ctrConfig("c", "while :; do :; done")
	c.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, CpuPeriod: 100000, CpuQuota: 20000, CpuShares: 512}
	ctr := tr.create(pod, p, c)
	tr.start(ctr)
	tr.among("the memory limit", tr.inGroup(ctr, "memory.max", "memory/memory.limit_in_bytes"), "67108864")
	tr.among("the CPU quota", tr.inGroup(ctr, "cpu.max", "cpu/cpu.cfs_quota_us"), "20000 100000", "20000")
	tr.among("the CPU weight", tr.inGroup(ctr, "cpu.weight", "cpu/cpu.shares"), "20", "59", "512") // 59: the newer conversion
	if pids := tr.inGroup(ctr, "pids.max", "pids/pids.max"); pids == "max" || pids == "" {
		t.Errorf("the number of processes is %q: no limit", pids)
	}
	if out, code := tr.exec(ctr, "sh", "-c", "echo max > /sys/fs/cgroup/memory.max || echo -1 > /sys/fs/cgroup/memory/memory.limit_in_bytes"); code == 0 {
		t.Errorf("the container lifted its own limit: %s", out)
	}
	if _, err := tr.rt.UpdateContainerResources(ctx(t), &cri.UpdateContainerResourcesRequest{ContainerId: ctr,
		Linux: &cri.LinuxContainerResources{MemoryLimitInBytes: 96 << 20, CpuPeriod: 100000, CpuQuota: 30000}}); err != nil {
		t.Fatalf("UpdateContainerResources: %v", err)
	}
	tr.among("the new memory limit", tr.inGroup(ctr, "memory.max", "memory/memory.limit_in_bytes"), "100663296")
	tr.among("the new CPU quota", tr.inGroup(ctr, "cpu.max", "cpu/cpu.cfs_quota_us"), "30000 100000", "30000")
	tr.eventually(10*time.Second, "the statistics move", func() error {
		s, err := tr.rt.ContainerStats(ctx(t), &cri.ContainerStatsRequest{ContainerId: ctr})
		if err != nil {
			return err
		}
		if s.Stats.GetCpu().GetUsageCoreNanoSeconds().GetValue() == 0 || s.Stats.GetMemory().GetWorkingSetBytes().GetValue() == 0 {
			return fmt.Errorf("%v", s.Stats)
		}
		if m := s.Stats.GetMemory().GetAvailableBytes().GetValue(); m == 0 || m > 96<<20 {
			return fmt.Errorf("%d bytes available of 96 MiB", m)
		}
		return nil
	})
	ps, err := tr.rt.PodSandboxStats(ctx(t), &cri.PodSandboxStatsRequest{PodSandboxId: pod})
	if err != nil || ps.Stats.GetLinux().GetMemory().GetWorkingSetBytes().GetValue() == 0 || ps.Stats.GetLinux().GetProcess().GetProcessCount().GetValue() == 0 {
		t.Errorf("the pod's statistics: %v, %v", ps, err)
	}
}

// among holds got against what a machine may show for one thing: the versions of
// cgroups write it in ways of their own.
func (tr *tree) among(what, got string, want ...string) {
	tr.t.Helper()
	if !slices.Contains(want, got) {
		tr.t.Errorf("%s is %q, want one of %q", what, got, want)
	}
}
