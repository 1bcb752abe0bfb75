//go:build linux && cgo && seccomp

package launch

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

const selinuxAttr = "security.selinux"

// relabel gives everything in a staged source a label.
//
// Containers that run may rename in it all the while, so it goes from fd to fd:
// no name is looked up twice, and no link is followed. It labels one mount, that
// of the source itself: what the host or another pod has mounted beneath stays as
// it is. Read-only mounts can be labelled, read-only file systems not; one that
// keeps no labels has that of its mount.
func relabel(source, label string) error {
	// A clone of the top mount alone, that can be written: the staged one may be
	// read-only for the container's sake.
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return fmt.Errorf("cloning the mount: %w", err)
	}
	defer unix.Close(tree)
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return fmt.Errorf("making the clone writable: %w", err)
	}
	err = relabelFD(tree, label, 0)
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	return err
}

// relabelFD labels what fd, opened with O_PATH, is, and what is in it.
func relabelFD(fd int, label string, depth int) error {
	// Each level holds two fds open; the kernel's own limit of a path is near.
	if depth > 1024 {
		return errors.New("directories are nested too deep")
	}
	self := "/proc/self/fd/" + strconv.Itoa(fd)
	if err := setLabel(self, label); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	d, err := os.Open(self) // the very directory, not its name
	if err != nil {
		return err
	}
	defer d.Close()
	for {
		names, err := d.Readdirnames(256)
		for _, n := range names {
			child, err := unix.Openat(fd, n, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			if err == unix.ENOENT {
				continue // gone meanwhile
			}
			if err != nil {
				return fmt.Errorf("%s: %w", n, err)
			}
			err = relabelFD(child, label, depth+1)
			unix.Close(child)
			if err != nil {
				return fmt.Errorf("%s: %w", n, err)
			}
		}
		if len(names) == 0 {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

// setLabel does not write a label that is there: each write is one to the disk.
func setLabel(path, label string) error {
	buf := make([]byte, 256)
	if n, err := unix.Getxattr(path, selinuxAttr, buf); err == nil && (string(buf[:n]) == label || string(buf[:n]) == label+"\x00") {
		return nil
	}
	return unix.Setxattr(path, selinuxAttr, []byte(label), 0)
}
