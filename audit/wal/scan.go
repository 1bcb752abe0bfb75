package wal

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
)

// Damage names one bad place of the log.
type Damage struct {
	Segment string
	Offset  int64
	Seq     uint64 // that should stand there
	Reason  string
}

func (d *Damage) Error() string {
	return fmt.Sprintf("%s: offset %d: record %d: %s", d.Segment, d.Offset, d.Seq, d.Reason)
}

// cursor is a place in the chain.
type cursor struct {
	next uint64 // sequence number that comes next
	head Hash
	off  int64
}

// reader reads frames one after another with one small buffer: auditd looks
// through a segment at start and must not grow by it.
type reader struct {
	f     io.ReaderAt
	limit int64
	buf   []byte
	base  int64 // offset of buf[0]
}

func newReader(f io.ReaderAt, limit int64) *reader { return &reader{f: f, limit: limit} }

// at returns n bytes at off, fewer at the end.
func (r *reader) at(off int64, n int) ([]byte, error) {
	if left := r.limit - off; int64(n) > left {
		n = int(max(left, 0))
	}
	if off >= r.base && off+int64(n) <= r.base+int64(len(r.buf)) {
		return r.buf[off-r.base:][:n], nil
	}
	if cap(r.buf) < 128<<10 {
		r.buf = make([]byte, 128<<10)
	}
	r.buf = r.buf[:min(int64(cap(r.buf)), r.limit-off)]
	m, err := r.f.ReadAt(r.buf, off)
	r.buf, r.base = r.buf[:m], off
	if m < n {
		if err == io.EOF {
			return r.buf, nil
		}
		return nil, err
	}
	return r.buf[:n], nil
}

// frame reads and checks the frame at c. A *Damage says what is wrong with it.
func (r *reader) frame(name string, c cursor) (Frame, error) {
	bad := func(err error) error { return &Damage{name, c.off, c.next, err.Error()} }
	head, err := r.at(c.off, FrameSize)
	if err != nil {
		return Frame{}, fmt.Errorf("reading %s: %w", name, err)
	}
	n, err := frameLen(head)
	if err != nil {
		return Frame{}, bad(err)
	}
	b, err := r.at(c.off, n)
	if err != nil {
		return Frame{}, fmt.Errorf("reading %s: %w", name, err)
	}
	if len(b) < n {
		return Frame{}, bad(errShort)
	}
	f, err := decodeFrame(b)
	if err != nil {
		return Frame{}, bad(err)
	}
	f.Offset = c.off
	if f.Seq != c.next {
		return f, bad(fmt.Errorf("sequence: it says %d", f.Seq))
	}
	if f.Prev != c.head {
		return f, bad(fmt.Errorf("chain: it follows %.16s…, the record before is %.16s…", f.Prev, c.head))
	}
	return f, nil
}

// walk visits the good frames from c to limit and returns the place after the
// last; the error is a *Damage, a read error or visit's.
func walk(f io.ReaderAt, name string, c cursor, limit int64, visit func(Frame) error) (cursor, error) {
	r := newReader(f, limit)
	for c.off < limit {
		fr, err := r.frame(name, c)
		if err != nil {
			return c, err
		}
		if visit != nil {
			if err := visit(fr); err != nil {
				return c, err
			}
		}
		c = cursor{c.next + 1, fr.Hash, c.off + FrameSize + int64(len(fr.Payload))}
	}
	return c, nil
}

// laterSeq looks for a whole record anywhere after off and returns the highest
// sequence number seen. It is what tells damage from a torn end: a write that was
// cut by a crash has nothing whole behind the cut.
func laterSeq(f io.ReaderAt, off, limit int64) (last uint64, found bool, err error) {
	r, whole := newReader(f, limit), newReader(f, limit)
	for off++; off < limit; {
		b, err := r.at(off, 64<<10)
		if err != nil {
			return 0, false, err
		}
		i := bytes.Index(b, frameMagic[:])
		if i < 0 {
			off += int64(max(len(b)-3, 1))
			continue
		}
		off += int64(i)
		head, err := whole.at(off, FrameSize)
		if err != nil {
			return 0, false, err
		}
		step := int64(1)
		if n, err := frameLen(head); err == nil {
			seq := binary.LittleEndian.Uint64(head[12:])
			b, err := whole.at(off, n)
			if err != nil {
				return 0, false, err
			}
			if len(b) == n && checksum(b) {
				last, found, step = max(last, seq), true, int64(n)
			}
		}
		off += step
	}
	return last, found, nil
}

func checksum(b []byte) bool {
	return crc32.Update(crc32.Checksum(b[:8], castagnoli), castagnoli, b[12:]) == binary.LittleEndian.Uint32(b[8:])
}
