package cri

import (
	"strings"

	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/runtime/stats"
)

// family is one metric: what it is called, and its values in a sample.
//
// The names and labels are those that the kubelet's cAdvisor has, because the
// kubelet serves these in its place. Values are whole numbers: CRI has no others.
// Left out is what cAdvisor reads from the files of the processes (descriptors,
// sockets, ulimits: nothing without privilege can) and from controllers that no
// kernel has any more (merged and queued requests of CFQ).
type family struct {
	name, help string
	counter    bool
	labels     []string
	read       func(m *sample, put func(value uint64, labels ...string))
}

type put = func(value uint64, labels ...string)

const second = 1_000_000_000

func ofCPU(value func(*stats.CPU) uint64, labels ...string) func(*sample, put) {
	return func(m *sample, put put) {
		if m.cpu != nil {
			put(value(m.cpu), labels...)
		}
	}
}

func ofMemory(value func(*stats.Memory) uint64) func(*sample, put) {
	return func(m *sample, put put) {
		if m.mem != nil {
			put(value(m.mem))
		}
	}
}

func ofDisks(value func(*stats.Disk) uint64) func(*sample, put) {
	return func(m *sample, put put) {
		for i := range m.disks {
			put(value(&m.disks[i]), m.disks[i].Device)
		}
	}
}

func ofNetwork(value func(*stats.Interface) uint64) func(*sample, put) {
	return func(m *sample, put put) {
		for i := range m.net {
			put(value(&m.net[i]), m.net[i].Name)
		}
	}
}

// ofFilesystem is of the file system that the writable layers lie on.
func ofFilesystem(value func(*sample) uint64) func(*sample, put) {
	return func(m *sample, put put) {
		if m.layer != nil {
			put(value(m), m.fs.Device)
		}
	}
}

func ofPressure(value func(*sample) *stats.Pressure) func(*sample, put) {
	return func(m *sample, put put) {
		if p := value(m); p != nil {
			put(p.TotalNanos / second)
		}
	}
}

// ofSpec is what a container was limited to.
func ofSpec(value func(*plan.Resources) int64) func(*sample, put) {
	return func(m *sample, put put) {
		if m.ctr != nil && m.ctr.Resources != nil {
			put(uint64(max(value(m.ctr.Resources), 0)))
		}
	}
}

func ofValue(value func(*sample) *uint64) func(*sample, put) {
	return func(m *sample, put put) {
		if v := value(m); v != nil {
			put(*v)
		}
	}
}

func ofTasks(i int) func(*sample, put) {
	return ofValue(func(m *sample) *uint64 {
		if m.tasks == nil {
			return nil
		}
		return &m.tasks[i]
	})
}

func cpuPressure(full bool) func(*sample) *stats.Pressure {
	return func(m *sample) *stats.Pressure {
		switch {
		case m.cpu == nil:
			return nil
		case full:
			return m.cpu.Full
		}
		return m.cpu.Some
	}
}

func memoryPressure(full bool) func(*sample) *stats.Pressure {
	return func(m *sample) *stats.Pressure {
		switch {
		case m.mem == nil:
			return nil
		case full:
			return m.mem.Full
		}
		return m.mem.Some
	}
}

func failures(m *sample, put put) {
	if m.mem == nil {
		return
	}
	for _, scope := range []string{"container", "hierarchy"} { // nothing lies beneath that we know of
		put(m.mem.PageFaults, "pgfault", scope)
		put(m.mem.MajorFaults, "pgmajfault", scope)
	}
}

func blkio(m *sample, put put) {
	for _, d := range m.disks {
		major, minor, _ := strings.Cut(d.Device, ":")
		put(d.ReadBytes, d.Device, major, minor, "Read")
		put(d.WrittenBytes, d.Device, major, minor, "Write")
	}
}

func started(m *sample, put put) {
	if m.ctr != nil && m.ctr.Started > 0 {
		put(uint64(m.ctr.Started / second))
	}
}

var (
	device = []string{"device"}
	iface  = []string{"interface"}
)

var families = []family{
	{"container_last_seen", "When the container was last measured, in seconds since the epoch", false, nil, func(m *sample, put put) { put(uint64(m.now.Unix())) }},
	{"container_start_time_seconds", "When the container was started, in seconds since the epoch", false, nil, started},

	{"container_cpu_usage_seconds_total", "Processor time", true, []string{"cpu"}, ofCPU(func(c *stats.CPU) uint64 { return c.UsageNanos / second }, "total")},
	{"container_cpu_user_seconds_total", "Processor time in user mode", true, nil, ofCPU(func(c *stats.CPU) uint64 { return c.UserNanos / second })},
	{"container_cpu_system_seconds_total", "Processor time in the kernel", true, nil, ofCPU(func(c *stats.CPU) uint64 { return c.SystemNanos / second })},
	{"container_cpu_cfs_periods_total", "Periods in which the quota was accounted", true, nil, ofCPU(func(c *stats.CPU) uint64 { return c.Periods })},
	{"container_cpu_cfs_throttled_periods_total", "Periods in which the quota was used up", true, nil, ofCPU(func(c *stats.CPU) uint64 { return c.ThrottledPeriods })},
	{"container_cpu_cfs_throttled_seconds_total", "Time for which the quota held the container back", true, nil, ofCPU(func(c *stats.CPU) uint64 { return c.ThrottledNanos / second })},
	{"container_cpu_cfs_burst_periods_total", "Periods in which more than the quota was used", true, nil, ofCPU(func(c *stats.CPU) uint64 { return c.BurstPeriods })},
	{"container_cpu_cfs_burst_seconds_total", "Time used beyond the quota", true, nil, ofCPU(func(c *stats.CPU) uint64 { return c.BurstNanos / second })},

	{"container_memory_cache", "Page cache", false, nil, ofMemory(func(m *stats.Memory) uint64 { return m.Cache })},
	{"container_memory_rss", "Anonymous memory", false, nil, ofMemory(func(m *stats.Memory) uint64 { return m.RSS })},
	{"container_memory_kernel_usage", "Memory of the kernel", false, nil, ofMemory(func(m *stats.Memory) uint64 { return m.Kernel })},
	{"container_memory_mapped_file", "Mapped files", false, nil, ofMemory(func(m *stats.Memory) uint64 { return m.MappedFile })},
	{"container_memory_swap", "Swap", false, nil, ofMemory(func(m *stats.Memory) uint64 { return m.SwapUsage })},
	{"container_memory_failcnt", "How often the limit was reached", true, nil, ofMemory(func(m *stats.Memory) uint64 { return m.Failures })},
	{"container_memory_usage_bytes", "Memory, the page cache included", false, nil, ofMemory(func(m *stats.Memory) uint64 { return m.Usage })},
	{"container_memory_max_usage_bytes", "The most memory that was used", false, nil, ofMemory(func(m *stats.Memory) uint64 { return m.Peak })},
	{"container_memory_working_set_bytes", "Memory without the inactive page cache", false, nil, ofMemory(func(m *stats.Memory) uint64 { return m.WorkingSet })},
	{"container_memory_total_active_file_bytes", "Active page cache", false, nil, ofMemory(func(m *stats.Memory) uint64 { return m.ActiveFile })},
	{"container_memory_total_inactive_file_bytes", "Inactive page cache", false, nil, ofMemory(func(m *stats.Memory) uint64 { return m.InactiveFile })},
	{"container_memory_failures_total", "Page faults", true, []string{"failure_type", "scope"}, failures},
	{"container_memory_events_high_total", "How often memory.high was reached", true, nil, ofMemory(func(m *stats.Memory) uint64 { return m.High })},
	{"container_memory_events_max_total", "How often memory.max was reached", true, nil, ofMemory(func(m *stats.Memory) uint64 { return m.Failures })},
	{"container_memory_file_dirty_bytes", "Page cache to be written", false, nil, ofMemory(func(m *stats.Memory) uint64 { return m.Dirty })},
	{"container_memory_file_writeback_bytes", "Page cache being written", false, nil, ofMemory(func(m *stats.Memory) uint64 { return m.Writeback })},
	{"container_memory_pgscan_total", "Pages that reclaim looked at", true, nil, ofMemory(func(m *stats.Memory) uint64 { return m.Scanned })},
	{"container_memory_pgsteal_total", "Pages that reclaim took", true, nil, ofMemory(func(m *stats.Memory) uint64 { return m.Stolen })},
	{"container_memory_workingset_refault_file_total", "Pages of files that came back after they were reclaimed", true, nil, ofMemory(func(m *stats.Memory) uint64 { return m.RefaultFile })},
	{"container_memory_workingset_refault_anon_total", "Anonymous pages that came back after they were reclaimed", true, nil, ofMemory(func(m *stats.Memory) uint64 { return m.RefaultAnon })},
	{"container_oom_events_total", "Processes that were killed for a memory limit", true, nil, ofValue(func(m *sample) *uint64 { return m.ooms })},

	{"container_fs_inodes_free", "Free inodes of the writable layer's file system", false, device, ofFilesystem(func(m *sample) uint64 { return m.fs.FreeInodes })},
	{"container_fs_inodes_total", "Inodes of the writable layer's file system", false, device, ofFilesystem(func(m *sample) uint64 { return m.fs.Inodes })},
	{"container_fs_limit_bytes", "Size of the writable layer's file system", false, device, ofFilesystem(func(m *sample) uint64 { return m.fs.Bytes })},
	{"container_fs_usage_bytes", "Size of the writable layer", false, device, ofFilesystem(func(m *sample) uint64 { return m.layer.bytes })},
	{"container_fs_reads_bytes_total", "Bytes read from a disk", true, device, ofDisks(func(d *stats.Disk) uint64 { return d.ReadBytes })},
	{"container_fs_reads_total", "Reads from a disk", true, device, ofDisks(func(d *stats.Disk) uint64 { return d.Reads })},
	{"container_fs_writes_bytes_total", "Bytes written to a disk", true, device, ofDisks(func(d *stats.Disk) uint64 { return d.WrittenBytes })},
	{"container_fs_writes_total", "Writes to a disk", true, device, ofDisks(func(d *stats.Disk) uint64 { return d.Writes })},
	{"container_blkio_device_usage_total", "Bytes read from and written to a disk", true, []string{"device", "major", "minor", "operation"}, blkio},

	{"container_network_receive_bytes_total", "Bytes received", true, iface, ofNetwork(func(i *stats.Interface) uint64 { return i.RxBytes })},
	{"container_network_receive_packets_total", "Packets received", true, iface, ofNetwork(func(i *stats.Interface) uint64 { return i.RxPackets })},
	{"container_network_receive_packets_dropped_total", "Packets dropped while receiving", true, iface, ofNetwork(func(i *stats.Interface) uint64 { return i.RxDropped })},
	{"container_network_receive_errors_total", "Errors while receiving", true, iface, ofNetwork(func(i *stats.Interface) uint64 { return i.RxErrors })},
	{"container_network_transmit_bytes_total", "Bytes sent", true, iface, ofNetwork(func(i *stats.Interface) uint64 { return i.TxBytes })},
	{"container_network_transmit_packets_total", "Packets sent", true, iface, ofNetwork(func(i *stats.Interface) uint64 { return i.TxPackets })},
	{"container_network_transmit_packets_dropped_total", "Packets dropped while sending", true, iface, ofNetwork(func(i *stats.Interface) uint64 { return i.TxDropped })},
	{"container_network_transmit_errors_total", "Errors while sending", true, iface, ofNetwork(func(i *stats.Interface) uint64 { return i.TxErrors })},

	{"container_processes", "Processes", false, nil, ofValue(func(m *sample) *uint64 { return m.procs })},
	{"container_threads", "Threads", false, nil, ofTasks(0)},
	{"container_threads_max", "The most threads that may be; 0 is no limit", false, nil, ofTasks(1)},

	{"container_pressure_cpu_waiting_seconds_total", "Time in which some task waited for a processor", true, nil, ofPressure(cpuPressure(false))},
	{"container_pressure_cpu_stalled_seconds_total", "Time in which all tasks waited for a processor", true, nil, ofPressure(cpuPressure(true))},
	{"container_pressure_memory_waiting_seconds_total", "Time in which some task waited for memory", true, nil, ofPressure(memoryPressure(false))},
	{"container_pressure_memory_stalled_seconds_total", "Time in which all tasks waited for memory", true, nil, ofPressure(memoryPressure(true))},
	{"container_pressure_io_waiting_seconds_total", "Time in which some task waited for a disk", true, nil, ofPressure(func(m *sample) *stats.Pressure { return m.io[0] })},
	{"container_pressure_io_stalled_seconds_total", "Time in which all tasks waited for a disk", true, nil, ofPressure(func(m *sample) *stats.Pressure { return m.io[1] })},

	{"container_spec_cpu_period", "Period of the quota, in microseconds", false, nil, ofSpec(func(r *plan.Resources) int64 { return int64(r.CPUPeriod) })},
	{"container_spec_cpu_quota", "Quota of processor time, in microseconds a period; 0 is none", false, nil, ofSpec(func(r *plan.Resources) int64 { return r.CPUQuota })},
	{"container_spec_cpu_shares", "Share of processor time", false, nil, ofSpec(func(r *plan.Resources) int64 { return int64(r.CPUShares) })},
	{"container_spec_memory_limit_bytes", "Limit of memory; 0 is none", false, nil, ofSpec(func(r *plan.Resources) int64 { return r.Memory })},
	{"container_spec_memory_swap_limit_bytes", "Limit of memory and swap together; 0 is none", false, nil, ofSpec(func(r *plan.Resources) int64 { return r.MemorySwap })},
	{"container_spec_memory_reservation_limit_bytes", "Memory that is set aside: CRI cannot ask for any", false, nil, ofSpec(func(*plan.Resources) int64 { return 0 })},
}
