package logd

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// phase is where a container's one batch in flight stands.
//
// A batch is some bytes from the head of a source (the pipe that the container
// writes to), on their way to the log. Killed at any instruction, the process
// leaves them in exactly one place that its successor recognises:
//
//	phase      source        journal        log          the successor
//	idle       all of it     empty          –            starts afresh
//	moving     rest of it    0…N bytes      –            moves the rest, N minus what is in the journal
//	writing    –             N bytes        base+0…L     formats the journal again, writes from size−base on
//	consuming  –             N…0 bytes      base+L       empties the journal
//
// Only this process reads the source and writes the journal, so their lengths
// are as it left them; the container can only add to the source, behind the
// batch. The record is written to the state memfd by one pwrite of 64 bytes
// within one page before each phase begins. Each kill point in turn:
//
//   - before the pwrite of moving: nothing has happened, peeking takes nothing
//     away;
//   - in or after the splice to the journal: splice moves whole buffers between
//     the two pipes or not at all, so that the sum is unchanged;
//   - before the pwrite of writing: the journal has N bytes in phase moving: the
//     successor has nothing left to move, and takes a new time stamp, since
//     nothing was written yet;
//   - in or after the write to the log: its size tells how much of the L bytes
//     is there. The records are formatted again, with the same stamp to the same
//     bytes, and the rest is appended. A line cut in half is thus completed, not
//     repeated. The same happens after a short write on a full disk;
//   - before the pwrite of consuming: the size is base+L, nothing is left to
//     write;
//   - while the journal is emptied: what is left in it has been written and goes.
//
// Two streams share the record: a container has one log and so at most one
// batch in flight.
//
// What it does not cover: an exchange of the log by a rotation whose news the
// killed process had not heard while it was in phase writing. The successor then
// sees a file that is not the record's and writes the batch there from the
// start: nothing is lost, but lines may be in both files.
type phase uint32

const (
	idle phase = iota
	moving
	writing
	consuming
)

// stateSize is the size of the state memfd and its record.
const stateSize = 64

const stateMagic = 0x6c6f6731 // "log1"

// state is the record of a batch.
type state struct {
	phase  phase
	stream Stream
	raw    int    // N: bytes of the container's output in the batch
	size   int    // L: bytes of the records made of them
	stamp  int64  // unix ns, in every record of the batch
	base   int64  // size of the log before the batch; below 0 after a rotation in mid-batch
	inode  uint64 // of the log that base belongs to
}

func (s *state) encode() [stateSize]byte {
	var b [stateSize]byte
	le := binary.LittleEndian
	le.PutUint32(b[0:], stateMagic)
	le.PutUint32(b[4:], uint32(s.phase))
	le.PutUint32(b[8:], uint32(s.stream))
	le.PutUint32(b[12:], uint32(s.raw))
	le.PutUint32(b[16:], uint32(s.size))
	le.PutUint64(b[24:], uint64(s.stamp))
	le.PutUint64(b[32:], uint64(s.base))
	le.PutUint64(b[40:], s.inode)
	return b
}

// decodeState reads a record. All zeroes is a new container's.
func decodeState(b []byte) (state, error) {
	var s state
	if len(b) != stateSize {
		return s, fmt.Errorf("a state of %d bytes", len(b))
	}
	le := binary.LittleEndian
	switch le.Uint32(b) {
	case 0:
		return s, nil
	case stateMagic:
	default:
		return s, errors.New("a state that is not ours")
	}
	raw, size := le.Uint32(b[12:]), le.Uint32(b[16:])
	s = state{
		phase: phase(le.Uint32(b[4:])), stream: Stream(le.Uint32(b[8:])),
		raw: int(raw), size: int(size),
		stamp: int64(le.Uint64(b[24:])), base: int64(le.Uint64(b[32:])), inode: le.Uint64(b[40:]),
	}
	if s.phase > consuming || le.Uint32(b[8:]) > uint32(Stderr) || raw > maxRaw || size > maxOut {
		return state{}, errors.New("a state with values out of range")
	}
	return s, nil
}

// save records s before its phase begins.
func (s *state) save(fd int) error {
	b := s.encode()
	n, err := unix.Pwrite(fd, b[:], 0)
	if err != nil {
		return fmt.Errorf("writing the state: %w", err)
	}
	if n != stateSize {
		return errors.New("writing the state: short write")
	}
	return nil
}

// loadState reads the record of fd.
func loadState(fd int) (state, error) {
	var b [stateSize + 1]byte
	n, err := unix.Pread(fd, b[:], 0)
	if err != nil {
		return state{}, fmt.Errorf("reading the state: %w", err)
	}
	if n == 0 {
		return state{}, nil
	}
	return decodeState(b[:min(n, stateSize)])
}
