// Package message is what goes over the channels between init and those it
// keeps things for: see package keeper. Init links this and nothing else of it.
//
// A request is one datagram, little-endian:
//
//	op u8 | index u8 | meta length u16 | pid i32 | since i64 | key [64] | meta
//
// with fds beside it. The answer is one byte.
package message

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// Op is what a request asks for.
type Op uint8

// Operations. Beside each: what it needs, and who may ask.
const (
	End     Op = iota // on the restore channel: everything stored has been sent
	Watch             // key, pid, since: report the exit of pid as key's (helper)
	Forget            // key: drop the exit record and every fd (helper)
	Store             // key, meta, fds: keep them (helper); init sends it to the log process
	Replace           // key, index, one fd (helper)
	Drop              // key, index: close one kept fd (helper, log process)
)

// Sizes.
const (
	KeyLen     = 64
	MaxMeta    = 1024
	MaxFDs     = 12
	headerLen  = 80
	MaxRequest = headerLen + MaxMeta
	ExitLen    = KeyLen + 16
)

// Status is the one byte of an answer.
type Status uint8

// Statuses.
const (
	OK        Status = iota
	Invalid          // the request contradicts itself
	NotFound         // nothing is kept under that key and index
	Full             // too much is kept already
	Forbidden        // not on this channel
)

// Request is one request.
type Request struct {
	Op    Op
	Index uint8
	PID   int32
	Since int64 // CLOCK_BOOTTIME in ns, taken before the process could exist
	Key   string
	Meta  []byte
}

// Encode returns the datagram of r.
func (r Request) Encode() ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	b := make([]byte, headerLen, headerLen+len(r.Meta))
	b[0], b[1] = byte(r.Op), r.Index
	binary.LittleEndian.PutUint16(b[2:], uint16(len(r.Meta)))
	binary.LittleEndian.PutUint32(b[4:], uint32(r.PID))
	binary.LittleEndian.PutUint64(b[8:], uint64(r.Since))
	copy(b[16:], r.Key)
	return append(b, r.Meta...), nil
}

// Decode reads a datagram. Meta is a copy.
func Decode(b []byte) (Request, error) {
	if len(b) < headerLen || len(b) != headerLen+int(binary.LittleEndian.Uint16(b[2:])) {
		return Request{}, fmt.Errorf("a request of %d bytes", len(b))
	}
	r := Request{
		Op: Op(b[0]), Index: b[1],
		PID:   int32(binary.LittleEndian.Uint32(b[4:])),
		Since: int64(binary.LittleEndian.Uint64(b[8:])),
		Key:   keyString(b[16:headerLen]),
		Meta:  append([]byte(nil), b[headerLen:]...),
	}
	return r, r.check()
}

func (r Request) check() error {
	switch {
	case r.Op > Drop:
		return fmt.Errorf("unknown operation %d", r.Op)
	case r.Op != End && !validKey(r.Key), r.Op == End && r.Key != "":
		return errors.New("a key is 64 hex digits")
	case len(r.Meta) > MaxMeta, len(r.Meta) > 0 && r.Op != Store:
		return fmt.Errorf("%d bytes of meta", len(r.Meta))
	case (r.Op == Watch) != (r.PID > 1), r.Op != Watch && r.PID != 0:
		return fmt.Errorf("pid %d", r.PID)
	case r.Op != Watch && r.Since != 0, r.Since < 0:
		return fmt.Errorf("since %d", r.Since)
	case int(r.Index) >= MaxFDs, r.Index != 0 && r.Op != Replace && r.Op != Drop:
		return fmt.Errorf("index %d", r.Index)
	}
	return nil
}

// Exit is how a process ended.
type Exit struct {
	Key    string // empty: everything retained has been sent
	Code   int32  // exit code, or 128+signal
	Signal int32
	Time   int64 // unix time in ns
}

// Encode returns the datagram of e.
func (e Exit) Encode() []byte {
	b := make([]byte, ExitLen)
	copy(b, e.Key)
	binary.LittleEndian.PutUint32(b[KeyLen:], uint32(e.Code))
	binary.LittleEndian.PutUint32(b[KeyLen+4:], uint32(e.Signal))
	binary.LittleEndian.PutUint64(b[KeyLen+8:], uint64(e.Time))
	return b
}

// DecodeExit reads a datagram of the exits channel.
func DecodeExit(b []byte) (Exit, error) {
	if len(b) != ExitLen {
		return Exit{}, fmt.Errorf("an exit of %d bytes", len(b))
	}
	e := Exit{
		Key:    keyString(b[:KeyLen]),
		Code:   int32(binary.LittleEndian.Uint32(b[KeyLen:])),
		Signal: int32(binary.LittleEndian.Uint32(b[KeyLen+4:])),
		Time:   int64(binary.LittleEndian.Uint64(b[KeyLen+8:])),
	}
	if e.Key != "" && !validKey(e.Key) {
		return Exit{}, errors.New("an exit with a bad key")
	}
	return e, nil
}

// keyString is empty for all zeroes; what is no key is refused by validKey.
func keyString(b []byte) string { return strings.TrimRight(string(b), "\x00") }

func validKey(k string) bool {
	return len(k) == KeyLen && strings.Trim(k, "0123456789abcdef") == ""
}

// EncodeSet is the datagram that Restore reads: a STORE, then one byte for each
// fd beside it, its index.
func EncodeSet(key string, meta []byte, index []byte) ([]byte, error) {
	b, err := Request{Op: Store, Key: key, Meta: meta}.Encode()
	return append(b, index...), err
}
