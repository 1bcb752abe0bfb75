//go:build linux && cgo && seccomp

package launch

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"
)

// patience is how long killed processes may take to go.
const patience = 10 * time.Second

// delete kills what is left of a container and removes its cgroups and state. It
// works on what is there: a container that was never finished, whose state is
// gone, or that was deleted before.
func (o *operation) delete() error {
	if strings.ContainsAny(o.ID, "/\x00") || o.ID == "." || o.ID == ".." {
		return fmt.Errorf("%q is no container", o.ID)
	}
	dir := filepath.Join(o.StateDir, o.ID)
	m, err := o.cgroupsOf()
	if err != nil {
		return err
	}
	f, _ := o.external() // what is half written was written before anything was made
	if m != nil {
		if err := killAll(m); err != nil {
			return err
		}
	}
	if f != nil {
		if err := f.delete(); err != nil {
			return err
		}
	}
	if m != nil {
		if err := m.Destroy(); err != nil {
			return fmt.Errorf("removing cgroups: %w", err)
		}
	}
	return os.RemoveAll(dir)
}

// cgroupsOf finds the container's cgroups by its state, or by the path in the
// request where there is no state that can be read. It is nil where neither is.
func (o *operation) cgroupsOf() (cgroups.Manager, error) {
	c, err := libcontainer.Load(o.StateDir, o.ID)
	if err == nil {
		st, err := c.State()
		if err != nil {
			return nil, err
		}
		// A container of its own PID namespace goes with its first process; one
		// that shares its pod's is found by its cgroup below.
		_ = c.Signal(unix.SIGKILL)
		cfg := c.Config()
		return manager.NewWithPaths(cfg.Cgroups, st.CgroupPaths)
	}
	if o.CgroupPath == "" || o.CgroupPath == "/" || filepath.Clean(o.CgroupPath) != o.CgroupPath {
		return nil, nil
	}
	return manager.New(cgroupAt(o.CgroupPath, &cgroups.Resources{}))
}

// killAll kills every process of the cgroup until none is there. Fork bombs are
// stopped by freezing first, or by the kernel's own cgroup.kill.
func killAll(m cgroups.Manager) error {
	if p := m.Path(""); p != "" && cgroups.IsCgroup2UnifiedMode() {
		_ = os.WriteFile(filepath.Join(p, "cgroup.kill"), []byte("1"), 0)
	}
	wait := 200 * time.Microsecond
	for deadline := time.Now().Add(patience); ; {
		pids, err := m.GetAllPids()
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) || err == nil && len(pids) == 0 {
			return nil
		}
		if err != nil {
			return fmt.Errorf("listing processes: %w", err)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d processes do not go", len(pids))
		}
		if wait > 5*time.Millisecond { // not the ordinary case of one dying process
			_ = m.Freeze(cgroups.Frozen)
			if pids, err = m.GetAllPids(); err != nil {
				pids = nil
			}
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		_ = m.Freeze(cgroups.Thawed)
		time.Sleep(wait)
		wait = min(2*wait, 50*time.Millisecond)
	}
}
