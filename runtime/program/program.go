// Package program opens the OCI runtimes that ceiling.toml names, and asks them
// what they can do.
package program

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lowest is above every number that a child is given: the program is executed
// by its descriptor, and what moves descriptors about between fork and exec must
// not move another one there.
const lowest = 100

// Open opens an OCI runtime for execution. It is root's code: the file
// and every directory on the way to it belong to root and can be written by
// nobody else, and links are not followed. Each is looked at after it was opened,
// and what is executed is the descriptor, so that a swap changes nothing.
//
// Expected syscalls: openat, fstat, fcntl.
func Open(name string) (*os.File, error) {
	if !path.IsAbs(name) || path.Clean(name) != name || name == "/" {
		return nil, fmt.Errorf("runtime %q: want a clean absolute path", name)
	}
	at, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("runtime %s: %w", name, err)
	}
	defer func() { unix.Close(at) }()
	parts := strings.Split(name[1:], "/")
	for i := 0; ; i++ {
		if err := onlyRoots(at, unix.S_IFDIR); err != nil {
			return nil, fmt.Errorf("runtime %s: directory /%s: %w", name, strings.Join(parts[:i], "/"), err)
		}
		flags := unix.O_PATH | unix.O_DIRECTORY
		last := i == len(parts)-1
		if last {
			flags = unix.O_RDONLY | unix.O_NONBLOCK
		}
		fd, err := unix.Openat(at, parts[i], flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("runtime %s: opening %s (links are not followed): %w", name, parts[i], err)
		}
		unix.Close(at)
		at = fd
		if last {
			break
		}
	}
	if err := onlyRoots(at, unix.S_IFREG); err != nil {
		return nil, fmt.Errorf("runtime %s: %w", name, err)
	}
	fd, err := unix.FcntlInt(uintptr(at), unix.F_DUPFD_CLOEXEC, lowest)
	if err != nil {
		return nil, fmt.Errorf("runtime %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// onlyRoots refuses what somebody other than root can change.
func onlyRoots(fd int, kind uint32) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != kind || st.Uid != 0 || st.Mode&0o022 != 0 {
		return fmt.Errorf("mode %o of uid %d: it must be root's, and only root may be able to write it", st.Mode, st.Uid)
	}
	return nil
}

// Command is a command of an open program, with no environment.
func Command(ctx context.Context, f *os.File, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	c.Args = append([]string{path.Base(f.Name())}, args...)
	c.Env = []string{}
	return c
}

// Features are what a runtime says that it can do.
type Features struct {
	MountOptions []string
	Linux        struct {
		Namespaces []string
		Seccomp    struct{ Enabled *bool }
	}
}

// Ask has the program say what it can do, as nobody: it needs no right for that.
// An old one cannot, which is an error.
func Ask(f *os.File, args ...string) (*Features, error) {
	ctx, stop := context.WithTimeout(context.Background(), 5*time.Second)
	defer stop()
	const nobody = 65534
	c := Command(ctx, f, append(args, "features")...)
	c.Dir = "/"
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}, Pdeathsig: syscall.SIGKILL}
	out, err := c.Output()
	if err != nil {
		return nil, fmt.Errorf("asking %s for its features: %w", f.Name(), err)
	}
	var said Features
	if err := json.Unmarshal(out, &said); err != nil {
		return nil, fmt.Errorf("features of %s: %w", f.Name(), err)
	}
	return &said, nil
}
