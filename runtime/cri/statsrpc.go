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

func u64(n uint64) *cri.UInt64Value { return &cri.UInt64Value{Value: n} }

func psi(some, full *stats.Pressure) *cri.PsiStats {
	if some == nil && full == nil {
		return nil
	}
	one := func(p *stats.Pressure) *cri.PsiData {
		if p == nil {
			return nil
		}
		return &cri.PsiData{Total: p.TotalNanos, Avg10: p.Avg10, Avg60: p.Avg60, Avg300: p.Avg300}
	}
	return &cri.PsiStats{Some: one(some), Full: one(full)}
}

func (s *Server) cpu(id, cgroup string) *cri.CpuUsage {
	now := time.Now()
	u, err := s.cgroups.CPU(cgroup)
	if err != nil {
		return nil
	}
	return &cri.CpuUsage{
		Timestamp: now.UnixNano(), UsageCoreNanoSeconds: u64(u.UsageNanos), Psi: psi(u.Some, u.Full),
		UsageNanoCores: u64(s.rates.cores(id, u.UsageNanos, now)),
	}
}

func (s *Server) memory(cgroup string) (*cri.MemoryUsage, *cri.SwapUsage) {
	now := time.Now().UnixNano()
	m, err := s.cgroups.Memory(cgroup)
	if err != nil {
		return nil, nil
	}
	u := &cri.MemoryUsage{
		Timestamp: now, WorkingSetBytes: u64(m.WorkingSet), UsageBytes: u64(m.Usage), RssBytes: u64(m.RSS),
		PageFaults: u64(m.PageFaults), MajorPageFaults: u64(m.MajorFaults), Psi: psi(m.Some, m.Full), AvailableBytes: u64(0),
	}
	if m.Limit > m.WorkingSet {
		u.AvailableBytes = u64(m.Limit - m.WorkingSet)
	}
	sw := &cri.SwapUsage{Timestamp: now}
	if m.HasSwap {
		sw.SwapUsageBytes = u64(m.SwapUsage)
		sw.SwapAvailableBytes = u64(0)
		if m.SwapLimit > m.SwapUsage {
			sw.SwapAvailableBytes = u64(m.SwapLimit - m.SwapUsage)
		}
	}
	return u, sw
}

func (s *Server) containerStats(c *store.Container) *cri.ContainerStats {
	st := &cri.ContainerStats{Attributes: &cri.ContainerAttributes{
		Id: c.ID, Metadata: &cri.ContainerMetadata{Name: c.Name, Attempt: c.Attempt}, Labels: c.Labels, Annotations: c.Annotations,
	}}
	if c.State != store.Exited {
		st.Cpu = s.cpu(c.ID, c.Cgroup)
		st.Memory, st.Swap = s.memory(c.Cgroup)
		if some, full := s.cgroups.IO(c.Cgroup); some != nil {
			st.Io = &cri.IoUsage{Timestamp: time.Now().UnixNano(), Psi: psi(some, full)}
		}
	}
	// The kubelet dereferences these.
	if st.Cpu == nil {
		st.Cpu = &cri.CpuUsage{Timestamp: time.Now().UnixNano(), UsageCoreNanoSeconds: u64(0), UsageNanoCores: u64(0)}
	}
	if st.Memory == nil {
		st.Memory = &cri.MemoryUsage{Timestamp: time.Now().UnixNano(), WorkingSetBytes: u64(0)}
	}
	l := s.usage.layer(c.ID)
	if l.at == 0 {
		l.at = time.Now().UnixNano()
	}
	st.WritableLayer = filesystem(l.at, s.stateDir, l.bytes, l.inodes)
	return st
}

// ContainerStats measures one container.
func (s *Server) ContainerStats(ctx context.Context, r *cri.ContainerStatsRequest) (*cri.ContainerStatsResponse, error) {
	if err := s.askRead(ctx, "ContainerStats"); err != nil {
		return nil, err
	}
	c, err := s.store.Container(r.ContainerId)
	if err != nil {
		return nil, fail("ContainerStats", err)
	}
	if s.usage.missing(c.ID) {
		s.measureOne(ctx, c.ID)
	}
	return &cri.ContainerStatsResponse{Stats: s.containerStats(c)}, nil
}

func (s *Server) filterStats(f *cri.ContainerStatsFilter) []*cri.ContainerStats {
	var out []*cri.ContainerStats
	for _, c := range s.store.Containers("") {
		if c.State != store.Exited && idMatches(c.ID, f.GetId()) && idMatches(c.Pod, f.GetPodSandboxId()) && store.Matches(c.Labels, f.GetLabelSelector()) {
			out = append(out, s.containerStats(c))
		}
	}
	return out
}

// ListContainerStats measures all containers that have not ended.
func (s *Server) ListContainerStats(ctx context.Context, r *cri.ListContainerStatsRequest) (*cri.ListContainerStatsResponse, error) {
	if err := s.askRead(ctx, "ListContainerStats"); err != nil {
		return nil, err
	}
	return &cri.ListContainerStatsResponse{Stats: s.filterStats(r.Filter)}, nil
}

// StreamContainerStats is ListContainerStats in several messages.
func (s *Server) StreamContainerStats(r *cri.StreamContainerStatsRequest, out grpc.ServerStreamingServer[cri.StreamContainerStatsResponse]) error {
	if err := s.askRead(out.Context(), "StreamContainerStats"); err != nil {
		return err
	}
	return sendChunks(s.filterStats(r.Filter), func(c []*cri.ContainerStats) error {
		return out.Send(&cri.StreamContainerStatsResponse{ContainerStats: c})
	})
}

func (s *Server) podStats(ctx context.Context, p *store.Pod) *cri.PodSandboxStats {
	now := time.Now().UnixNano()
	l := &cri.LinuxPodSandboxStats{}
	st := &cri.PodSandboxStats{
		Attributes: &cri.PodSandboxAttributes{Id: p.ID, Metadata: podMetadata(p), Labels: p.Labels, Annotations: p.Annotations}, Linux: l,
	}
	cgroup := p.Cgroup
	l.Cpu = s.cpu(p.ID, cgroup)
	l.Memory, _ = s.memory(cgroup)
	if some, full := s.cgroups.IO(cgroup); some != nil {
		l.Io = &cri.IoUsage{Timestamp: now, Psi: psi(some, full)}
	}
	var processes uint64
	for _, c := range s.store.Containers(p.ID) {
		if c.State == store.Exited {
			continue
		}
		l.Containers = append(l.Containers, s.containerStats(c))
		if n, _, err := s.cgroups.Tasks(c.Cgroup); err == nil {
			processes += n
		}
	}
	l.Process = &cri.ProcessUsage{Timestamp: now, ProcessCount: u64(processes)}
	if n := s.network(ctx, p); n.at != 0 {
		l.Network = &cri.NetworkUsage{Timestamp: n.at}
		for _, i := range n.list {
			o := &cri.NetworkInterfaceUsage{Name: i.Name, RxBytes: u64(i.RxBytes), RxErrors: u64(i.RxErrors), TxBytes: u64(i.TxBytes), TxErrors: u64(i.TxErrors)}
			if l.Network.DefaultInterface == nil && strings.HasPrefix(i.Name, "eth") {
				l.Network.DefaultInterface = o
			}
			l.Network.Interfaces = append(l.Network.Interfaces, o)
		}
	}
	return st
}

// PodSandboxStats measures one pod.
func (s *Server) PodSandboxStats(ctx context.Context, r *cri.PodSandboxStatsRequest) (*cri.PodSandboxStatsResponse, error) {
	if err := s.askRead(ctx, "PodSandboxStats"); err != nil {
		return nil, err
	}
	p, err := s.store.Pod(r.PodSandboxId)
	if err != nil {
		return nil, fail("PodSandboxStats", err)
	}
	return &cri.PodSandboxStatsResponse{Stats: s.podStats(ctx, p)}, nil
}

func (s *Server) filterPodStats(ctx context.Context, f *cri.PodSandboxStatsFilter) []*cri.PodSandboxStats {
	var out []*cri.PodSandboxStats
	for _, p := range s.store.Pods() {
		if p.State == store.Running && idMatches(p.ID, f.GetId()) && store.Matches(p.Labels, f.GetLabelSelector()) {
			out = append(out, s.podStats(ctx, p))
		}
	}
	return out
}

// ListPodSandboxStats measures all ready pods.
func (s *Server) ListPodSandboxStats(ctx context.Context, r *cri.ListPodSandboxStatsRequest) (*cri.ListPodSandboxStatsResponse, error) {
	if err := s.askRead(ctx, "ListPodSandboxStats"); err != nil {
		return nil, err
	}
	return &cri.ListPodSandboxStatsResponse{Stats: s.filterPodStats(ctx, r.Filter)}, nil
}

// StreamPodSandboxStats is ListPodSandboxStats in several messages.
func (s *Server) StreamPodSandboxStats(r *cri.StreamPodSandboxStatsRequest, out grpc.ServerStreamingServer[cri.StreamPodSandboxStatsResponse]) error {
	if err := s.askRead(out.Context(), "StreamPodSandboxStats"); err != nil {
		return err
	}
	return sendChunks(s.filterPodStats(out.Context(), r.Filter), func(p []*cri.PodSandboxStats) error {
		return out.Send(&cri.StreamPodSandboxStatsResponse{PodSandboxStats: p})
	})
}
