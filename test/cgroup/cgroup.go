// Package cgroup arranges the cgroup mounts that a test wants.
package cgroup

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// OnlyV1 hides version 2 of cgroups, where a machine has it beside version 1:
// Debian's crun works with either, and not with both. The test must have a mount
// namespace of its own; it is as before when it ends.
func OnlyV1(t *testing.T) {
	t.Helper()
	const root = "/sys/fs/cgroup"
	dirs, err := os.ReadDir(root)
	if _, e := os.Stat(root + "/unified"); err != nil || e != nil {
		return
	}
	old := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(unix.Mount(root, old, "", unix.MS_BIND|unix.MS_REC, ""))
	must(unix.Mount("tmpfs", root, "tmpfs", 0, ""))
	t.Cleanup(func() { must(unix.Unmount(root, unix.MNT_DETACH)) })
	for _, d := range dirs {
		from, to := filepath.Join(old, d.Name()), filepath.Join(root, d.Name())
		if link, err := os.Readlink(from); err == nil {
			must(os.Symlink(link, to))
		} else if _, err := os.Stat(from + "/cgroup.procs"); err == nil && d.Name() != "unified" {
			must(os.Mkdir(to, 0o755))
			must(unix.Mount(from, to, "", unix.MS_MOVE, ""))
		}
	}
	must(unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	must(unix.Unmount(old, unix.MNT_DETACH))
}
