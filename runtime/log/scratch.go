package logd

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Sizes of the two buffers that all streams share, and of what they bound.
const (
	maxRaw = 64 << 10 // bytes looked at in one go
	maxOut = 64 << 10 // bytes of records written in one go
)

// peekSlots is how many pipe buffers a look takes in: half of a pipe's sixteen.
// So where a look shows less than the pipe holds, the pipe has more than half of
// its buffers in use, and a writer of many tiny buffers may be close to standing
// still for a newline that it has no room to write. Ordinary writes are merged by
// the kernel: eight buffers then hold more than MaxLine.
const peekSlots = 8

// scratch looks at the head of a pipe without taking it away: tee shares the
// pipe's pages with a pipe of our own, and that is read.
type scratch struct {
	r, w int
	buf  []byte
}

func newScratch(slots int) (*scratch, error) {
	s := &scratch{r: -1, w: -1, buf: make([]byte, maxRaw)}
	if err := s.open(slots); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *scratch) open(slots int) error {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return fmt.Errorf("making a pipe: %w", err)
	}
	if _, err := unix.FcntlInt(uintptr(p[1]), unix.F_SETPIPE_SZ, slots*os.Getpagesize()); err != nil {
		unix.Close(p[0])
		unix.Close(p[1])
		return fmt.Errorf("sizing a pipe: %w", err)
	}
	s.r, s.w = p[0], p[1]
	return nil
}

// peek returns at most max bytes from the head of pipe fd. No bytes and no error
// mean that it is empty.
//
// Expected syscalls: tee, read.
func (s *scratch) peek(fd, max int) ([]byte, error) {
	n, err := tee(fd, s.w, min(max, len(s.buf)))
	if err != nil || n == 0 {
		return nil, err
	}
	got := 0
	for got < n {
		// A pipe in packet mode gives one packet a read.
		m, err := ignoringEINTR(func() (int, error) { return unix.Read(s.r, s.buf[got:n]) })
		if err != nil {
			return nil, fmt.Errorf("reading shared pages: %w", err)
		}
		if m == 0 {
			return nil, errors.New("shared pages are missing")
		}
		got += m
	}
	return s.buf[:got], nil
}

// drain empties pipe fd.
func (s *scratch) drain(fd int) error {
	for {
		n, err := ignoringEINTR(func() (int, error) { return unix.Read(fd, s.buf) })
		if err == unix.EAGAIN || (err == nil && n == 0) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// tee shares up to n bytes of pipe in with pipe out; 0 is "empty".
func tee(in, out, n int) (int, error) {
	m, err := ignoringEINTR(func() (int, error) {
		m, err := unix.Tee(in, out, n, unix.SPLICE_F_NONBLOCK)
		return int(m), err
	})
	if err == unix.EAGAIN {
		return 0, nil
	}
	return m, err
}

// splice moves up to n bytes from in to out, one of which is a pipe.
func splice(in, out, n int) (int, error) {
	return ignoringEINTR(func() (int, error) {
		m, err := unix.Splice(in, nil, out, nil, n, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		return int(m), err
	})
}

// pending returns how many bytes pipe fd holds.
func pending(fd int) (int, error) { return unix.IoctlGetInt(fd, unix.TIOCINQ) }

func ignoringEINTR(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if err != unix.EINTR {
			return n, err
		}
	}
}
