package wal

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Errors that a committer gets. Whatever the error, the record is not
// acknowledged and the caller must not act as if it were written.
var (
	ErrFull   = errors.New("audit log: no space left")
	ErrFailed = errors.New("audit log: the disk failed")
	ErrClosed = errors.New("audit log: closed")
)

// Build makes the payload of a record once its place in the chain is known.
type Build func(seq uint64, prev Hash) ([]byte, error)

// Event is something the log has to say about itself; it becomes a record.
type Event struct {
	Kind     string // audit.recovered, audit.corrupt, audit.failed, audit.full, audit.space
	Critical bool
	Detail   map[string]any
}

// Options of a log.
type Options struct {
	BootID  string
	Event   func(Event) Build // encodes events; nil leaves them out
	Segment int64             // bytes; 0 is SegmentSize
	Ballast int64             // bytes; 0 is BallastSize, negative none
	Retry   time.Duration     // between attempts while failed or full; 0 is a second, negative none
	Delay   time.Duration     // at most that async records wait; 0 is a second
	Now     func() time.Time
}

const (
	batchBytes = 1 << 20 // of one write
	queueMax   = 1024    // async records beyond this wait like others: nothing is dropped
	ballast    = "ballast"
)

// Log is an open log. It is safe for concurrent use; one goroutine writes.
type Log struct {
	fs FS
	o  Options

	mu     sync.Mutex
	queue  []*entry
	timer  *time.Timer
	closed bool
	wake   chan struct{}
	done   chan struct{}

	// The writer's own.
	active    File
	name      string
	index     uint64 // of the last segment that holds records, or may
	last      uint64 // highest index ever tried
	size      int64  // acknowledged bytes of that segment
	state     string // how it ended, while active is nil
	next      uint64
	head      Hash
	headFile  File
	events    []Event
	buf       []byte
	full      bool
	retryAt   time.Time
	lastErr   error
	unwritten int // async records that could not be written before Close

	pub struct {
		sync.Mutex
		seq  uint64
		head Hash
	}
}

type entry struct {
	build Build
	async bool
	seq   uint64
	err   error
	done  chan struct{}
}

const segmentSuffix = ".wal"

func segmentName(i uint64) string { return fmt.Sprintf("%08d%s", i, segmentSuffix) }

func segmentIndex(name string) (uint64, bool) {
	s, ok := strings.CutSuffix(name, segmentSuffix)
	i, err := strconv.ParseUint(s, 10, 63)
	return i, ok && err == nil && segmentName(i) == name
}

// Commit writes a record and returns its number when it is on disk. An async
// record is on disk within Delay; its number is not known yet and 0 is returned.
func (l *Log) Commit(build Build, async bool) (uint64, error) {
	e := &entry{build: build, async: async, done: make(chan struct{})}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return 0, ErrClosed
	}
	if len(l.queue) >= queueMax {
		e.async = false
	}
	l.queue = append(l.queue, e)
	if e.async {
		if l.timer == nil {
			l.timer = time.AfterFunc(l.o.Delay, l.poke)
		}
		l.mu.Unlock()
		return 0, nil
	}
	l.mu.Unlock()
	l.poke()
	<-e.done
	return e.seq, e.err
}

func (l *Log) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Head returns the last acknowledged record and its hash.
func (l *Log) Head() (uint64, Hash) {
	l.pub.Lock()
	defer l.pub.Unlock()
	return l.pub.seq, l.pub.head
}

// Close writes what is queued and closes the log.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	l.mu.Unlock()
	l.poke()
	<-l.done
	var err error
	if l.unwritten > 0 {
		err = fmt.Errorf("%w: %d records were not written", ErrFailed, l.unwritten)
	}
	if l.active != nil {
		err = errors.Join(err, l.active.Close())
	}
	if l.headFile != nil {
		err = errors.Join(err, l.headFile.Close())
	}
	return err
}

func (l *Log) run() {
	defer close(l.done)
	for range l.wake {
		l.mu.Lock()
		batch, closed := l.queue, l.closed
		l.queue = nil
		if l.timer != nil {
			l.timer.Stop()
			l.timer = nil
		}
		l.mu.Unlock()
		kept := l.flush(batch)
		if closed {
			l.unwritten = len(kept)
			return
		}
		if len(kept) > 0 {
			l.mu.Lock()
			l.queue = append(kept, l.queue...)
			if l.timer == nil {
				l.timer = time.AfterFunc(l.o.Delay, l.poke)
			}
			l.mu.Unlock()
		}
	}
}

// flush writes the entries in as few writes as it can and tells their waiters.
// Async entries that could not be written are returned: nobody waits for them,
// so they stay until they are on disk.
func (l *Log) flush(batch []*entry) (kept []*entry) {
	for len(batch) > 0 || len(l.events) > 0 {
		n, err := l.flushSome(batch)
		for _, e := range batch[:n] {
			if err != nil && e.async && e.err == nil {
				kept = append(kept, e)
				continue
			}
			if e.err == nil {
				e.err = err
			}
			close(e.done)
		}
		batch = batch[n:]
		if err != nil && len(batch) == 0 {
			break
		}
	}
	return kept
}
