package confine

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/layout"
)

// undo tries to take back what was dropped and ends the process where that
// works: then the drop did not happen, and nothing after it can be trusted. It
// runs twice: before the filter, so that the kernel's own checks are what refuse,
// and after it, when calls that would kill are left out.
//
// The calls are made in one thread; verify shows that all threads are alike.
func undo(p profile, id layout.ID) {
	filtered := seccompMode() == unix.SECCOMP_MODE_FILTER
	for _, try := range attempts(p, filtered) {
		if err := try.do(); err == nil {
			fmt.Fprintf(os.Stderr, "confine: %s: could still %s: refusing to run\n", p.name, try.what)
			os.Exit(1)
		}
	}
}

type attempt struct {
	what string
	do   func() error
}

// attempts lists what must fail for p.
func attempts(p profile, filtered bool) []attempt {
	var list []attempt
	if dropped := allCaps &^ p.keepCaps; dropped != 0 {
		_, perm, _, _ := getCaps()
		list = append(list, attempt{"regain capabilities", func() error {
			// Every capability this kernel has, lest an unknown one make the call fail.
			mask := (perm | dropped) & knownCaps()
			if mask&^perm == 0 {
				return errors.New("nothing to regain")
			}
			return tryCaps(mask)
		}})
	}
	if p.root {
		return list
	}
	list = append(list,
		attempt{"become root", func() error { return raw(unix.SYS_SETRESUID, 0, 0, 0) }},
		attempt{"join root's group", func() error { return raw(unix.SYS_SETRESGID, 0, 0, 0) }},
		attempt{"change groups", func() error { return raw(unix.SYS_SETGROUPS, 0, 0, 0) }},
		attempt{"read /etc/shadow", func() error { return open("/etc/shadow", unix.O_RDONLY) }},
		attempt{"read another's environment", func() error { return open("/proc/1/environ", unix.O_RDONLY) }},
		attempt{"write to /etc", func() error { return open("/etc/passwd", unix.O_WRONLY) }},
		attempt{"make a raw socket", func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)
			if err == nil {
				unix.Close(fd)
			}
			return err
		}},
	)
	if !filtered {
		list = append(list,
			attempt{"mount", func() error {
				// A filesystem that does not exist: who may mount is told so (ENODEV).
				err := unix.Mount("none", "/", "postern-none", 0, "")
				if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
					return err
				}
				return nil
			}},
			attempt{"change root", func() error { return unix.Chroot("/") }},
		)
	}
	return list
}

func open(path string, flags int) error {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// raw makes a call in this thread alone: syscall's wrappers would make it in all
// of them and panic when they disagree.
func raw(nr, a, b, c uintptr) error {
	if _, _, errno := unix.RawSyscall(nr, a, b, c); errno != 0 {
		return errno
	}
	return nil
}

func knownCaps() uint64 {
	var mask uint64
	for c := 0; c <= unix.CAP_LAST_CAP; c++ {
		if _, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0); err == nil {
			mask |= 1 << c
		}
	}
	return mask
}

func seccompMode() int {
	mode, err := unix.PrctlRetInt(unix.PR_GET_SECCOMP, 0, 0, 0, 0)
	if err != nil {
		return -1
	}
	return mode
}

// verify asks every thread who it is. AllThreadsSyscall stops the program where
// two threads answer differently, which is what is wanted here.
func verify(p profile, id layout.ID, mode uintptr) error {
	uid, gid := uintptr(id.UID), uintptr(id.GID)
	if p.root {
		uid, gid = 0, 0
	}
	nnp := uintptr(1)
	if p.mayGainPrivs {
		nnp = 0
	}
	for _, ask := range []struct {
		what             string
		nr, option, want uintptr
	}{
		{"uid", unix.SYS_GETUID, 0, uid}, {"effective uid", unix.SYS_GETEUID, 0, uid},
		{"gid", unix.SYS_GETGID, 0, gid}, {"effective gid", unix.SYS_GETEGID, 0, gid},
		{"no_new_privs", unix.SYS_PRCTL, unix.PR_GET_NO_NEW_PRIVS, nnp},
		{"seccomp mode", unix.SYS_PRCTL, unix.PR_GET_SECCOMP, mode},
		{"dumpable", unix.SYS_PRCTL, unix.PR_GET_DUMPABLE, 0},
	} {
		got, _, errno := syscall.AllThreadsSyscall6(ask.nr, ask.option, 0, 0, 0, 0, 0)
		if errno != 0 {
			return fmt.Errorf("asking for the %s: %w", ask.what, errno)
		}
		if got != ask.want && !(p.mayGainPrivs && got > ask.want) {
			return fmt.Errorf("%s is %d, not %d", ask.what, got, ask.want)
		}
	}
	eff, perm, inh, err := getCaps()
	if err != nil {
		return err
	}
	if left := (eff | perm | inh) &^ p.keepCaps; left != 0 || (!p.root && perm != 0) {
		return fmt.Errorf("capabilities left: %#x", perm)
	}
	return nil
}
