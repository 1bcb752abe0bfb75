package stats

// Memory is what a cgroup's memory controller counts.
type Memory struct {
	Usage, WorkingSet, RSS   uint64
	Cache, MappedFile        uint64
	Kernel                   uint64
	ActiveFile, InactiveFile uint64
	Dirty, Writeback         uint64
	PageFaults, MajorFaults  uint64
	Peak                     uint64 // the most that was used
	Failures                 uint64 // how often the limit was reached
	High                     uint64 // how often memory.high was; version 2
	Scanned, Stolen          uint64 // pages that reclaim looked at and took; version 2
	RefaultFile, RefaultAnon uint64
	Limit                    uint64 // 0 is none
	SwapUsage, SwapLimit     uint64
	HasSwap                  bool
	Some, Full               *Pressure
}

// Memory reads the memory counters of a cgroup but for the peak, the kernel's and
// the failures.
func (c *Cgroups) Memory(cgroup string) (Memory, error) {
	var m Memory
	var err error
	usage, limit, prefix := "memory.usage_in_bytes", "memory.limit_in_bytes", "total_"
	rss, cache, mapped, dirty, writeback := "rss", "cache", "mapped_file", "dirty", "writeback"
	if c.v2 {
		usage, limit, prefix = "memory.current", "memory.max", ""
		rss, cache, mapped, dirty, writeback = "anon", "file", "file_mapped", "file_dirty", "file_writeback"
	}
	if m.Usage, err = c.number("memory", cgroup, usage); err != nil {
		return m, err
	}
	t, err := c.table("memory", cgroup, "memory.stat")
	if err != nil {
		return m, err
	}
	for name, into := range map[string]*uint64{
		rss: &m.RSS, cache: &m.Cache, mapped: &m.MappedFile, dirty: &m.Dirty, writeback: &m.Writeback,
		"active_file": &m.ActiveFile, "inactive_file": &m.InactiveFile, "pgfault": &m.PageFaults, "pgmajfault": &m.MajorFaults,
		"workingset_refault_file": &m.RefaultFile, "workingset_refault_anon": &m.RefaultAnon, "pgscan": &m.Scanned, "pgsteal": &m.Stolen,
	} {
		*into = t[prefix+name]
	}
	if m.WorkingSet = m.Usage - m.InactiveFile; m.InactiveFile > m.Usage {
		m.WorkingSet = 0
	}
	m.Limit, _ = c.number("memory", cgroup, limit)
	if c.v2 {
		m.Kernel = t["kernel"]
		m.Some, m.Full = c.pressure(cgroup, "memory.pressure")
	}
	c.swap(cgroup, &m)
	return m, nil
}

// AllMemory reads every counter, for metrics.
func (c *Cgroups) AllMemory(cgroup string) (Memory, error) {
	m, err := c.Memory(cgroup)
	if err != nil {
		return m, err
	}
	if c.v2 {
		m.Peak, _ = c.number("", cgroup, "memory.peak")
		if e, err := c.table("", cgroup, "memory.events"); err == nil {
			m.Failures, m.High = e["max"], e["high"]
		}
		return m, nil
	}
	m.Peak, _ = c.number("memory", cgroup, "memory.max_usage_in_bytes")
	m.Kernel, _ = c.number("memory", cgroup, "memory.kmem.usage_in_bytes")
	m.Failures, _ = c.number("memory", cgroup, "memory.failcnt")
	return m, nil
}

func (c *Cgroups) swap(cgroup string, m *Memory) {
	if c.v2 {
		n, err := c.number("", cgroup, "memory.swap.current")
		if err != nil {
			return
		}
		m.SwapUsage, m.HasSwap = n, true
		m.SwapLimit, _ = c.number("", cgroup, "memory.swap.max")
		return
	}
	n, err := c.number("memory", cgroup, "memory.memsw.usage_in_bytes")
	if err != nil {
		return
	}
	m.HasSwap = true
	if n > m.Usage {
		m.SwapUsage = n - m.Usage
	}
	if limit, _ := c.number("memory", cgroup, "memory.memsw.limit_in_bytes"); limit > m.Limit && m.Limit > 0 {
		m.SwapLimit = limit - m.Limit
	}
}

// OOMKills counts the processes of the cgroup that the kernel killed because a
// memory limit was reached.
func (c *Cgroups) OOMKills(cgroup string) (uint64, error) {
	controller, file := "memory", "memory.oom_control"
	if c.v2 {
		controller, file = "", "memory.events"
	}
	t, err := c.table(controller, cgroup, file)
	return t["oom_kill"], err
}

// OOMKilled reports whether there was one.
func (c *Cgroups) OOMKilled(cgroup string) bool {
	n, err := c.OOMKills(cgroup)
	return err == nil && n > 0
}
