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
func dropBounding(keep uint64) error {
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
			if err := prctlAll(unix.PR_CAPBSET_DROP, uintptr(c)); err != nil {
				return fmt.Errorf("capability %d: %w", c, err)
			}
		}
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
