package decision

import (
	"crypto/rand"
	"encoding/binary"
)

const crockford = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

// NewID returns a ULID: 48 bits of milliseconds and 80 random bits, so that ids
// sort by time and cannot be guessed.
func NewID(unixNano int64) string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], uint64(unixNano/1e6)<<16)
	rand.Read(b[6:])
	hi, lo := binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
	var out [26]byte
	for i := 25; i >= 0; i-- {
		out[i] = crockford[lo&31]
		lo = lo>>5 | hi<<59
		hi >>= 5
	}
	return string(out[:])
}
