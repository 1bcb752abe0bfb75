// Package netns makes the namespaces of a pod and pins them with bind mounts of
// their nsfs files, so that no process has to stay alive to hold them.
//
// Rules of this package:
//   - a thread that has entered another namespace never runs anything else: it
//     is locked, and dies with its goroutine;
//   - nothing here takes a path from a client: the directories are the helper's.
package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/plan"
)

// Options says what Create makes.
type Options struct {
	Net, IPC bool // false: the pod shares the host's
	Hostname string
	Sysctls  []plan.Sysctl // already checked: namespaced, and none of a host namespace
	// Holder is a process whose namespaces are taken in place of new ones: those
	// of a pod with a user namespace are made by a process inside of that.
	Holder  int
	RootUID uint32 // the host's number of that user namespace's root
}

// The files that pin the namespaces, in the pod's directory.
const (
	Net = "net"
	IPC = "ipc"
	UTS = "uts"
)

// The main goroutine keeps the main thread: the runtime cannot end that one, it
// would stay behind in a pod's namespaces, and /proc/self shows its view.
func init() { runtime.LockOSThread() }

// OnThread runs f on an OS thread of its own that is thrown away afterwards, with
// whatever f made of it.
func OnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- f()
	}()
	return <-done
}

// Create makes the namespaces and pins them at dir/net, dir/ipc and dir/uts. A
// UTS namespace goes with Net. What was pinned before an error is removed.
//
// Expected syscalls: unshare, sethostname, openat and write below /proc/sys,
// socket, ioctl(SIOCGIFFLAGS, SIOCSIFFLAGS), openat(O_CREAT), mount(MS_BIND).
func Create(dir string, o Options) error {
	flags, pins := 0, map[string]bool{}
	if o.Net {
		flags |= unix.CLONE_NEWNET | unix.CLONE_NEWUTS
		pins[Net], pins[UTS] = true, true
	}
	if o.IPC {
		flags |= unix.CLONE_NEWIPC
		pins[IPC] = true
	}
	if flags == 0 {
		return nil
	}
	err := OnThread(func() error {
		if err := newNamespaces(flags, o.Holder); err != nil {
			return fmt.Errorf("making the pod's namespaces: %w", err)
		}
		if o.Net {
			if err := unix.Sethostname([]byte(o.Hostname)); err != nil {
				return fmt.Errorf("setting the pod's host name: %w", err)
			}
			if err := loopbackUp(); err != nil {
				return err
			}
		}
		for _, s := range o.Sysctls {
			if err := o.write(s); err != nil {
				return err
			}
		}
		for name := range pins {
			if err := pin(fmt.Sprintf("/proc/self/task/%d/ns/%s", unix.Gettid(), name), filepath.Join(dir, name)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return errors.Join(err, Remove(dir))
	}
	return nil
}

// write writes a parameter as who may: those of a network namespace want a
// capability over it, which the host's root has; those of an IPC namespace may be
// written by its own root alone, who outside of it has no capability at all.
func (o *Options) write(s plan.Sysctl) error {
	if o.RootUID == 0 || strings.HasPrefix(s.Name, "net.") {
		return writeSysctl(s)
	}
	if err := setEUID(o.RootUID); err != nil {
		return err
	}
	return errors.Join(writeSysctl(s), setEUID(0))
}

// setEUID changes the effective uid of the calling thread alone, which syscall's
// functions do for all.
func setEUID(uid uint32) error {
	const keep = ^uintptr(0)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, uintptr(uid), keep); errno != 0 {
		return fmt.Errorf("becoming uid %d: %w", uid, errno)
	}
	return nil
}

func newNamespaces(flags, holder int) error {
	if holder == 0 {
		return unix.Unshare(flags)
	}
	fd, err := unix.PidfdOpen(holder, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Setns(fd, flags)
}

func pin(from, to string) error {
	f, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o400)
	if err != nil {
		return fmt.Errorf("pinning a namespace: %w", err)
	}
	f.Close()
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("pinning a namespace at %s: %w", to, err)
	}
	return nil
}

// writeSysctl writes one namespaced parameter in the calling thread's
// namespaces. The name was checked against the ceiling's list; the dots become
// slashes here, and nothing that could climb out passes.
func writeSysctl(s plan.Sysctl) error {
	rel := strings.ReplaceAll(s.Name, ".", "/")
	if strings.Contains(rel, "//") || strings.HasPrefix(rel, "/") || strings.ContainsAny(s.Value, "\n\x00") {
		return fmt.Errorf("sysctl %q: malformed", s.Name)
	}
	// /proc/sys/net and the ipc files show the namespaces of the opening thread.
	root, err := unix.Open("/proc/sys", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening /proc/sys: %w", err)
	}
	defer unix.Close(root)
	fd, err := unix.Openat2(root, rel, &unix.OpenHow{Flags: unix.O_WRONLY | unix.O_CLOEXEC | unix.O_NOFOLLOW, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		return fmt.Errorf("sysctl %s: %w", s.Name, err)
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(s.Value)); err != nil {
		return fmt.Errorf("sysctl %s = %q: %w", s.Name, s.Value, err)
	}
	return nil
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bringing loopback up: %w", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr); err != nil {
		return fmt.Errorf("bringing loopback up: %w", err)
	}
	ifr.SetUint16(ifr.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("bringing loopback up: %w", err)
	}
	return nil
}

// Remove unpins whatever Create pinned in dir. It is safe to call again.
//
// Expected syscalls: umount2(MNT_DETACH), unlinkat.
func Remove(dir string) error {
	var errs []error
	for _, name := range []string{Net, IPC, UTS} {
		p := filepath.Join(dir, name)
		if err := unix.Unmount(p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && err != unix.EINVAL && err != unix.ENOENT {
			errs = append(errs, fmt.Errorf("unpinning %s: %w", p, err))
		}
		if err := os.Remove(p); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// enter runs f on a throw-away thread inside the network namespace pinned at
// path.
func enter(path string, f func() error) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("opening a network namespace: %w", err)
	}
	defer unix.Close(fd)
	return OnThread(func() error {
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("entering a network namespace: %w", err)
		}
		return f()
	})
}

// Socket returns an unconnected TCP socket of family AF_INET or AF_INET6 made in
// the network namespace pinned at path. It stays usable outside of it.
//
// Expected syscalls: setns, socket.
func Socket(path string, family int) (fd int, err error) {
	err = enter(path, func() error {
		var err error
		if fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return fmt.Errorf("making a socket in the pod: %w", err)
		}
		return nil
	})
	return fd, err
}

// NetDev returns /proc/net/dev of the network namespace pinned at path: whoever
// holds the fd reads that namespace's interface counters.
//
// Expected syscalls: setns, openat.
func NetDev(path string) (fd int, err error) {
	err = enter(path, func() error {
		var err error
		if fd, err = unix.Open("/proc/thread-self/net/dev", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return fmt.Errorf("opening the pod's interface counters: %w", err)
		}
		return nil
	})
	return fd, err
}
