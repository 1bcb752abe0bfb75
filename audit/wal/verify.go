package wal

import (
	"errors"
	"fmt"
	"slices"
)

// Report is what Verify found.
type Report struct {
	Segments    int
	Records     uint64
	First, Last uint64
	Head        Hash
	Superseded  int64 // bytes behind a failed sync, written again in the next segment
	Torn        int64 // bytes at the very end, cut by a crash and not yet dropped, or being written now
}

// Verify reads the whole log. The error is a *Damage for the first bad record.
// A running log may be verified: what is being written at its end is no damage.
func Verify(fs FS) (Report, error) {
	var r Report
	segs, err := segments(fs)
	if err != nil {
		return r, err
	}
	headSeq, headHash := readHead(fs) // before the records: it may only be older
	heads, sizes, err := chain(fs, segs)
	if err != nil {
		return r, err
	}
	visit := func(name string) func(Frame) error {
		return func(f Frame) error {
			if f.Seq == headSeq && f.Hash != headHash {
				return &Damage{name, f.Offset, f.Seq, "chain: it is not the record that was acknowledged"}
			}
			r.Records++
			if r.First == 0 {
				r.First = f.Seq
			}
			r.Last, r.Head = f.Seq, f.Hash
			return nil
		}
	}
	var at cursor
	for k := 0; k < len(heads); {
		h, name := heads[k], segmentName(heads[k].Index)
		if k == 0 {
			at = cursor{next: h.FirstSeq, head: h.PrevHash}
		}
		if h.FirstSeq != at.next {
			return r, &Damage{name, 0, at.next, fmt.Sprintf("sequence: the segment begins at record %d", h.FirstSeq)}
		}
		if h.PrevHash != at.head {
			return r, &Damage{name, 0, at.next, "chain: the segment does not follow the one before"}
		}
		r.Segments++
		n := k + 1
		limit := sizes[k]
		if n < len(heads) {
			limit = heads[n].PrevBytes
		}
		if limit > sizes[k] {
			limit = sizes[k]
		}
		f, err := fs.Open(name, false)
		if err != nil {
			return r, err
		}
		at.off = HeaderSize
		at, err = walk(f, name, at, limit, visit(name))
		var bad *Damage
		if n >= len(heads) && errors.As(err, &bad) && at.next > headSeq {
			_, found, ferr := laterSeq(f, at.off, limit)
			if ferr == nil && !found {
				r.Torn, err = limit-at.off, nil
			}
		}
		f.Close()
		if err != nil {
			return r, err
		}
		if n < len(heads) {
			if err := ending(name, heads[n], sizes[k], at); err != nil {
				return r, err
			}
			r.Superseded += sizes[k] - heads[n].PrevBytes
		}
		k = n
	}
	if headSeq > 0 && headSeq >= at.next {
		name := headName
		if len(heads) > 0 {
			name = segmentName(heads[len(heads)-1].Index)
		}
		return r, &Damage{name, at.off, at.next, fmt.Sprintf("truncated: records to %d were acknowledged", headSeq)}
	}
	return r, nil
}

// ending holds a segment's end against what the next header says of it.
func ending(name string, next Header, size int64, at cursor) error {
	switch {
	case at.off < next.PrevBytes:
		return &Damage{name, at.off, at.next, fmt.Sprintf("truncated: %d bytes are missing", next.PrevBytes-at.off)}
	case next.PrevState == stateCorrupt:
		return &Damage{name, next.PrevBytes, at.next, "the log was found damaged here when it was opened"}
	case next.PrevState == stateClosed && size != next.PrevBytes:
		return &Damage{name, next.PrevBytes, at.next, "length: bytes behind the end of a closed segment"}
	}
	return nil
}

// chain returns the segments that follow one another to the end of the log. What
// is not among them must be empty: a segment whose making failed.
func chain(fs FS, segs []uint64) (heads []Header, sizes []int64, err error) {
	type segment struct {
		h    Header
		size int64
		err  error
	}
	all := map[uint64]segment{}
	for _, i := range segs {
		h, size, err := segmentHeader(fs, i)
		if err != nil && size > HeaderSize {
			return nil, nil, err
		}
		all[i] = segment{h, size, err}
	}
	used := map[uint64]bool{}
	for k := len(segs) - 1; k >= 0; k-- {
		s := all[segs[k]]
		if len(used) == 0 && (s.err != nil || unfinished(s.h, s.size, all[s.h.PrevIndex].size)) {
			continue
		}
		if len(used) > 0 && heads[len(heads)-1].PrevIndex != segs[k] {
			if s.size > HeaderSize {
				h := heads[len(heads)-1]
				return nil, nil, &Damage{segmentName(h.Index), 0, h.FirstSeq, fmt.Sprintf("chain: it follows segment %d, not %d", h.PrevIndex, segs[k])}
			}
			continue
		}
		if s.err != nil {
			return nil, nil, s.err
		}
		used[segs[k]] = true
		heads, sizes = append(heads, s.h), append(sizes, s.size)
	}
	slices.Reverse(heads)
	slices.Reverse(sizes)
	if len(heads) > 0 && heads[0].PrevIndex > segs[0] {
		return nil, nil, &Damage{segmentName(heads[0].Index), 0, heads[0].FirstSeq, fmt.Sprintf("chain: it follows segment %d, which is missing", heads[0].PrevIndex)}
	}
	if len(heads) > 0 && heads[0].PrevIndex == 0 && heads[0].FirstSeq != 1 {
		return nil, nil, &Damage{segmentName(heads[0].Index), 0, 1, fmt.Sprintf("truncated: records before %d are gone", heads[0].FirstSeq)}
	}
	return heads, sizes, nil
}

// unfinished tells a segment whose making was reported as failed and that is there
// all the same: it is empty, and the segment before it went on.
func unfinished(h Header, size, prevSize int64) bool {
	return size <= HeaderSize && h.PrevState == stateClosed && prevSize > h.PrevBytes
}

func segmentHeader(fs FS, i uint64) (Header, int64, error) {
	name := segmentName(i)
	f, err := fs.Open(name, false)
	if err != nil {
		return Header{}, HeaderSize + 1, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return Header{}, HeaderSize + 1, err
	}
	b := make([]byte, HeaderSize)
	n, _ := f.ReadAt(b, 0)
	h, err := decodeHeader(b[:n])
	if err == nil && h.Index != i {
		err = fmt.Errorf("sequence: the header is of segment %d", h.Index)
	}
	if err != nil {
		return h, size, &Damage{name, 0, 0, err.Error()}
	}
	return h, size, nil
}
