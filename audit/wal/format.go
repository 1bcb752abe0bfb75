// Package wal is the audit log on disk: a write-ahead log with group commit, in
// segments, every record chained to the one before it by its hash. A record that
// was acknowledged is on disk; one that is damaged is found and named; nothing is
// ever removed because it could not be read.
package wal

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
)

// Sizes.
const (
	HeaderSize  = 512
	FrameSize   = 52             // before the payload
	MaxPayload  = 64<<10 + 1<<10 // a committed record and auditd's stamp
	SegmentSize = 64 << 20       // a segment is closed before it grows beyond this
	BallastSize = 16 << 20       // space kept back to be able to say that there is none
	version     = 1
)

var (
	headerMagic = [4]byte{'P', 'A', 'W', 'L'}
	frameMagic  = [4]byte{0xA5, 'r', 'e', 'c'}
	castagnoli  = crc32.MakeTable(crc32.Castagnoli)
)

// Hash is the SHA-256 of a whole frame; the next frame carries it.
type Hash [32]byte

func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText writes h in hexadecimal.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads 64 hexadecimal digits.
func (h *Hash) UnmarshalText(b []byte) error {
	if len(b) != 64 {
		return errors.New("a hash has 64 digits")
	}
	_, err := hex.Decode(h[:], b)
	return err
}

// How the segment before ended, as the next header tells.
const (
	stateNone    = ""        // there is none
	stateClosed  = "closed"  // full, whole
	stateFailed  = "failed"  // a sync failed: what lies beyond prev_bytes was never acknowledged and is written again here
	stateCorrupt = "corrupt" // damage was found at prev_bytes
)

// Header begins a segment. It stands outside the chain and repeats where the
// chain stood, so that a segment that was cut, swapped or left out shows.
type Header struct {
	Index     uint64 `json:"index"`
	FirstSeq  uint64 `json:"first_seq"`
	PrevHash  Hash   `json:"prev_hash"`
	PrevIndex uint64 `json:"prev_index"` // segments between hold nothing: their making failed
	PrevBytes int64  `json:"prev_bytes"` // good bytes of the segment before
	PrevState string `json:"prev_state"`
	BootID    string `json:"boot_id"`
	Time      string `json:"time"`
}

func (h Header) encode() ([]byte, error) {
	j, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	if len(j) > HeaderSize-12 {
		return nil, errors.New("segment header too long")
	}
	b := make([]byte, HeaderSize)
	copy(b, headerMagic[:])
	binary.LittleEndian.PutUint16(b[4:], version)
	binary.LittleEndian.PutUint16(b[6:], uint16(len(j)))
	copy(b[12:], j)
	binary.LittleEndian.PutUint32(b[8:], headerCRC(b))
	return b, nil
}

func headerCRC(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:8], castagnoli), castagnoli, b[12:])
}

func decodeHeader(b []byte) (Header, error) {
	var h Header
	if len(b) < HeaderSize {
		return h, fmt.Errorf("truncated: %d bytes of a %d-byte header", len(b), HeaderSize)
	}
	b = b[:HeaderSize]
	n := int(binary.LittleEndian.Uint16(b[6:]))
	switch {
	case !bytes.Equal(b[:4], headerMagic[:]):
		return h, errors.New("magic: not a segment header")
	case headerCRC(b) != binary.LittleEndian.Uint32(b[8:]):
		return h, errors.New("crc: segment header does not match its checksum")
	case binary.LittleEndian.Uint16(b[4:]) != version:
		return h, fmt.Errorf("version %d is not known", binary.LittleEndian.Uint16(b[4:]))
	case n > HeaderSize-12:
		return h, errors.New("segment header has a bad length")
	}
	if err := json.Unmarshal(b[12:12+n], &h); err != nil {
		return h, fmt.Errorf("segment header: %w", err)
	}
	return h, nil
}

// Frame is one record as it lies on disk.
type Frame struct {
	Seq     uint64
	Prev    Hash
	Payload []byte
	Hash    Hash
	Offset  int64
}

// appendFrame appends the record to b and returns it with its hash.
func appendFrame(b []byte, seq uint64, prev Hash, payload []byte) ([]byte, Hash) {
	start := len(b)
	b = append(b, frameMagic[:]...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	b = append(b, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, seq)
	b = append(b, prev[:]...)
	b = append(b, payload...)
	f := b[start:]
	binary.LittleEndian.PutUint32(f[8:], frameCRC(f))
	return b, sha256.Sum256(f)
}

func frameCRC(f []byte) uint32 {
	return crc32.Update(crc32.Checksum(f[:8], castagnoli), castagnoli, f[12:])
}

// What can be wrong with a frame.
var (
	errShort = errors.New("truncated: the file ends inside the record")
	errMagic = errors.New("magic: no record begins here")
	errLen   = errors.New("length: beyond the limit")
	errCRC   = errors.New("crc: the record does not match its checksum")
)

// frameLen reads the length of the frame that begins with head.
func frameLen(head []byte) (int, error) {
	if len(head) < FrameSize {
		return 0, errShort
	}
	if !bytes.Equal(head[:4], frameMagic[:]) {
		return 0, errMagic
	}
	n := binary.LittleEndian.Uint32(head[4:])
	if n > MaxPayload {
		return 0, errLen
	}
	return FrameSize + int(n), nil
}

// decodeFrame checks a whole frame. Its payload shares b.
func decodeFrame(b []byte) (Frame, error) {
	if frameCRC(b) != binary.LittleEndian.Uint32(b[8:]) {
		return Frame{}, errCRC
	}
	f := Frame{Seq: binary.LittleEndian.Uint64(b[12:]), Payload: b[FrameSize:], Hash: sha256.Sum256(b)}
	copy(f.Prev[:], b[20:])
	return f, nil
}
