package cri

import (
	"context"
	"strings"
	"time"

	"github.com/postern-cri/postern/runtime/stats"
	"github.com/postern-cri/postern/runtime/store"
	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// sample is what is measured of one container, or of a pod, at a time.
type sample struct {
	labels []string // as baseLabels
	now    time.Time
	cpu    *stats.CPU
	mem    *stats.Memory
	disks  []stats.Disk
	net    []stats.Interface
	io     [2]*stats.Pressure // some, full
	ooms   *uint64
	tasks  *[2]uint64 // now, limit
	procs  *uint64
	layer  *layerUsage // of a container's root
	fs     stats.Filesystem
	ctr    *store.Container
}

// baseLabels stand on every metric, as on the kubelet's own. id is the cgroup.
var baseLabels = []string{"id", "name", "image", "container", "pod", "namespace"}

func (s *Server) sampleGroup(labels []string, cgroup string) *sample {
	m := &sample{labels: labels, now: time.Now()}
	if v, err := s.cgroups.AllCPU(cgroup); err == nil {
		m.cpu = &v
	}
	if v, err := s.cgroups.AllMemory(cgroup); err == nil {
		m.mem = &v
	}
	if v, err := s.cgroups.OOMKills(cgroup); err == nil {
		m.ooms = &v
	}
	if now, limit, err := s.cgroups.Tasks(cgroup); err == nil {
		m.tasks = &[2]uint64{now, limit}
	}
	m.disks = s.cgroups.Disks(cgroup)
	m.io[0], m.io[1] = s.cgroups.IO(cgroup)
	return m
}

func cgroupID(name string) string { return "/" + strings.TrimLeft(name, "/") }

// samplePod measures a pod as a whole: its cgroup and its interfaces.
func (s *Server) samplePod(ctx context.Context, p *store.Pod) *sample {
	m := s.sampleGroup([]string{cgroupID(p.Cgroup), p.ID, "", "", p.Name, p.Namespace}, p.Cgroup)
	m.net = s.network(ctx, p).list
	return m
}

func (s *Server) sampleContainer(p *store.Pod, c *store.Container, fs stats.Filesystem) *sample {
	m := s.sampleGroup([]string{cgroupID(c.Cgroup), c.ID, c.UserImage, c.Name, p.Name, p.Namespace}, c.Cgroup)
	m.ctr, m.fs = c, fs
	if v, err := s.cgroups.Processes(c.Cgroup); err == nil {
		m.procs = &v
	}
	if l := s.usage.layer(c.ID); l.at > 0 {
		m.layer = &l
	}
	return m
}

// collect turns a sample into metrics.
func (m *sample) collect() []*cri.Metric {
	var out []*cri.Metric
	at := m.now.UnixNano()
	for i := range families {
		f := &families[i]
		kind := cri.MetricType_GAUGE
		if f.counter {
			kind = cri.MetricType_COUNTER
		}
		f.read(m, func(value uint64, extra ...string) {
			out = append(out, &cri.Metric{Name: f.name, Timestamp: at, MetricType: kind,
				LabelValues: append(m.labels[:len(m.labels):len(m.labels)], extra...), Value: u64(value)})
		})
	}
	return out
}

// ListMetricDescriptors names the metrics.
func (s *Server) ListMetricDescriptors(ctx context.Context, _ *cri.ListMetricDescriptorsRequest) (*cri.ListMetricDescriptorsResponse, error) {
	if err := s.askRead(ctx, "ListMetricDescriptors"); err != nil {
		return nil, err
	}
	a := &cri.ListMetricDescriptorsResponse{}
	for _, f := range families {
		a.Descriptors = append(a.Descriptors, &cri.MetricDescriptor{
			Name: f.name, Help: f.help, LabelKeys: append(baseLabels[:len(baseLabels):len(baseLabels)], f.labels...),
		})
	}
	return a, nil
}

func (s *Server) podMetrics(ctx context.Context) []*cri.PodSandboxMetrics {
	var out []*cri.PodSandboxMetrics
	fs, err := stats.FilesystemOf(s.stateDir)
	if err != nil {
		s.log.Warn("measuring the writable layers' file system", "error", err)
	}
	for _, p := range s.store.Pods() {
		if p.State != store.Running {
			continue
		}
		pm := &cri.PodSandboxMetrics{PodSandboxId: p.ID, Metrics: s.samplePod(ctx, p).collect()}
		for _, c := range s.store.Containers(p.ID) {
			if c.State == store.Running {
				pm.ContainerMetrics = append(pm.ContainerMetrics, &cri.ContainerMetrics{
					ContainerId: c.ID, Metrics: s.sampleContainer(p, c, fs).collect(),
				})
			}
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
