package keeper

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Set is what is kept under one key. FDs that were dropped are left out, and
// Index tells the place of each that is there.
type Set struct {
	Key   string
	Meta  []byte
	FDs   []int
	Index []int
}

// Restore reads what init kept, at the start of the log process: every set once,
// with its fds, which are the caller's. After it the channel serves a Client
// that may Drop.
func Restore(c Conn) ([]Set, error) {
	if err := c.SetDeadline(time.Now().Add(answerTime)); err != nil {
		return nil, err
	}
	defer c.SetDeadline(time.Time{})
	var sets []Set
	buf := make([]byte, MaxRequest+MaxFDs)
	for {
		n, fds, err := c.Recv(buf)
		if err != nil {
			return sets, fmt.Errorf("keeper: restoring: %w", err)
		}
		set, end, err := decodeSet(buf[:n], fds)
		if err != nil {
			closeAll(fds)
			return sets, fmt.Errorf("keeper: restoring: %w", err)
		}
		if end {
			return sets, nil
		}
		sets = append(sets, set)
	}
}

func decodeSet(b []byte, fds []int) (set Set, end bool, err error) {
	if len(b) < len(fds) {
		return set, false, errors.New("fewer bytes than fds")
	}
	r, err := Decode(b[:len(b)-len(fds)])
	if err != nil {
		return set, false, err
	}
	switch {
	case r.Op == End && len(fds) == 0:
		return set, true, nil
	case r.Op != Store:
		return set, false, fmt.Errorf("operation %d", r.Op)
	}
	set = Set{Key: r.Key, Meta: r.Meta, FDs: fds}
	for _, i := range b[len(b)-len(fds):] {
		set.Index = append(set.Index, int(i))
	}
	return set, false, nil
}

// Now is the time for Watch's since: take it before the process is started.
func Now() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0
	}
	return t.Nano()
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
