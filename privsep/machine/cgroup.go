package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// KillAll kills every process of a cgroup and of those beneath it.
func (m *Machine) KillAll(cgroup string) error {
	dir := m.cgroupDir(cgroup)
	if dir == "" {
		return nil // gone already
	}
	if m.cgroup2 {
		err := os.WriteFile(dir+"/cgroup.kill", []byte("1"), 0)
		if err == nil || !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		left := 0
		err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
			if err != nil || e.Name() != "cgroup.procs" {
				return ignoreMissing(err)
			}
			b, err := os.ReadFile(p)
			for _, l := range strings.Fields(string(b)) {
				if pid, perr := strconv.Atoi(l); perr == nil && m.killMember(pid, cgroup) {
					left++
				}
			}
			return ignoreMissing(err)
		})
		if err != nil || left == 0 {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("%d processes of %s do not go", left, cgroup)
		}
	}
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// killMember kills pid if it is in the cgroup: between the list and the kill the
// number may have become another process's.
func (m *Machine) killMember(pid int, cgroup string) bool {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	if !member(pid, cgroup) {
		return false
	}
	if _, err := procOf(pid); err != nil {
		return false // a zombie that somebody has yet to reap
	}
	return m.send(fd, uint8(unix.SIGKILL)) == nil
}

// member tells whether pid is in the cgroup or beneath it. One that is not is
// another process than the one meant: its number was given out again.
func member(pid int, cgroup string) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	return err == nil && cgroup != "" && strings.Contains(string(b)+"\n", ":"+cgroup)
}

// cgroupDir finds a cgroup's directory: the one of v2, or that of a v1 controller
// which every container is in.
func (m *Machine) cgroupDir(cgroup string) string {
	roots := []string{"pids", "memory", "devices", "freezer", "cpu", "systemd"}
	if m.cgroup2 {
		roots = []string{""}
	}
	for _, r := range roots {
		dir := filepath.Join("/sys/fs/cgroup", r, cgroup)
		if _, err := os.Stat(dir + "/cgroup.procs"); err == nil && cgroup != "" && cgroup != "/" {
			return dir
		}
	}
	return ""
}

// maxEntries bounds a walk over a writable layer.
const maxEntries = 2_000_000

// walks are those under way: each holds an fd for every level of a tree that is
// the container's to make.
var walks = make(chan struct{}, 4)

// CtrUsage counts the writable layer. It walks by fds and never follows a link:
// the tree is the container's.
func (m *Machine) CtrUsage(id string) (bytes, inodes uint64, err error) {
	walks <- struct{}{}
	defer func() { <-walks }()
	dir, err := os.OpenFile(m.state("ctr", id, "upper"), os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return 0, 0, err
	}
	err = usage(dir, &bytes, &inodes, 0)
	return bytes, inodes, err
}

func usage(dir *os.File, bytes, inodes *uint64, depth int) error {
	defer dir.Close()
	for {
		list, err := dir.Readdirnames(512)
		if len(list) == 0 {
			return nil // the end, or a directory that went away meanwhile
		}
		for _, name := range list {
			var st unix.Stat_t
			if unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
				continue
			}
			*bytes += uint64(st.Blocks) * 512
			if *inodes++; *inodes > maxEntries {
				return fmt.Errorf("more than %d files", maxEntries)
			}
			if st.Mode&unix.S_IFMT != unix.S_IFDIR || depth > 1000 {
				continue
			}
			fd, oerr := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			if oerr != nil {
				continue
			}
			if err := usage(os.NewFile(uintptr(fd), name), bytes, inodes, depth+1); err != nil {
				return err
			}
		}
		if err != nil {
			return nil
		}
	}
}
