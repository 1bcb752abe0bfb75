package wire

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

const allSeals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

// MakeMemfd returns a memfd with b in it and all four seals set: nobody can
// change it any more, the sender neither.
//
// Expected syscalls: memfd_create, pwrite, fcntl(F_ADD_SEALS).
func MakeMemfd(b []byte) (int, error) {
	if len(b) == 0 || len(b) > MaxMemfd {
		return -1, fmt.Errorf("%d bytes for a memfd, want 1 to %d", len(b), MaxMemfd)
	}
	fd, err := unix.MemfdCreate("postern", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_NOEXEC_SEAL)
	if err == unix.EINVAL { // MFD_NOEXEC_SEAL is Linux 6.3
		fd, err = unix.MemfdCreate("postern", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return -1, fmt.Errorf("making a memfd: %w", err)
	}
	n, err := unix.Pwrite(fd, b, 0)
	if err == nil && n != len(b) {
		err = errors.New("short write")
	}
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, allSeals)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("filling a memfd: %w", err)
	}
	return fd, nil
}

// ReadMemfd returns the content of a memfd that a peer sent. All four seals must
// be set, so that the bytes that are judged are the bytes that are used.
//
// Expected syscalls: fcntl(F_GET_SEALS), fstat, pread.
func ReadMemfd(fd int) ([]byte, error) {
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil || seals&allSeals != allSeals {
		return nil, fmt.Errorf("%w: an fd that is not a sealed memfd (seals %#x, %v)", ErrViolation, seals, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("fstat of a memfd: %w", err)
	}
	if st.Size <= 0 || st.Size > MaxMemfd {
		return nil, fmt.Errorf("%w: a memfd of %d bytes, want 1 to %d", ErrViolation, st.Size, MaxMemfd)
	}
	b := make([]byte, st.Size)
	n, err := unix.Pread(fd, b, 0)
	if err != nil || n != len(b) {
		return nil, fmt.Errorf("reading a memfd: %d of %d bytes: %w", n, len(b), err)
	}
	return b, nil
}

// JoinSections returns the memfd content of a plan with its claims.
func JoinSections(planBytes, claims []byte) []byte {
	c := NewEncoder()
	c.Bytes(&planBytes, MaxMemfd)
	c.Bytes(&claims, MaxMemfd)
	return c.b
}

// SplitSections is JoinSections' inverse.
func SplitSections(b []byte) (planBytes, claims []byte, err error) {
	c := NewDecoder(b)
	c.Bytes(&planBytes, MaxMemfd)
	c.Bytes(&claims, MaxMemfd)
	return planBytes, claims, c.Finish()
}
