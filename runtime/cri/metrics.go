package cri

import (
	"context"
	"time"

	"github.com/postern-cri/postern/runtime/stats"
	"github.com/postern-cri/postern/runtime/store"
	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The metrics carry cAdvisor's names, because the kubelet serves them in
// cAdvisor's place.
type metric struct {
	name, help string
	counter    bool
	network    bool // has the interface as its last label; else of a container
	value      func(*sample) (uint64, bool)
}

type sample struct {
	cpu    stats.CPU
	mem    stats.Memory
	procs  uint64
	fs     layerUsage
	start  int64
	net    stats.Interface
	okCPU  bool
	okMem  bool
	okProc bool
}

var baseLabels = []string{"id", "name", "image"}

var metrics = []metric{
	{"container_cpu_usage_seconds_total", "Cumulative cpu time consumed", true, false, func(s *sample) (uint64, bool) { return s.cpu.UsageNanos / 1e9, s.okCPU }},
	{"container_memory_usage_bytes", "Current memory usage", false, false, func(s *sample) (uint64, bool) { return s.mem.Usage, s.okMem }},
	{"container_memory_working_set_bytes", "Current working set", false, false, func(s *sample) (uint64, bool) { return s.mem.WorkingSet, s.okMem }},
	{"container_memory_rss", "Size of RSS", false, false, func(s *sample) (uint64, bool) { return s.mem.RSS, s.okMem }},
	{"container_memory_swap", "Swap usage", false, false, func(s *sample) (uint64, bool) { return s.mem.SwapUsage, s.okMem && s.mem.HasSwap }},
	{"container_spec_memory_limit_bytes", "Memory limit", false, false, func(s *sample) (uint64, bool) { return s.mem.Limit, s.okMem }},
	{"container_processes", "Number of processes", false, false, func(s *sample) (uint64, bool) { return s.procs, s.okProc }},
	{"container_fs_usage_bytes", "Bytes of the writable layer", false, false, func(s *sample) (uint64, bool) { return s.fs.bytes, s.fs.at > 0 }},
	{"container_start_time_seconds", "Start time since the epoch", false, false, func(s *sample) (uint64, bool) { return uint64(s.start / 1e9), s.start > 0 }},
	{"container_network_receive_bytes_total", "Bytes received", true, true, func(s *sample) (uint64, bool) { return s.net.RxBytes, true }},
	{"container_network_receive_errors_total", "Errors while receiving", true, true, func(s *sample) (uint64, bool) { return s.net.RxErrors, true }},
	{"container_network_transmit_bytes_total", "Bytes sent", true, true, func(s *sample) (uint64, bool) { return s.net.TxBytes, true }},
	{"container_network_transmit_errors_total", "Errors while sending", true, true, func(s *sample) (uint64, bool) { return s.net.TxErrors, true }},
}

// ListMetricDescriptors names the metrics.
func (s *Server) ListMetricDescriptors(ctx context.Context, _ *cri.ListMetricDescriptorsRequest) (*cri.ListMetricDescriptorsResponse, error) {
	if err := s.askRead(ctx, "ListMetricDescriptors"); err != nil {
		return nil, err
	}
	a := &cri.ListMetricDescriptorsResponse{}
	for _, m := range metrics {
		d := &cri.MetricDescriptor{Name: m.name, Help: m.help, LabelKeys: baseLabels}
		if m.network {
			d.LabelKeys = append(append([]string{}, baseLabels...), "interface")
		}
		a.Descriptors = append(a.Descriptors, d)
	}
	return a, nil
}

func collect(network bool, sm *sample, labels []string) []*cri.Metric {
	now := time.Now().UnixNano()
	var out []*cri.Metric
	for _, m := range metrics {
		if m.network != network {
			continue
		}
		v, ok := m.value(sm)
		if !ok {
			continue
		}
		kind := cri.MetricType_GAUGE
		if m.counter {
			kind = cri.MetricType_COUNTER
		}
		out = append(out, &cri.Metric{Name: m.name, Timestamp: now, MetricType: kind, LabelValues: labels, Value: u64(v)})
	}
	return out
}

func (s *Server) podMetrics(ctx context.Context) []*cri.PodSandboxMetrics {
	var out []*cri.PodSandboxMetrics
	for _, p := range s.store.Pods() {
		if p.State != store.Running {
			continue
		}
		pm := &cri.PodSandboxMetrics{PodSandboxId: p.ID}
		for _, i := range s.network(ctx, p).list {
			pm.Metrics = append(pm.Metrics, collect(true, &sample{net: i}, []string{p.ID, "POD", "", i.Name})...)
		}
		for _, c := range s.store.Containers(p.ID) {
			if c.State != store.Running {
				continue
			}
			sm := &sample{fs: s.usage.layer(c.ID), start: c.Started}
			var err error
			sm.cpu, err = s.cgroups.CPU(c.Cgroup)
			sm.okCPU = err == nil
			sm.mem, err = s.cgroups.Memory(c.Cgroup)
			sm.okMem = err == nil
			sm.procs, err = s.cgroups.Processes(c.Cgroup)
			sm.okProc = err == nil
			pm.ContainerMetrics = append(pm.ContainerMetrics, &cri.ContainerMetrics{
				ContainerId: c.ID, Metrics: collect(false, sm, []string{c.ID, c.Name, c.UserImage}),
			})
		}
		out = append(out, pm)
	}
	return out
}

// ListPodSandboxMetrics measures all ready pods.
func (s *Server) ListPodSandboxMetrics(ctx context.Context, _ *cri.ListPodSandboxMetricsRequest) (*cri.ListPodSandboxMetricsResponse, error) {
	if err := s.askRead(ctx, "ListPodSandboxMetrics"); err != nil {
		return nil, err
	}
	return &cri.ListPodSandboxMetricsResponse{PodMetrics: s.podMetrics(ctx)}, nil
}

// StreamPodSandboxMetrics is ListPodSandboxMetrics in several messages.
func (s *Server) StreamPodSandboxMetrics(_ *cri.StreamPodSandboxMetricsRequest, out grpc.ServerStreamingServer[cri.StreamPodSandboxMetricsResponse]) error {
	if err := s.askRead(out.Context(), "StreamPodSandboxMetrics"); err != nil {
		return err
	}
	return sendChunks(s.podMetrics(out.Context()), func(p []*cri.PodSandboxMetrics) error {
		return out.Send(&cri.StreamPodSandboxMetricsResponse{PodSandboxMetrics: p})
	})
}
