package ipc

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const blobSeals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE | unix.F_SEAL_SEAL

// MakeBlob returns a sealed memfd with b, for what is too large for a message.
func MakeBlob(b []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("blob", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("making a memfd: %w", err)
	}
	f := os.NewFile(uintptr(fd), "blob")
	if _, err = f.WriteAt(b, 0); err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, blobSeals)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("filling a memfd: %w", err)
	}
	return f, nil
}

// ReadBlob returns the content of a sealed memfd that a peer sent, at most max
// bytes, and closes it.
func ReadBlob(fd int, max int64) ([]byte, error) {
	f := os.NewFile(uintptr(fd), "blob")
	defer f.Close()
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil || seals&blobSeals != blobSeals {
		return nil, errors.New("a peer sent something else than a sealed memfd")
	}
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("looking at a memfd: %w", err)
	}
	if st.Size() > max {
		return nil, fmt.Errorf("a memfd of %d bytes, at most %d", st.Size(), max)
	}
	b := make([]byte, st.Size())
	if _, err := f.ReadAt(b, 0); err != nil {
		return nil, fmt.Errorf("reading a memfd: %w", err)
	}
	return b, nil
}
