package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// verbose returns the object under "info" of a pod's status.
func (tr *tree) verbose(pod string) map[string]any {
	tr.t.Helper()
	s, err := tr.rt.PodSandboxStatus(ctx(tr.t), &cri.PodSandboxStatusRequest{PodSandboxId: pod, Verbose: true})
	if err != nil {
		tr.t.Fatal(err)
	}
	m := map[string]any{}
	if err := json.Unmarshal([]byte(s.Info["info"]), &m); err != nil {
		tr.t.Fatalf("%v: %q", err, s.Info)
	}
	return m
}

// restart kills the front end and waits for its successor.
func (tr *tree) restart() {
	tr.t.Helper()
	old := tr.processes()["posternd"]
	if len(old) != 1 {
		tr.t.Fatalf("front ends: %v", old)
	}
	if err := syscall.Kill(old[0], syscall.SIGKILL); err != nil {
		tr.t.Fatal(err)
	}
	tr.eventually(15*time.Second, "another front end", func() error {
		if now := tr.processes()["posternd"]; len(now) != 1 || now[0] == old[0] {
			return fmt.Errorf("%v", now)
		}
		return nil
	})
	tr.answers(15 * time.Second)
}

// TestPodResize: the size of a pod that the kubelet tells is remembered, the last
// one counts, and it survives the front end.
func TestPodResize(t *testing.T) {
	tr := startTree(t, "baseline", "")
	p := tr.podConfig("resize")
	p.Linux.Overhead = &cri.LinuxContainerResources{CpuShares: 10}
	p.Linux.Resources = &cri.LinuxContainerResources{CpuShares: 512, MemoryLimitInBytes: 64 << 20}
	pod := tr.runPod(p)
	want := func(cpu, memory, overhead float64) {
		t.Helper()
		v := tr.verbose(pod)
		r, _ := v["resources"].(map[string]any)
		o, _ := v["overhead"].(map[string]any)
		if r["CPUShares"] != cpu || r["Memory"] != memory || o["CPUShares"] != overhead {
			t.Errorf("resources %v, overhead %v; want %v, %v and %v", r, o, cpu, memory, overhead)
		}
	}
	want(512, 64<<20, 10)
	if _, err := tr.rt.UpdatePodSandboxResources(ctx(t), &cri.UpdatePodSandboxResourcesRequest{PodSandboxId: pod,
		Overhead: &cri.LinuxContainerResources{CpuShares: 20}, Resources: &cri.LinuxContainerResources{MemoryLimitInBytes: 96 << 20}}); err != nil {
		t.Fatal(err)
	}
	want(512, 96<<20, 20)
	tr.restart()
	want(512, 96<<20, 20)
	if _, err := tr.rt.UpdatePodSandboxResources(ctx(t), &cri.UpdatePodSandboxResourcesRequest{PodSandboxId: pod,
		Resources: &cri.LinuxContainerResources{CpuPeriod: 1}}); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "resources.cpu_period") {
		t.Errorf("an impossible period: %v", err)
	}
	// The decision is on disk before the effect, how it went within a second of it.
	tr.eventually(5*time.Second, "the resize is in the audit log", func() error {
		var stages []any
		for _, r := range tr.audit() {
			if r["method"] == "UpdatePodSandboxResources" {
				stages = append(stages, r["stage"])
			}
		}
		if !slices.Contains(stages, any("decision")) || !slices.Contains(stages, any("complete")) {
			return fmt.Errorf("stages %v", stages)
		}
		return nil
	})

	// Annotations as large as Kubernetes permits, in one piece and in many.
	p = tr.podConfig("large")
	p.Annotations = map[string]string{"example.com/manifest": strings.Repeat("x", 100<<10)}
	for i := range 150 {
		p.Annotations[fmt.Sprintf("example.com/a%d", i)] = strings.Repeat("y", 1000)
	}
	pod = tr.runPod(p)
	s, err := tr.rt.PodSandboxStatus(ctx(t), &cri.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil || len(s.Status.Annotations["example.com/manifest"]) != 100<<10 || len(s.Status.Annotations) != 151 {
		t.Errorf("large annotations: %d of them, %v", len(s.GetStatus().GetAnnotations()), err)
	}
	if _, err := tr.rt.RemovePodSandbox(ctx(t), &cri.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Errorf("removing a pod with large annotations: %v", err)
	}

	// What the node and the runtime say of themselves.
	if _, err := tr.rt.UpdateRuntimeConfig(ctx(t), &cri.UpdateRuntimeConfigRequest{RuntimeConfig: &cri.RuntimeConfig{
		NetworkConfig: &cri.NetworkConfig{PodCidr: "10.221.0.0/16"}}}); err != nil {
		t.Error(err)
	}
	st, err := tr.rt.Status(ctx(t), &cri.StatusRequest{Verbose: true})
	if err != nil || !strings.Contains(st.Info["info"], `"podCIDR":"10.221.0.0/16"`) || !slices.ContainsFunc(st.RuntimeHandlers, func(h *cri.RuntimeHandler) bool {
		return h.Name == "" && h.Features.RecursiveReadOnlyMounts && h.Features.UserNamespaces
	}) || !st.Features.SupplementalGroupsPolicy || !st.Features.MountOptions {
		t.Errorf("status: %v, %v", st, err)
	}
	if c, err := tr.rt.RuntimeConfig(ctx(t), &cri.RuntimeConfigRequest{}); err != nil || c.GetLinux() == nil {
		t.Errorf("runtime configuration: %v, %v", c, err)
	}
	for what, err := range map[string]error{
		"CheckpointContainer": second(tr.rt.CheckpointContainer(ctx(t), &cri.CheckpointContainerRequest{ContainerId: "x", Location: "/tmp/x"})),
		"CheckpointPod":       second(tr.rt.CheckpointPod(ctx(t), &cri.CheckpointPodRequest{PodSandboxId: "x"})),
		"RestorePod":          second(tr.rt.RestorePod(ctx(t), &cri.RestorePodRequest{CheckpointPath: "/tmp/x"})),
	} {
		if status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), "root parses") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// TestStatistics: statistics, metrics and events of one busy container.
func TestStatistics(t *testing.T) {
	tr := startTree(t, "baseline", "")
	tr.pull()
	watch := func() (next func() *cri.ContainerEventResponse, stop func()) {
		c, cancel := context.WithTimeout(t.Context(), limit(2*time.Minute))
		s, err := tr.rt.GetContainerEvents(c, &cri.GetEventsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return func() *cri.ContainerEventResponse {
			e, err := s.Recv()
			if err != nil {
				t.Fatalf("events: %v", err)
			}
			return e
		}, cancel
	}
	a, stopA := watch()
	defer stopA()
	b, stopB := watch()
	defer stopB()
	_, stopSlow := watch() // who never reads does not hold the others up
	defer stopSlow()
	// A subscription has no answer of its own: it is there when an event arrives.
	tr.eventually(20*time.Second, "both subscribers see an event", func() error {
		id := tr.runPod(tr.podConfig("first"))
		for _, next := range []func() *cri.ContainerEventResponse{a, b} {
			for e := next(); e.ContainerId != id || e.ContainerEventType != cri.ContainerEventType_CONTAINER_STARTED_EVENT; e = next() {
			}
		}
		return nil
	})
	p := tr.podConfig("busy")
	pod := tr.runPod(p)
	c := tr.ctrConfig("c", "dd if=/dev/zero of=/file bs=1k count=100 2>/dev/null; sync; while :; do :; done")
	c.Image.UserSpecifiedImage = "what/the:user-wrote"
	ctr := tr.create(pod, p, c)
	tr.start(ctr)
	if s, err := tr.rt.ContainerStatus(ctx(t), &cri.ContainerStatusRequest{ContainerId: ctr, Verbose: true}); err != nil || !strings.Contains(s.Info["info"], "cgroup") {
		t.Errorf("verbose: %v, %v", s.GetInfo(), err)
	}
	for _, next := range []func() *cri.ContainerEventResponse{a, b} {
		e := next()
		for ; e.ContainerId != ctr || e.ContainerEventType != cri.ContainerEventType_CONTAINER_STARTED_EVENT; e = next() {
		}
		if e.PodSandboxStatus.GetId() != pod || len(e.ContainersStatuses) != 1 || e.ContainersStatuses[0].State != cri.ContainerState_CONTAINER_RUNNING {
			t.Errorf("the event of a start: %v", e)
		}
	}

	tr.eventually(60*time.Second, "the statistics are there", func() error {
		s, err := tr.rt.PodSandboxStats(ctx(t), &cri.PodSandboxStatsRequest{PodSandboxId: pod})
		if err != nil {
			return err
		}
		l := s.Stats.GetLinux()
		if len(l.GetContainers()) != 1 || len(l.GetNetwork().GetInterfaces()) == 0 || l.GetNetwork().GetDefaultInterface().GetTxBytes().GetValue() == 0 {
			return fmt.Errorf("pod: %v", l)
		}
		c := l.Containers[0]
		if c.GetAttributes().GetMetadata().GetName() != "c" || c.GetCpu().GetUsageNanoCores().GetValue() == 0 || c.GetMemory().GetRssBytes().GetValue() == 0 ||
			c.GetWritableLayer().GetUsedBytes().GetValue() < 100<<10 || c.GetWritableLayer().GetInodesUsed().GetValue() == 0 || c.GetSwap() == nil || l.GetProcess().GetProcessCount().GetValue() == 0 {
			return fmt.Errorf("container: %v", c)
		}
		if v2() && (c.GetCpu().GetPsi().GetSome() == nil || c.GetMemory().GetPsi() == nil || c.GetIo().GetPsi() == nil) {
			if _, err := os.Stat("/proc/pressure/cpu"); err == nil {
				return fmt.Errorf("no pressure: %v", c)
			}
		}
		return nil
	})

	descriptors, err := tr.rt.ListMetricDescriptors(ctx(t), &cri.ListMetricDescriptorsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string][]string{}
	for _, d := range descriptors.Descriptors {
		keys[d.Name] = d.LabelKeys
	}
	tr.eventually(60*time.Second, "the metrics are there", func() error {
		m, err := tr.rt.ListPodSandboxMetrics(ctx(t), &cri.ListPodSandboxMetricsRequest{})
		if err != nil {
			return err
		}
		i := slices.IndexFunc(m.PodMetrics, func(p *cri.PodSandboxMetrics) bool { return p.PodSandboxId == pod })
		if i < 0 || len(m.PodMetrics[i].ContainerMetrics) != 1 {
			return fmt.Errorf("%v", m)
		}
		value := map[string]uint64{}
		for _, m := range m.PodMetrics[i].ContainerMetrics[0].Metrics {
			if len(m.LabelValues) != len(keys[m.Name]) {
				t.Fatalf("%s: labels %q for %q", m.Name, m.LabelValues, keys[m.Name])
			}
			label := map[string]string{}
			for i, k := range keys[m.Name] {
				label[k] = m.LabelValues[i]
			}
			if label["container"] != "c" || label["pod"] != "busy" || label["namespace"] != "e2e" || label["name"] != ctr || label["image"] != c.Image.UserSpecifiedImage || !strings.HasSuffix(label["id"], ctr) {
				t.Fatalf("%s: labels %v", m.Name, label)
			}
			value[m.Name] += m.Value.GetValue()
		}
		for _, n := range []string{"container_cpu_usage_seconds_total", "container_memory_working_set_bytes", "container_memory_rss", "container_memory_max_usage_bytes",
			"container_memory_failures_total", "container_fs_usage_bytes", "container_fs_limit_bytes", "container_processes", "container_threads", "container_threads_max",
			"container_start_time_seconds", "container_last_seen"} {
			if value[n] == 0 {
				return fmt.Errorf("%s is 0 or missing: %v", n, value)
			}
		}
		for _, m := range m.PodMetrics[i].Metrics {
			if m.Name == "container_network_transmit_bytes_total" && m.Value.GetValue() > 0 && m.LabelValues[len(m.LabelValues)-1] == "eth0" {
				return nil
			}
		}
		return fmt.Errorf("no bytes on eth0: %v", m.PodMetrics[i].Metrics)
	})
	if out, err := tr.rt.StreamPodSandboxMetrics(ctx(t), &cri.StreamPodSandboxMetricsRequest{}); err != nil {
		t.Error(err)
	} else if m, err := out.Recv(); err != nil || len(m.PodSandboxMetrics) == 0 {
		t.Errorf("streamed metrics: %v, %v", m, err)
	}
	if out, err := tr.rt.StreamContainers(ctx(t), &cri.StreamContainersRequest{Filter: &cri.ContainerFilter{Id: ctr}}); err != nil {
		t.Error(err)
	} else if c, err := out.Recv(); err != nil || len(c.Containers) != 1 {
		t.Errorf("streamed containers: %v, %v", c, err)
	}

	if _, err := tr.rt.StopContainer(ctx(t), &cri.StopContainerRequest{ContainerId: ctr}); err != nil {
		t.Fatal(err)
	}
	e := a()
	for ; e.ContainerId != ctr || e.ContainerEventType != cri.ContainerEventType_CONTAINER_STOPPED_EVENT; e = a() {
	}
	if s := e.ContainersStatuses; len(s) != 1 || s[0].State != cri.ContainerState_CONTAINER_EXITED || s[0].ExitCode != 137 {
		t.Errorf("the event of an end: %v", e)
	}
}

func v2() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err == nil
}
