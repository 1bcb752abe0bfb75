package stats

// CPU is processor time, and how the quota held it back.
type CPU struct {
	UsageNanos, UserNanos, SystemNanos uint64
	Periods, ThrottledPeriods          uint64
	ThrottledNanos                     uint64
	BurstPeriods, BurstNanos           uint64
	Some, Full                         *Pressure
}

// CPU reads the processor time of a cgroup, and the pressure. With version 1 the
// rest stays zero: each counter is a file, and the kubelet asks for all containers
// every few seconds.
func (c *Cgroups) CPU(cgroup string) (u CPU, err error) {
	if !c.v2 {
		u.UsageNanos, err = c.number("cpuacct", cgroup, "cpuacct.usage")
		return u, err
	}
	t, err := c.table("", cgroup, "cpu.stat")
	if err != nil {
		return u, err
	}
	u.UsageNanos, u.UserNanos, u.SystemNanos = t["usage_usec"]*1000, t["user_usec"]*1000, t["system_usec"]*1000
	u.Periods, u.ThrottledPeriods, u.ThrottledNanos = t["nr_periods"], t["nr_throttled"], t["throttled_usec"]*1000
	u.BurstPeriods, u.BurstNanos = t["nr_bursts"], t["burst_usec"]*1000
	u.Some, u.Full = c.pressure(cgroup, "cpu.pressure")
	return u, nil
}

// AllCPU reads every counter, for metrics.
func (c *Cgroups) AllCPU(cgroup string) (CPU, error) {
	u, err := c.CPU(cgroup)
	if err != nil || c.v2 {
		return u, err
	}
	u.UserNanos, _ = c.number("cpuacct", cgroup, "cpuacct.usage_user")
	u.SystemNanos, _ = c.number("cpuacct", cgroup, "cpuacct.usage_sys")
	if t, err := c.table("cpu", cgroup, "cpu.stat"); err == nil {
		u.Periods, u.ThrottledPeriods, u.ThrottledNanos = t["nr_periods"], t["nr_throttled"], t["throttled_time"]
		u.BurstPeriods, u.BurstNanos = t["nr_bursts"], t["burst_time"]
	}
	return u, nil
}
