// Package confine drops a process to the rights of its role, before it reads
// its first byte of input, and then tries to take them back.
//
// Every main calls Enter first. What Enter does, in this order:
//
//	environment cleared, stray fds closed, umask 077, rlimits
//	Landlock rules (at the ABI of the running kernel)
//	bounding set, securebits, groups, gid, uid, capabilities, ambient set
//	not dumpable, no_new_privs, seccomp filter
//	the undo test: root, capabilities, mounts and secrets must stay out of reach
//
// All of it holds for every thread: the package is pure Go and uses
// syscall.AllThreadsSyscall, which a program that links cgo does not have. Enter
// returns an error there, and the caller must exit on any error: a process that
// dropped half of its rights is in a state that nobody has thought about.
//
// Two roles are looser, because what they start inherits everything: Helper
// and CNI have no Landlock (it would deny mounts to containers), Helper no
// no_new_privs either (containers may have setuid programs); both keep an
// inherited filter against calls that no container ever needs from us. Helper also
// keeps its hard resource limits: they are the containers'. Init is no role: it
// keeps root and links nothing of this.
package confine

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/layout"
)

// Role says what a process is, and so what it may keep.
type Role uint8

// The roles: one per kind of process.
const (
	Helper  Role = iota + 1 // root, without the capabilities that nothing here needs
	CNI                     // root's uid with NET_ADMIN, NET_RAW and SYS_ADMIN
	Front                   // posternd
	Stream                  // postern-streamd
	Log                     // postern-logd
	Policy                  // postern-policyd
	Audit                   // postern-auditd
	Fetch                   // postern-imaged, with the network
	Verify                  // postern-imaged, no network
	Convert                 // postern-imaged, no files
)

// String returns the role's name.
func (r Role) String() string {
	if p, ok := profiles[r]; ok {
		return p.name
	}
	return fmt.Sprintf("role %d", uint8(r))
}

// Rights are what a Landlock rule allows beneath its path.
type Rights uint8

// Rights. A right on a directory holds for everything beneath it.
const (
	Read  Rights = 1 << iota // read files, list directories
	Write                    // write to and truncate files that are there
	Make                     // create, rename and remove files, directories and links
	Exec                     // execute files
	All   = Read | Write | Make
)

// Rule allows Rights at and beneath Path. Without a rule nothing can be opened:
// fds that are open already, such as the listener and the log, stay usable.
type Rule struct {
	Path     string
	Rights   Rights
	Optional bool // no error where Path does not exist
}

// Options are what differs between two processes of one role.
type Options struct {
	Groups   []uint32 // supplementary groups; none by default
	Landlock []Rule   // ignored for Helper and CNI
	KeepFDs  int      // fds 3 … 3+KeepFDs-1 stay open, all later ones are closed
	// Unfiltered leaves out Helper's filter, which containers would inherit; an
	// error for every other role.
	Unfiltered bool
}

// Enter confines the whole process to r, running as id (ignored for
// Helper and CNI, which stay root). It must be the first thing main does. On an
// error the caller must exit. If a dropped right can be regained, Enter prints
// that and exits itself.
func Enter(r Role, id layout.ID, opts Options) error {
	p, ok := profiles[r]
	if !ok {
		return fmt.Errorf("confine: unknown role %d", r)
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("confine: %s must be started as root, to drop to its own user", p.name)
	}
	if opts.Unfiltered && r != Helper {
		return fmt.Errorf("confine: %s must have its filter", p.name)
	}
	filter, mode := Filter(r), uintptr(unix.SECCOMP_MODE_FILTER)
	if opts.Unfiltered {
		filter, mode = nil, unix.SECCOMP_MODE_DISABLED
	}
	if !p.root && (id.UID == 0 || id.GID == 0) {
		return fmt.Errorf("confine: %s must not run with root's uid or gid", p.name)
	}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"closing stray fds", func() error { return prepare(opts) }},
		{"setting resource limits", func() error { return limit(p) }},
		{"entering a landlock domain", func() error { return enterLandlock(p, opts.Landlock) }},
		{"dropping from the bounding set", func() error { return dropBounding(p.keepCaps, prctlAll) }},
		{"changing user", func() error { return changeUser(p, id, opts.Groups) }},
		{"dropping capabilities", func() error { return dropCaps(p) }},
		{"hiding from debuggers", func() error { return prctlAll(unix.PR_SET_DUMPABLE, 0) }},
		{"setting no_new_privs", func() error {
			if p.mayGainPrivs {
				return nil
			}
			return prctlAll(unix.PR_SET_NO_NEW_PRIVS, 1)
		}},
		{"rehearsing the undo test", func() error { undo(p, id); return nil }},
		{"installing the seccomp filter", func() error { return installFilter(filter) }},
		{"verifying the drop", func() error { undo(p, id); return verify(p, id, mode) }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("confine: %s: %s: %w", p.name, step.what, err)
		}
	}
	tune(p)
	return nil
}

// prepare removes what the starter left: environment, fds, umask.
func prepare(opts Options) error {
	os.Clearenv()
	unix.Umask(0o077)
	// An explicit number also makes the runtime let go of the cgroup file that it
	// would re-read every second by an fd that is closed below.
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		var fd int
		if _, err := fmt.Sscanf(e.Name(), "%d", &fd); err != nil || fd < 3+opts.KeepFDs {
			continue
		}
		// The runtime's poller is the only fd that is ours; closing it would stop
		// the process in the next read.
		target, _ := os.Readlink("/proc/self/fd/" + e.Name())
		if target != "anon_inode:[eventpoll]" && target != "anon_inode:[eventfd]" {
			unix.Close(fd)
		}
	}
	return nil
}

// limit lowers rlimits; what is lower already stays. Where containers inherit
// them the hard ones stay: a container is no worse off than its node.
func limit(p profile) error {
	for _, l := range []struct {
		resource int
		max      uint64
	}{{unix.RLIMIT_CORE, 0}, {unix.RLIMIT_NOFILE, p.nofile}, {unix.RLIMIT_DATA, p.data}} {
		if l.max == 0 && l.resource != unix.RLIMIT_CORE {
			continue
		}
		var now unix.Rlimit
		if err := unix.Getrlimit(l.resource, &now); err != nil {
			return err
		}
		now.Cur = min(l.max, now.Max)
		if !p.mayGainPrivs {
			now.Max = now.Cur
		}
		if err := unix.Setrlimit(l.resource, &now); err != nil {
			return err
		}
	}
	return nil
}

// changeUser gives up root for every thread.
func changeUser(p profile, id layout.ID, groups []uint32) error {
	if p.root {
		return nil
	}
	gids := make([]int, len(groups))
	for i, g := range groups {
		if g == 0 {
			return errors.New("root's group is not a group to keep")
		}
		gids[i] = int(g)
	}
	if err := prctlAll(unix.PR_SET_SECUREBITS, securebits); err != nil {
		return fmt.Errorf("securebits: %w", err)
	}
	uid, gid := int(id.UID), int(id.GID)
	if err := syscall.Setgroups(gids); err != nil {
		return fmt.Errorf("setgroups: %w", err)
	}
	if err := syscall.Setresgid(gid, gid, gid); err != nil {
		return fmt.Errorf("setresgid: %w", err)
	}
	if err := syscall.Setresuid(uid, uid, uid); err != nil {
		return fmt.Errorf("setresuid: %w", err)
	}
	return nil
}

// tune makes the heap small: the processes of a node idle for most of their
// lives, and their memory is the pods'.
func tune(p profile) {
	debug.SetGCPercent(p.gogc)
	if p.memory > 0 {
		debug.SetMemoryLimit(p.memory)
	}
	if !p.brief {
		debug.FreeOSMemory()
	}
}
