package confine

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// rightsOf says what each Rights bit is in Landlock's words.
const (
	llRead  = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	llWrite = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE
	llMake  = unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_DIR |
		unix.LANDLOCK_ACCESS_FS_MAKE_SYM | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE |
		unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REFER
	llExec = unix.LANDLOCK_ACCESS_FS_EXECUTE

	// llFile are the rights that make sense on something that is no directory; the
	// kernel refuses others there.
	llFile = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE |
		unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE |
		unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
)

// LandlockABI returns the kernel's Landlock version, 0 where there is none.
func LandlockABI() int { return landlockABI() }

// handledFS is every right that the kernel of that ABI can deny: what is handled
// and not allowed by a rule is refused.
func handledFS(abi int) uint64 {
	all := uint64(unix.LANDLOCK_ACCESS_FS_MAKE_SYM<<1 - 1) // ABI 1: the first thirteen
	if abi >= 2 {
		all |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if abi >= 3 {
		all |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if abi >= 5 {
		all |= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	return all
}

// enterLandlock restricts every thread. Where the kernel has no Landlock it says
// so on stderr and goes on with what else holds: `postern check` is what refuses
// such a kernel, and a node may run on one only by its configuration.
func enterLandlock(p profile, rules []Rule) error {
	if !p.landlock {
		return nil
	}
	abi := landlockABI()
	if abi < 1 {
		fmt.Fprintf(os.Stderr, "warning: %s: this kernel has no Landlock\n", p.name)
		return nil
	}
	attr := rulesetAttr{fs: handledFS(abi)}
	if abi >= 4 {
		if !p.tcpBind {
			attr.net |= unix.LANDLOCK_ACCESS_NET_BIND_TCP
		}
		if !p.tcpConnect {
			attr.net |= unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
		}
	}
	if abi >= 6 {
		attr.scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET
	}
	if abi >= 7 {
		// Before that, the scope also stops signals between threads of one process,
		// and with them Go's scheduler.
		attr.scoped |= unix.LANDLOCK_SCOPE_SIGNAL
	}
	ruleset, err := createRuleset(attr, abi)
	if err != nil {
		return err
	}
	defer unix.Close(ruleset)
	for _, r := range rules {
		if err := addRule(ruleset, r, attr.fs); err != nil {
			return fmt.Errorf("rule for %s: %w", r.Path, err)
		}
	}
	return restrictAll(ruleset)
}

// addRule opens the rule's path and allows its rights beneath it.
func addRule(ruleset int, r Rule, handled uint64) error {
	fd, err := unix.Open(r.Path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) && r.Optional {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	var access uint64
	for bit, ll := range map[Rights]uint64{Read: llRead, Write: llWrite, Make: llMake, Exec: llExec} {
		if r.Rights&bit != 0 {
			access |= ll
		}
	}
	access &= handled
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		access &= llFile
	}
	if access == 0 {
		return errors.New("it allows nothing")
	}
	return addPathRule(ruleset, access, fd)
}
