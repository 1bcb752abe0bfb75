package machine

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// removeAll removes dir and what is beneath it. The tree may be a container's
// work, as deep as it likes: os.RemoveAll holds an fd for each level, and would
// leave none to the rest of this process. So a directory that is not empty is
// moved up to the top, and two fds are enough. Links are removed, not followed.
//
// Expected syscalls: openat(O_NOFOLLOW), getdents64, unlinkat, renameat.
func removeAll(dir string) error {
	top, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("removing a tree: %w", err)
	}
	defer top.Close()
	for moved, again := 0, true; again; {
		again = false
		if _, err := top.Seek(0, 0); err != nil {
			return fmt.Errorf("removing %s: %w", dir, err)
		}
		err := eachName(top, func(name string) error {
			again = true
			return removeEntry(top, name, func(sub int, child string) error {
				moved++
				return unix.Renameat2(sub, child, int(top.Fd()), ".moved-"+strconv.Itoa(moved), unix.RENAME_NOREPLACE)
			})
		})
		if err != nil {
			return fmt.Errorf("removing %s: %w", dir, err)
		}
	}
	return os.Remove(dir)
}

// removeEntry removes name from dir; what it cannot remove out of a directory of
// that name goes to move.
func removeEntry(dir *os.File, name string, move func(sub int, child string) error) error {
	if gone(int(dir.Fd()), name) {
		return nil
	}
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	sub := os.NewFile(uintptr(fd), name)
	defer sub.Close()
	err = eachName(sub, func(child string) error {
		if gone(fd, child) {
			return nil
		}
		for {
			if err := move(fd, child); err != unix.EEXIST { // the container took that name
				return err
			}
		}
	})
	if err != nil {
		return err
	}
	if err := unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR); err != unix.ENOTEMPTY {
		return err
	}
	return nil // the next look at dir finds it again
}

// gone removes a file or an empty directory and tells whether it is away.
func gone(dir int, name string) bool {
	err := unix.Unlinkat(dir, name, 0)
	if err == unix.EISDIR || err == unix.EPERM {
		err = unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
	}
	return err == nil || err == unix.ENOENT
}

// eachName calls f with every name in dir. Names that come while f works may be
// left out.
func eachName(dir *os.File, f func(string) error) error {
	for {
		list, err := dir.Readdirnames(512)
		for _, name := range list {
			if err := f(name); err != nil {
				return err
			}
		}
		if len(list) == 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
