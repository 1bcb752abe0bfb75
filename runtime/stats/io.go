package stats

import (
	"bytes"
	"strconv"
	"strings"
)

// Disk is what a cgroup read from and wrote to one block device.
type Disk struct {
	Device                  string // major:minor
	ReadBytes, WrittenBytes uint64
	Reads, Writes           uint64
}

// Disks reads the traffic with each block device.
func (c *Cgroups) Disks(cgroup string) []Disk {
	if c.v2 {
		return c.disks2(cgroup)
	}
	var out []Disk
	for _, f := range []struct {
		file string
		into func(*Disk, string) *uint64
	}{
		{"blkio.throttle.io_service_bytes_recursive", func(d *Disk, op string) *uint64 {
			return map[string]*uint64{"Read": &d.ReadBytes, "Write": &d.WrittenBytes}[op]
		}},
		{"blkio.throttle.io_serviced_recursive", func(d *Disk, op string) *uint64 {
			return map[string]*uint64{"Read": &d.Reads, "Write": &d.Writes}[op]
		}},
	} {
		b, err := c.read("blkio", cgroup, f.file)
		if err != nil {
			continue
		}
		for line := range bytes.Lines(b) {
			if w := strings.Fields(string(line)); len(w) == 3 { // the last line is the total
				out = disk(out, w[0])
				setNumber(f.into(&out[index(out, w[0])], w[1]), w[2])
			}
		}
	}
	return out
}

func (c *Cgroups) disks2(cgroup string) []Disk {
	b, err := c.read("", cgroup, "io.stat")
	if err != nil {
		return nil
	}
	var out []Disk
	for line := range bytes.Lines(b) {
		w := strings.Fields(string(line))
		if len(w) < 2 {
			continue // a device that has been named, and was not used
		}
		d := Disk{Device: w[0]}
		into := map[string]*uint64{"rbytes": &d.ReadBytes, "wbytes": &d.WrittenBytes, "rios": &d.Reads, "wios": &d.Writes}
		for _, kv := range w[1:] {
			k, v, _ := strings.Cut(kv, "=")
			setNumber(into[k], v)
		}
		out = append(out, d)
	}
	return out
}

func index(list []Disk, device string) int {
	for i := range list {
		if list[i].Device == device {
			return i
		}
	}
	return -1
}

func disk(list []Disk, device string) []Disk {
	if index(list, device) < 0 {
		list = append(list, Disk{Device: device})
	}
	return list
}

func setNumber(into *uint64, text string) {
	if n, err := strconv.ParseUint(text, 10, 64); err == nil && into != nil {
		*into = n
	}
}

// IO reads the I/O pressure of a cgroup; version 1 has none.
func (c *Cgroups) IO(cgroup string) (some, full *Pressure) {
	if !c.v2 {
		return nil, nil
	}
	return c.pressure(cgroup, "io.pressure")
}
