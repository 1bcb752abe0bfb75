// Package wire is the codec of the boundary: little-endian, written by hand and
// strict. The protocol as a document is docs/PROTOCOL.md.
//
// Rules of this package:
//   - a length or count is checked against the bytes that are there before
//     anything is allocated for it;
//   - an unknown enum value, a boolean that is neither 0 nor 1, a NUL, invalid
//     UTF-8, a duplicate in a list that is a set, or a left-over byte is a
//     violation: an honest peer cannot send it, so the connection ends;
//   - one description of a message serves both directions, so that encoder and
//     decoder cannot drift apart.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// ErrViolation is wrapped by every error that only a broken or hostile peer can
// cause.
var ErrViolation = errors.New("protocol violation")

// Coder goes over the fields of a message in order, writing or reading them.
// The first error stays; later calls do nothing.
type Coder struct {
	b        []byte
	decoding bool
	err      error
}

// NewEncoder returns a Coder that writes.
func NewEncoder() *Coder { return &Coder{} }

// NewDecoder returns a Coder that reads b.
func NewDecoder(b []byte) *Coder { return &Coder{b: b, decoding: true} }

// Encoded returns what was written.
func (c *Coder) Encoded() ([]byte, error) { return c.b, c.err }

// Finish ends reading: a left-over byte is a violation.
func (c *Coder) Finish() error {
	if c.err == nil && len(c.b) > 0 {
		c.Fail("%d left-over bytes", len(c.b))
	}
	return c.err
}

// Decoding says which way the Coder goes.
func (c *Coder) Decoding() bool { return c.decoding }

// Fail records a violation.
func (c *Coder) Fail(format string, a ...any) {
	if c.err == nil {
		c.err = fmt.Errorf("%w: %s", ErrViolation, fmt.Sprintf(format, a...))
	}
}

// take returns the next n bytes, or nil.
func (c *Coder) take(n int) []byte {
	if c.err == nil && n > len(c.b) {
		c.Fail("%d bytes wanted, %d left", n, len(c.b))
	}
	if c.err != nil {
		return nil
	}
	t := c.b[:n]
	c.b = c.b[n:]
	return t
}

// U8 is one byte.
func (c *Coder) U8(v *uint8) {
	if !c.decoding {
		c.b = append(c.b, *v)
	} else if t := c.take(1); t != nil {
		*v = t[0]
	}
}

// U16 is two bytes.
func (c *Coder) U16(v *uint16) {
	if !c.decoding {
		c.b = binary.LittleEndian.AppendUint16(c.b, *v)
	} else if t := c.take(2); t != nil {
		*v = binary.LittleEndian.Uint16(t)
	}
}

// U32 is four bytes.
func (c *Coder) U32(v *uint32) {
	if !c.decoding {
		c.b = binary.LittleEndian.AppendUint32(c.b, *v)
	} else if t := c.take(4); t != nil {
		*v = binary.LittleEndian.Uint32(t)
	}
}

// U64 is eight bytes.
func (c *Coder) U64(v *uint64) {
	if !c.decoding {
		c.b = binary.LittleEndian.AppendUint64(c.b, *v)
	} else if t := c.take(8); t != nil {
		*v = binary.LittleEndian.Uint64(t)
	}
}

// I32 is four bytes, two's complement.
func (c *Coder) I32(v *int32) {
	u := uint32(*v)
	c.U32(&u)
	*v = int32(u)
}

// I64 is eight bytes, two's complement.
func (c *Coder) I64(v *int64) {
	u := uint64(*v)
	c.U64(&u)
	*v = int64(u)
}

// Bool is one byte, 0 or 1.
func (c *Coder) Bool(v *bool) {
	var u uint8
	if *v {
		u = 1
	}
	c.U8(&u)
	if u > 1 {
		c.Fail("boolean is %d", u)
	}
	*v = u == 1
}

// Str is a length of two bytes and at most limit bytes of UTF-8 without NUL.
func (c *Coder) Str(v *string, limit int) {
	if !c.decoding {
		if len(*v) > limit || len(*v) > 1<<16-1 {
			c.err = errors.Join(c.err, fmt.Errorf("a string of %d bytes, at most %d", len(*v), limit))
			return
		}
		n := uint16(len(*v))
		c.U16(&n)
		c.b = append(c.b, *v...)
		checkText(c, *v)
		return
	}
	var n uint16
	c.U16(&n)
	if int(n) > limit {
		c.Fail("a string of %d bytes, at most %d", n, limit)
	}
	*v = string(c.take(int(n)))
	checkText(c, *v)
}

func checkText(c *Coder, s string) {
	if !utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0 {
		c.Fail("a string with a NUL or invalid UTF-8")
	}
}

// Bytes is a length of four bytes and at most limit bytes.
func (c *Coder) Bytes(v *[]byte, limit int) {
	n := uint32(len(*v))
	if int(n) > limit {
		c.Fail("%d bytes, at most %d", n, limit)
		return
	}
	c.U32(&n)
	if !c.decoding {
		c.b = append(c.b, *v...)
		return
	}
	if int64(n) > int64(limit) {
		c.Fail("%d bytes, at most %d", n, limit)
	}
	if t := c.take(int(n)); len(t) > 0 {
		*v = append([]byte(nil), t...)
	}
}

// Enum is one byte between low and high.
func Enum[T ~uint8](c *Coder, v *T, low, high T) {
	u := uint8(*v)
	c.U8(&u)
	if c.err == nil && (T(u) < low || T(u) > high) {
		c.Fail("enum value %d, want %d to %d", u, low, high)
	}
	*v = T(u)
}

// ListOf is a count of two bytes and at most limit elements, each of at least
// least bytes: that bounds the allocation before it is made.
func ListOf[T any](c *Coder, v *[]T, limit, least int, each func(*T)) {
	n := uint16(len(*v))
	if len(*v) > limit {
		c.Fail("%d elements, at most %d", len(*v), limit)
		return
	}
	c.U16(&n)
	if c.decoding {
		if int(n) > limit || int(n)*least > len(c.b) {
			c.Fail("%d elements, at most %d, in %d bytes", n, limit, len(c.b))
		}
		if c.err != nil || n == 0 {
			return
		}
		*v = make([]T, n)
	}
	for i := range *v {
		if c.err != nil {
			return
		}
		each(&(*v)[i])
	}
}

// Strs is a list of strings.
func (c *Coder) Strs(v *[]string, count, limit int) {
	ListOf(c, v, count, 2, func(s *string) { c.Str(s, limit) })
}

// Unique fails on two elements with the same key: what is a set has none.
func Unique[T any](c *Coder, what string, v []T, key func(T) string) {
	if c.err != nil || len(v) < 2 {
		return
	}
	seen := make(map[string]bool, len(v))
	for _, e := range v {
		k := key(e)
		if seen[k] {
			c.Fail("%s: duplicate %q", what, k)
			return
		}
		seen[k] = true
	}
}
