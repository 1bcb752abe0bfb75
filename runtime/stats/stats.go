// Package stats reads what containers use: the cgroup files of version 1 or 2,
// and the interface counters of a pod. It only reads, by the cgroup names that
// the privileged side returned.
package stats

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxFile is the most bytes read of one cgroup file.
const maxFile = 64 << 10

// Cgroups reads cgroup files beneath one mount point.
type Cgroups struct {
	root string
	v2   bool
}

// New looks at the cgroup mounts beneath root, usually /sys/fs/cgroup.
func New(root string) *Cgroups {
	_, err := os.Stat(filepath.Join(root, "cgroup.controllers"))
	return &Cgroups{root: root, v2: err == nil}
}

// V2 reports whether version 2 rules alone.
func (c *Cgroups) V2() bool { return c.v2 }

// CPU is processor time.
type CPU struct {
	UsageNanos uint64
	Some, Full *Pressure
}

// Memory is what a cgroup's memory controller counts.
type Memory struct {
	Usage, WorkingSet, RSS  uint64
	PageFaults, MajorFaults uint64
	Limit                   uint64 // 0 is none
	SwapUsage, SwapLimit    uint64
	HasSwap                 bool
	Some, Full              *Pressure
}

// Pressure is one line of a pressure file: the averages in percent and the
// total in nanoseconds.
type Pressure struct {
	Avg10, Avg60, Avg300 float64
	TotalNanos           uint64
}

func (c *Cgroups) path(controller, cgroup, file string) (string, error) {
	if cgroup == "" || !filepath.IsLocal(strings.TrimLeft(cgroup, "/")) {
		return "", fmt.Errorf("cgroup name %q", cgroup)
	}
	if c.v2 {
		controller = ""
	}
	return filepath.Join(c.root, controller, cgroup, file), nil
}

func (c *Cgroups) read(controller, cgroup, file string) ([]byte, error) {
	p, err := c.path(controller, cgroup, file)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(p)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile))
}

func (c *Cgroups) number(controller, cgroup, file string) (uint64, error) {
	b, err := c.read(controller, cgroup, file)
	if err != nil {
		return 0, err
	}
	return parseNumber(string(bytes.TrimSpace(b)))
}

// parseNumber reads a decimal; "max" and the huge numbers that version 1 writes
// for "no limit" are 0.
func parseNumber(s string) (uint64, error) {
	if s == "max" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("cgroup value %q", s)
	}
	if n >= 1<<62 {
		return 0, nil
	}
	return n, nil
}

// table reads a "key value" file.
func (c *Cgroups) table(controller, cgroup, file string) (map[string]uint64, error) {
	b, err := c.read(controller, cgroup, file)
	if err != nil {
		return nil, err
	}
	m := map[string]uint64{}
	for line := range bytes.Lines(b) {
		k, v, ok := strings.Cut(strings.TrimSpace(string(line)), " ")
		if n, err := strconv.ParseUint(v, 10, 64); ok && err == nil {
			m[k] = n
		}
	}
	return m, nil
}

// CPU reads the processor time of a cgroup.
func (c *Cgroups) CPU(cgroup string) (CPU, error) {
	var u CPU
	if !c.v2 {
		n, err := c.number("cpuacct", cgroup, "cpuacct.usage")
		u.UsageNanos = n
		return u, err
	}
	t, err := c.table("", cgroup, "cpu.stat")
	if err != nil {
		return u, err
	}
	u.UsageNanos = t["usage_usec"] * 1000
	u.Some, u.Full = c.pressure(cgroup, "cpu.pressure")
	return u, nil
}

// Memory reads the memory counters of a cgroup.
func (c *Cgroups) Memory(cgroup string) (Memory, error) {
	var m Memory
	var err error
	usage, limit, inactive, rss := "memory.usage_in_bytes", "memory.limit_in_bytes", "total_inactive_file", "total_rss"
	fault, major := "total_pgfault", "total_pgmajfault"
	if c.v2 {
		usage, limit, inactive, rss, fault, major = "memory.current", "memory.max", "inactive_file", "anon", "pgfault", "pgmajfault"
	}
	if m.Usage, err = c.number("memory", cgroup, usage); err != nil {
		return m, err
	}
	t, err := c.table("memory", cgroup, "memory.stat")
	if err != nil {
		return m, err
	}
	m.Limit, _ = c.number("memory", cgroup, limit)
	m.RSS, m.PageFaults, m.MajorFaults = t[rss], t[fault], t[major]
	if m.WorkingSet = m.Usage - t[inactive]; t[inactive] > m.Usage {
		m.WorkingSet = 0
	}
	c.swap(cgroup, &m)
	if c.v2 {
		m.Some, m.Full = c.pressure(cgroup, "memory.pressure")
	}
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

// IO reads the I/O pressure of a cgroup; version 1 has none.
func (c *Cgroups) IO(cgroup string) (some, full *Pressure) {
	if !c.v2 {
		return nil, nil
	}
	return c.pressure(cgroup, "io.pressure")
}

// Processes counts the tasks of a cgroup.
func (c *Cgroups) Processes(cgroup string) (uint64, error) {
	return c.number("pids", cgroup, "pids.current")
}

// OOMKilled reports whether the kernel killed a process of the cgroup because
// its memory limit was reached.
func (c *Cgroups) OOMKilled(cgroup string) bool {
	if c.v2 {
		t, err := c.table("", cgroup, "memory.events")
		return err == nil && t["oom_kill"] > 0
	}
	t, err := c.table("memory", cgroup, "memory.oom_control")
	return err == nil && t["oom_kill"] > 0
}

func (c *Cgroups) pressure(cgroup, file string) (some, full *Pressure) {
	b, err := c.read("", cgroup, file)
	if err != nil {
		return nil, nil
	}
	for line := range bytes.Lines(b) {
		var kind string
		var p Pressure
		n, _ := fmt.Sscanf(string(line), "%s avg10=%f avg60=%f avg300=%f total=%d", &kind, &p.Avg10, &p.Avg60, &p.Avg300, &p.TotalNanos)
		p.TotalNanos *= 1000
		switch {
		case n == 5 && kind == "some":
			some = &p
		case n == 5 && kind == "full":
			full = &p
		}
	}
	return some, full
}

// Interface are the counters of one network interface.
type Interface struct {
	Name                                 string
	RxBytes, RxErrors, TxBytes, TxErrors uint64
}

// NetDev reads the interface counters in r, a /proc/net/dev, but loopback's.
func NetDev(r io.Reader) ([]Interface, error) {
	var out []Interface
	s := bufio.NewScanner(io.LimitReader(r, 1<<20))
	for n := 0; s.Scan(); n++ {
		name, rest, ok := strings.Cut(s.Text(), ":")
		if !ok {
			continue // the two header lines
		}
		f := strings.Fields(rest)
		if len(f) < 16 {
			return nil, errors.New("a line of net/dev has too few fields")
		}
		i := Interface{Name: strings.TrimSpace(name)}
		for at, p := range map[int]*uint64{0: &i.RxBytes, 2: &i.RxErrors, 8: &i.TxBytes, 10: &i.TxErrors} {
			v, err := strconv.ParseUint(f[at], 10, 64)
			if err != nil {
				return nil, fmt.Errorf("net/dev of %s: %w", i.Name, err)
			}
			*p = v
		}
		if i.Name != "lo" {
			out = append(out, i)
		}
	}
	return out, s.Err()
}

// SameFilesystem reports whether two paths lie on one filesystem.
func SameFilesystem(a, b string) bool {
	var x, y unix.Stat_t
	return unix.Stat(a, &x) == nil && unix.Stat(b, &y) == nil && x.Dev == y.Dev
}
