package confine

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Securebits of processes that leave root for good: uid 0 means nothing to them
// any more, and no bit can be changed back.
const securebits = 1<<0 | 1<<1 | // NOROOT and its lock
	1<<3 | // NO_SETUID_FIXUP stays off, locked: leaving uid 0 clears capabilities
	1<<5 | // KEEP_CAPS stays off, locked
	1<<6 | 1<<7 // NO_CAP_AMBIENT_RAISE and its lock

// dropBounding leaves keep in the bounding set: no program that is executed
// later, setuid or not, can have more.
//
// A drop in every thread stops them all, once a capability: what is short-lived is
// better started by a Thread, which leaves it nothing to drop.
func dropBounding(keep uint64, drop func(option, arg uintptr) error) error {
	for c := 0; c <= 63; c++ {
		have, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			return nil // past the kernel's last capability
		}
		if err != nil {
			return err
		}
		// A capability newer than this code is dropped too: keep does not name it.
		if have == 1 && (c > unix.CAP_LAST_CAP || keep&(1<<c) == 0) {
			if err := drop(unix.PR_CAPBSET_DROP, uintptr(c)); err != nil {
				return fmt.Errorf("capability %d: %w", c, err)
			}
		}
	}
	return nil
}

// Thread leaves the calling thread, and so what it starts, a bounding set of what r
// keeps. The thread must be locked, end with its goroutine, and not be the main one,
// which the runtime cannot end.
func Thread(r Role) error {
	err := dropBounding(profiles[r].keepCaps, func(option, arg uintptr) error { return unix.Prctl(int(option), arg, 0, 0, 0) })
	if err != nil {
		return fmt.Errorf("confine: %s: dropping from a thread's bounding set: %w", r, err)
	}
	return nil
}

// dropCaps empties the capability sets, or cuts them to the role's for roles
// that stay root.
func dropCaps(p profile) error {
	if err := prctlAll(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL); err != nil {
		return fmt.Errorf("clearing the ambient set: %w", err)
	}
	var mask uint64
	if p.root {
		_, perm, _, err := getCaps()
		if err != nil {
			return err
		}
		mask = perm & p.keepCaps
	}
	return setCapsAll(mask)
}
