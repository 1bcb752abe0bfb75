package stats

import "bytes"

// Tasks counts the tasks of a cgroup, threads each, and their limit; 0 is none.
func (c *Cgroups) Tasks(cgroup string) (now, limit uint64, err error) {
	if now, err = c.number("pids", cgroup, "pids.current"); err == nil {
		limit, _ = c.number("pids", cgroup, "pids.max")
	}
	return now, limit, err
}

// Processes counts the processes of a cgroup, of none beneath it.
func (c *Cgroups) Processes(cgroup string) (uint64, error) {
	b, err := c.read("pids", cgroup, "cgroup.procs")
	return uint64(bytes.Count(b, []byte("\n"))), err
}
