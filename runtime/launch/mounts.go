//go:build linux && cgo && seccomp

package launch

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/spec"
)

const (
	noAll    = unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV
	shmBytes = 64 << 20
)

// mounts lists the kernel's file systems and then what the helper staged, in an
// order in which none hides an earlier one. A staged mount takes the place of the
// kernel's at the same path and, at /dev and /sys, of those beneath.
func (o *operation) mounts(cfg *configs.Config) error {
	own := o.kernelMounts()
	for i := range o.Mounts {
		m := &o.Mounts[i]
		c, err := staged(m)
		if err != nil {
			return err
		}
		own = slices.DeleteFunc(own, func(k *configs.Mount) bool { return replaces(m.To, k.Destination) })
		cfg.Mounts = append(cfg.Mounts, c)
		switch m.Propagation {
		case plan.Bidirectional:
			cfg.RootPropagation = unix.MS_SHARED | unix.MS_REC
		case plan.HostToContainer:
			if cfg.RootPropagation == 0 {
				cfg.RootPropagation = unix.MS_SLAVE | unix.MS_REC
			}
		}
	}
	// Of cgroup v1 the mounts are read-only, but not the tmpfs that holds them.
	const cg = "/sys/fs/cgroup"
	if !o.Plan.Privileged && !cgroups.IsCgroup2UnifiedMode() && slices.ContainsFunc(own, func(k *configs.Mount) bool { return k.Destination == cg }) {
		cfg.ReadonlyPaths = append(slices.Clone(cfg.ReadonlyPaths), cg)
		if o.Runtime != nil {
			// crun has those beneath writable again after that.
			list, err := os.ReadDir(cg)
			if err != nil {
				return err
			}
			for _, e := range list {
				cfg.ReadonlyPaths = append(cfg.ReadonlyPaths, path.Join(cg, e.Name()))
			}
		}
	}
	cfg.Mounts = append(own, cfg.Mounts...)
	slices.SortStableFunc(cfg.Mounts, func(a, b *configs.Mount) int {
		return strings.Count(a.Destination, "/") - strings.Count(b.Destination, "/")
	})
	return nil
}

// kernelMounts are proc, dev, sys and what is beneath them.
func (o *operation) kernelMounts() []*configs.Mount {
	readOnly := unix.MS_RDONLY
	if o.Plan.Privileged {
		readOnly = 0
	}
	list := []*configs.Mount{
		{Source: "proc", Destination: "/proc", Device: "proc", Flags: noAll},
		{Source: "tmpfs", Destination: "/dev", Device: "tmpfs", Flags: unix.MS_NOSUID | unix.MS_STRICTATIME, Data: "mode=755,size=65536k"},
		{Source: "devpts", Destination: "/dev/pts", Device: "devpts", Flags: unix.MS_NOSUID | unix.MS_NOEXEC,
			Data: "newinstance,ptmxmode=0666,mode=0620" + o.ttyGroup()},
		{Source: "sysfs", Destination: "/sys", Device: "sysfs", Flags: noAll | readOnly},
		{Source: "cgroup", Destination: "/sys/fs/cgroup", Device: "cgroup", Flags: noAll | unix.MS_RELATIME | readOnly},
	}
	// In a user namespace its root is the machine's root's, and nobody there may give it a label.
	if o.Files == "" || !o.ownUsers() {
		list = append(list, &configs.Mount{Source: "mqueue", Destination: "/dev/mqueue", Device: "mqueue", Flags: noAll})
	}
	if o.Namespaces.HostIPC {
		return append(list, &configs.Mount{Source: "/dev/shm", Destination: "/dev/shm", Device: "bind",
			Flags: noAll | unix.MS_BIND | unix.MS_REC, PropagationFlags: []int{unix.MS_PRIVATE | unix.MS_REC}})
	}
	return append(list, &configs.Mount{Source: "shm", Destination: "/dev/shm", Device: "tmpfs", Flags: noAll,
		Data: fmt.Sprintf("mode=1777,size=%d", shmBytes)})
}

// ownUsers says whether the container is in a user namespace other than the machine's.
func (o *operation) ownUsers() bool { return o.Namespaces.NewUser || o.Namespaces.User != "" }

// ttyGroup gives terminals to group tty, where that group exists inside.
func (o *operation) ttyGroup() string {
	const tty = 5
	if !o.ownUsers() {
		return fmt.Sprintf(",gid=%d", tty)
	}
	for _, m := range o.GIDs {
		if m.Container <= tty && tty-m.Container < m.Length {
			return fmt.Sprintf(",gid=%d", tty)
		}
	}
	return ""
}

func replaces(to, kernel string) bool {
	return to == kernel || (to == "/dev" || to == "/sys") && strings.HasPrefix(kernel, to+"/")
}

func staged(m *spec.Mount) (*configs.Mount, error) {
	if !path.IsAbs(m.Source) || path.Clean(m.Source) != m.Source || m.Source == "/" || strings.ContainsRune(m.Source, 0) {
		return nil, fmt.Errorf("%q is no staged source", m.Source)
	}
	if !path.IsAbs(m.To) || path.Clean(m.To) != m.To || m.To == "/" || strings.ContainsRune(m.To, 0) {
		return nil, fmt.Errorf("%q is no place to mount at", m.To)
	}
	c := &configs.Mount{Source: m.Source, Destination: m.To, Device: "bind", Flags: unix.MS_BIND | unix.MS_REC}
	for _, f := range []struct {
		on   bool
		flag int
	}{{m.ReadOnly || m.RecursiveReadOnly, unix.MS_RDONLY}, {m.NoExec, unix.MS_NOEXEC}, {m.NoDev, unix.MS_NODEV}, {m.NoSuid, unix.MS_NOSUID}} {
		if f.on {
			c.Flags |= f.flag
		}
	}
	if m.RecursiveReadOnly {
		c.RecAttr = &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	}
	switch m.Propagation {
	case 0, plan.Private:
		c.PropagationFlags = []int{unix.MS_PRIVATE | unix.MS_REC}
	case plan.HostToContainer:
		c.PropagationFlags = []int{unix.MS_SLAVE | unix.MS_REC}
	case plan.Bidirectional:
		c.PropagationFlags = []int{unix.MS_SHARED | unix.MS_REC}
	default:
		return nil, fmt.Errorf("%s: unknown propagation %d", m.To, m.Propagation)
	}
	return c, nil
}
