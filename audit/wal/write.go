package wal

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

func noSpace(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

// flushSome writes the first n entries as one write and one sync.
func (l *Log) flushSome(batch []*entry) (n int, err error) {
	if err := l.ready(); err != nil {
		return len(batch), err
	}
	next, head := l.next, l.head
	b := l.buf[:0]
	add := func(build Build) (uint64, error) {
		p, err := build(next, head)
		if err != nil {
			return 0, err
		}
		if len(p) > MaxPayload {
			return 0, fmt.Errorf("audit record of %d bytes, at most %d", len(p), MaxPayload)
		}
		b, head = appendFrame(b, next, head, p)
		next++
		return next - 1, nil
	}
	told := len(l.events)
	for _, ev := range l.events {
		if l.o.Event != nil {
			if _, err := add(l.o.Event(ev)); err != nil {
				return len(batch), err
			}
		}
	}
	for n < len(batch) && len(b) < batchBytes {
		e := batch[n]
		e.seq, e.err = add(e.build)
		n++
	}
	if cap(b) <= 256<<10 {
		l.buf = b
	}
	if len(b) > 0 {
		if l.size > HeaderSize && l.size+int64(len(b)) > l.o.Segment {
			err = l.roll(stateClosed)
		}
		if err == nil {
			err = l.put(b)
		}
		if err != nil {
			err = l.again(err, b, next, head)
		} else {
			l.acknowledge(int64(len(b)), next, head)
		}
	}
	if err != nil {
		l.retryAt, l.lastErr = l.o.Now().Add(l.o.Retry), err
		return n, err
	}
	l.events = l.events[min(told, len(l.events)):]
	return n, nil
}

// ready brings a log that failed back, no more often than Retry.
func (l *Log) ready() error {
	if !l.full && l.active != nil {
		return nil
	}
	if l.lastErr != nil && l.o.Now().Before(l.retryAt) {
		return l.lastErr
	}
	err := l.revive()
	if err != nil {
		l.retryAt, l.lastErr = l.o.Now().Add(l.o.Retry), err
	}
	return err
}

func (l *Log) revive() error {
	if l.full {
		// Only when the whole reserve fits again: the next time the disk is full there must be room to say so.
		if l.o.Ballast > 0 {
			if err := l.fs.Reserve(ballast, l.o.Ballast); err != nil {
				return fmt.Errorf("%w: %w", ErrFull, err)
			}
		}
		l.full = false
		l.events = append(l.events, Event{Kind: "audit.space", Detail: map[string]any{"state": "space is back"}})
	}
	if l.active == nil {
		if err := l.roll(l.state); err != nil {
			return l.note(err)
		}
	}
	return nil
}

// note turns a disk's error into one of ours.
func (l *Log) note(err error) error {
	if noSpace(err) {
		l.enterFull(err)
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return fmt.Errorf("%w: %w", ErrFailed, err)
}

// again handles the first error of a batch. Nothing is synced a second time on
// the file that failed: the kernel may have dropped the dirty pages and would
// report success. The same bytes go to a new segment, followed by a record that
// tells; should that fail too, the committers are told no.
func (l *Log) again(first error, b []byte, next uint64, head Hash) error {
	if noSpace(first) {
		return l.note(first)
	}
	failed := l.name
	l.abandon()
	if err := l.roll(stateFailed); err != nil {
		return l.note(errors.Join(first, err))
	}
	if l.o.Event != nil {
		ev := Event{"audit.failed", true, map[string]any{"error": first.Error(), "segment": failed}}
		if p, err := l.o.Event(ev)(next, head); err == nil {
			b, head = appendFrame(b, next, head, p)
			next++
		}
	}
	if err := l.put(b); err != nil {
		return l.note(errors.Join(first, err))
	}
	l.acknowledge(int64(len(b)), next, head)
	return nil
}

// put writes and syncs. After an error either the segment ends where it was
// acknowledged, or it is given up.
func (l *Log) put(b []byte) error {
	if l.active == nil {
		return errors.New("no segment")
	}
	_, err := l.active.Write(b)
	if err == nil {
		if err = l.active.Sync(); err != nil {
			l.abandon()
		}
		return err
	}
	if !noSpace(err) || l.active.Truncate(l.size) != nil {
		l.abandon()
	}
	return err
}

// abandon gives the active segment up.
func (l *Log) abandon() {
	if l.active != nil {
		l.active.Close()
		l.active, l.state = nil, stateFailed
	}
}

func (l *Log) acknowledge(n int64, next uint64, head Hash) {
	l.size += n
	l.next, l.head, l.lastErr = next, head, nil
	l.publish()
	if l.headFile != nil {
		l.headFile.WriteAt(encodeHead(next-1, head), 0)
	}
}

func (l *Log) publish() {
	l.pub.Lock()
	l.pub.seq, l.pub.head = l.next-1, l.head
	l.pub.Unlock()
}

// enterFull frees the ballast and uses the room to write that the log is full.
func (l *Log) enterFull(cause error) {
	if l.full {
		return
	}
	l.full = true
	l.events = slices.DeleteFunc(l.events, func(e Event) bool { return e.Kind == "audit.space" })
	if l.fs.Remove(ballast) != nil || l.o.Event == nil {
		return
	}
	if l.active == nil && l.roll(l.state) != nil {
		return
	}
	p, err := l.o.Event(Event{"audit.full", true, map[string]any{"error": cause.Error()}})(l.next, l.head)
	if err != nil {
		return
	}
	b, head := appendFrame(nil, l.next, l.head, p)
	if l.put(b) == nil {
		l.acknowledge(int64(len(b)), l.next+1, head)
	}
}

// roll ends the active segment and begins the next. The new one has its header
// and its name on disk before it takes a record.
func (l *Log) roll(state string) error {
	h := Header{
		Index: l.last + 1, FirstSeq: l.next, PrevHash: l.head, PrevIndex: l.index, PrevBytes: l.size, PrevState: state,
		BootID: l.o.BootID, Time: l.o.Now().UTC().Format(time.RFC3339Nano),
	}
	b, err := h.encode()
	if err != nil {
		return err
	}
	l.last++
	name := segmentName(h.Index)
	f, err := l.fs.Create(name)
	if err != nil {
		return fmt.Errorf("making a segment: %w", err)
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = l.fs.Sync()
	}
	if err != nil {
		f.Close()
		l.fs.Remove(name) // if it stays, it is a segment without a record and skipped
		return fmt.Errorf("making a segment: %w", err)
	}
	if l.active != nil {
		l.active.Close()
	}
	if l.name != "" {
		l.fs.ReadOnly(l.name)
	}
	l.active, l.name, l.index, l.size, l.state = f, name, h.Index, HeaderSize, ""
	return nil
}
