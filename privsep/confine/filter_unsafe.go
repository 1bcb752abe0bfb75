package confine

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// installFilter puts code on every thread at once.
func installFilter(code []unix.SockFilter) error {
	if len(code) == 0 {
		return nil
	}
	if len(code) > 4096 {
		return fmt.Errorf("filter of %d instructions", len(code))
	}
	prog := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	r, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(code)
	if errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	if r != 0 {
		return errors.New("seccomp: a thread could not be brought along")
	}
	return nil
}
