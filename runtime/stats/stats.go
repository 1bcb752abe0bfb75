// Package stats reads what containers use: the cgroup files of version 1 or 2,
// and the interface counters of a pod. It only reads, by the cgroup names that
// the privileged side returned.
package stats

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxFile is the most bytes read of one cgroup file.
const maxFile = 1 << 20

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
	// Not by os.Open, which would put every one of them into epoll's list and out
	// again, for more than it costs to read it.
	fd, err := unix.Open(p, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: p, Err: err}
	}
	f := os.NewFile(uintptr(fd), p)
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
	m := make(map[string]uint64, bytes.Count(b, []byte("\n")))
	for line := range strings.Lines(string(b)) {
		k, v, ok := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseUint(v, 10, 64); ok && err == nil {
			m[k] = n
		}
	}
	return m, nil
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

// Filesystem is the size of a file system and what is left of it.
type Filesystem struct {
	Device                    string // major:minor
	Bytes, Inodes, FreeInodes uint64
}

// FilesystemOf measures the file system that path lies on.
func FilesystemOf(path string) (Filesystem, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return Filesystem{}, fmt.Errorf("statfs of %s: %w", path, err)
	}
	var at unix.Stat_t
	if err := unix.Stat(path, &at); err != nil {
		return Filesystem{}, fmt.Errorf("stat of %s: %w", path, err)
	}
	return Filesystem{fmt.Sprintf("%d:%d", unix.Major(at.Dev), unix.Minor(at.Dev)), st.Blocks * uint64(st.Bsize), st.Files, st.Ffree}, nil
}

// SameFilesystem reports whether two paths lie on one filesystem.
func SameFilesystem(a, b string) bool {
	var x, y unix.Stat_t
	return unix.Stat(a, &x) == nil && unix.Stat(b, &y) == nil && x.Dev == y.Dev
}
