package machine

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// A pod for which nobody names a cgroup parent gets one of its own, pod-<handle>
// below the ceiling's first root, in every hierarchy. It is made before the pod's
// first container and goes with the last of its things.

const ownCgroup = "pod-"

// hierarchies are the directories that a cgroup's path is joined to.
func (m *Machine) hierarchies() []string {
	if m.cgroup2 {
		return []string{"/sys/fs/cgroup"}
	}
	var out []string
	all, _ := filepath.Glob("/sys/fs/cgroup/*")
	for _, d := range all {
		if st, err := os.Lstat(d); err == nil && st.IsDir() { // cpu is a link to cpu,cpuacct
			if _, err := os.Stat(d + "/cgroup.procs"); err == nil {
				out = append(out, d)
			}
		}
	}
	return out
}

// makeCgroup makes a pod's own cgroup; the front end may read its statistics.
//
// Expected syscalls: mkdirat, chmod.
func (m *Machine) makeCgroup(cgroup string) error {
	if !strings.HasPrefix(path.Base(cgroup), ownCgroup) {
		return nil // the kubelet's, which makes and removes it
	}
	m.cgroups.Lock()
	defer m.cgroups.Unlock()
	for _, h := range m.hierarchies() {
		for _, dir := range []string{path.Dir(cgroup), cgroup} {
			if err := os.Mkdir(h+dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
				return fmt.Errorf("making the pod's cgroup: %w", err)
			}
			if err := os.Chmod(h+dir, 0o755); err != nil { // our umask took bits away
				return fmt.Errorf("making the pod's cgroup: %w", err)
			}
		}
	}
	return nil
}

// dropCgroup removes a pod's own cgroup and the root above it, where they are
// empty. While a pod exists its cgroup does, so the root is never taken away
// from under a container that is being made.
func (m *Machine) dropCgroup(cgroup string) error {
	if m.Ceiling.Systemd {
		return nil // slices are systemd's to remove
	}
	root := path.Join("/", m.Ceiling.CgroupRoots[0].Path)
	dirs := []string{cgroup, root}
	if !strings.HasPrefix(path.Base(cgroup), ownCgroup) {
		dirs = dirs[1:]
	}
	if root == "/" {
		dirs = dirs[:len(dirs)-1]
	}
	m.cgroups.Lock()
	defer m.cgroups.Unlock()
	var errs []error
	for _, h := range m.hierarchies() {
		for _, dir := range dirs {
			err := unix.Rmdir(h + dir)
			if err != nil && err != unix.ENOENT && err != unix.EBUSY && err != unix.ENOTEMPTY {
				errs = append(errs, fmt.Errorf("removing cgroup %s: %w", h+dir, err))
			}
		}
	}
	return errors.Join(errs...)
}
