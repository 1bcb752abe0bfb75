package wal

import (
	"errors"
	"fmt"
	"time"
)

// Open opens the log in fs, repairs a torn end and begins a new segment behind
// damage. A log whose disk refuses writes is open all the same and refuses
// commits until it takes them.
func Open(fs FS, o Options) (*Log, error) {
	if o.Segment == 0 {
		o.Segment = SegmentSize
	}
	if o.Ballast == 0 {
		o.Ballast = BallastSize
	}
	if o.Retry == 0 {
		o.Retry = time.Second
	}
	if o.Delay == 0 {
		o.Delay = time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	l := &Log{fs: fs, o: o, wake: make(chan struct{}, 1), done: make(chan struct{}), next: 1}
	if err := l.recover(); err != nil {
		return nil, err
	}
	if o.Ballast > 0 && fs.Reserve(ballast, o.Ballast) != nil {
		fs.Remove(ballast) // no room for it: what is left is for records
	}
	if f, err := fs.Create(headName); err == nil {
		f.Close()
	}
	l.headFile, _ = fs.Open(headName, true)
	l.publish()
	go l.run()
	l.poke() // what recovery has to say is written at once
	return l, nil
}

// segments lists the indexes in order.
func segments(fs FS) ([]uint64, error) {
	names, err := fs.List()
	if err != nil {
		return nil, fmt.Errorf("listing the audit log: %w", err)
	}
	var out []uint64
	for _, n := range names {
		if i, ok := segmentIndex(n); ok {
			out = append(out, i)
		}
	}
	return out, nil
}

// recover finds the end of the log.
func (l *Log) recover() error {
	segs, err := segments(l.fs)
	if err != nil {
		return err
	}
	seq, hash := readHead(l.fs)
	if len(segs) == 0 {
		l.state = stateNone
		if seq > 0 {
			l.damaged(&Damage{headName, 0, seq, "truncated: records were acknowledged and there is no segment"}, seq, 0)
		}
		return nil
	}
	l.last = segs[len(segs)-1]
	var skipped []string
	for i := len(segs) - 1; i >= 0; i-- {
		empty, err := l.resume(segs[:i+1], seq, hash)
		if err != nil {
			return err
		}
		if !empty {
			break
		}
		skipped = append(skipped, segmentName(segs[i]))
	}
	if len(skipped) > 0 {
		l.events = append(l.events, Event{"audit.recovered", false, map[string]any{"unfinished_segments": skipped}})
	}
	return nil
}

// resume makes the last of segs the place to go on from. It returns empty for one
// whose making was cut short, which holds nothing.
func (l *Log) resume(segs []uint64, headSeq uint64, headHash Hash) (empty bool, err error) {
	i, more := segs[len(segs)-1], len(segs) > 1
	name := segmentName(i)
	f, err := l.fs.Open(name, false)
	if err != nil {
		return false, fmt.Errorf("opening the audit log: %w", err)
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return false, fmt.Errorf("opening the audit log: %w", err)
	}
	b := make([]byte, HeaderSize)
	n, _ := f.ReadAt(b, 0)
	h, herr := decodeHeader(b[:n])
	if herr == nil && h.Index != i {
		herr = fmt.Errorf("sequence: the header is of segment %d", h.Index)
	}
	if herr != nil {
		if size <= HeaderSize && more {
			return true, nil
		}
		later, found, err := laterSeq(f, 0, size)
		if err != nil {
			return false, err
		}
		l.index, l.size = i, 0
		if size <= HeaderSize && !found && headSeq == 0 { // the very first segment, never finished
			l.state = stateFailed
			return false, nil
		}
		if more {
			l.head = l.endOf(segs[len(segs)-2])
		}
		l.damaged(&Damage{name, 0, headSeq, herr.Error()}, max(later, headSeq), size)
		return false, nil
	}
	if more && size <= HeaderSize {
		if _, before, err := segmentHeader(l.fs, h.PrevIndex); err == nil && unfinished(h, size, before) {
			return true, nil
		}
	}
	l.index = i
	end, err := walk(f, name, cursor{h.FirstSeq, h.PrevHash, HeaderSize}, size, func(fr Frame) error {
		if fr.Seq == headSeq && fr.Hash != headHash {
			return &Damage{name, fr.Offset, fr.Seq, "chain: it is not the record that was acknowledged"}
		}
		return nil
	})
	l.next, l.head, l.size = end.next, end.head, end.off
	var bad *Damage
	switch {
	case err == nil && headSeq >= end.next:
		l.damaged(&Damage{name, end.off, end.next, fmt.Sprintf("truncated: records to %d were acknowledged", headSeq)}, headSeq, size)
		return false, nil
	case err == nil:
	case !errors.As(err, &bad):
		return false, err
	default:
		later, found, err := laterSeq(f, end.off, size)
		if err != nil {
			return false, err
		}
		if found || headSeq >= end.next {
			l.damaged(bad, max(later, headSeq), size)
			return false, nil
		}
	}
	return false, l.takeUp(name, f, size, bad)
}

// endOf returns the last good hash of a segment, as far as it can be read.
func (l *Log) endOf(i uint64) Hash {
	h, size, err := segmentHeader(l.fs, i)
	if err != nil {
		return Hash{}
	}
	f, err := l.fs.Open(segmentName(i), false)
	if err != nil {
		return Hash{}
	}
	defer f.Close()
	end, _ := walk(f, segmentName(i), cursor{h.FirstSeq, h.PrevHash, HeaderSize}, size, nil)
	return end.head
}

// damaged leaves the segment as it is, for good, and goes on behind it.
func (l *Log) damaged(d *Damage, highest uint64, size int64) {
	if d.Segment != headName {
		l.fs.ReadOnly(d.Segment)
	}
	l.state = stateCorrupt
	l.next = max(l.next, highest+1) // numbers that were given out are not given out again
	l.events = append(l.events, Event{"audit.corrupt", true, map[string]any{
		"segment": d.Segment, "offset": d.Offset, "record": d.Seq, "reason": d.Reason, "segment_bytes": size,
	}})
}

// takeUp goes on writing in the segment, behind its last whole record. What a
// crash left of a record that was never acknowledged is kept in a file beside it.
func (l *Log) takeUp(name string, from File, size int64, bad *Damage) error {
	f, err := l.fs.Open(name, true)
	if err != nil {
		l.state = stateFailed // go on in a new one
		return nil
	}
	if bad != nil {
		saved := l.save(fmt.Sprintf("torn-%08d-%d", l.index, l.size), from, size)
		if err := errors.Join(f.Truncate(l.size), f.Sync()); err != nil {
			f.Close()
			l.state = stateFailed
			return nil
		}
		l.events = append(l.events, Event{"audit.recovered", false, map[string]any{
			"segment": name, "bytes_dropped": size - l.size, "last_seq": l.next - 1, "reason": bad.Reason, "saved": saved,
		}})
	}
	l.active, l.name = f, name
	return nil
}

// save copies the torn end, at most 1 MiB of it, and returns the file's name.
func (l *Log) save(name string, from File, size int64) string {
	b := make([]byte, min(size-l.size, 1<<20))
	n, _ := from.ReadAt(b, l.size)
	f, err := l.fs.Create(name)
	if err != nil {
		return ""
	}
	_, err = f.Write(b[:n])
	if errors.Join(err, f.Sync(), f.Close()) != nil {
		return ""
	}
	return name
}
