package confine

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// prctlAll calls prctl in every thread.
func prctlAll(option, arg uintptr) error {
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, option, arg, 0, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// getCaps returns this thread's effective, permitted and inheritable sets.
func getCaps() (eff, perm, inh uint64, err error) {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var d [2]unix.CapUserData
	if err := unix.Capget(&hdr, &d[0]); err != nil {
		return 0, 0, 0, fmt.Errorf("capget: %w", err)
	}
	join := func(lo, hi uint32) uint64 { return uint64(lo) | uint64(hi)<<32 }
	return join(d[0].Effective, d[1].Effective), join(d[0].Permitted, d[1].Permitted),
		join(d[0].Inheritable, d[1].Inheritable), nil
}

// setCapsAll makes mask the effective and permitted set of every thread and
// empties the inheritable set.
func setCapsAll(mask uint64) error {
	hdr, d := capArgs(mask)
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET,
		uintptr(unsafe.Pointer(hdr)), uintptr(unsafe.Pointer(d)), 0); errno != 0 {
		return fmt.Errorf("capset: %w", errno)
	}
	return nil
}

// tryCaps asks for mask in this thread only: for the undo test.
func tryCaps(mask uint64) error {
	hdr, d := capArgs(mask)
	if _, _, errno := unix.RawSyscall(unix.SYS_CAPSET,
		uintptr(unsafe.Pointer(hdr)), uintptr(unsafe.Pointer(d)), 0); errno != 0 {
		return errno
	}
	return nil
}

func capArgs(mask uint64) (*unix.CapUserHeader, *[2]unix.CapUserData) {
	lo, hi := uint32(mask), uint32(mask>>32)
	return &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3},
		&[2]unix.CapUserData{{Effective: lo, Permitted: lo}, {Effective: hi, Permitted: hi}}
}
