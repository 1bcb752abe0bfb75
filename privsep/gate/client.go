package gate

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/seqpacket"
	"github.com/postern-cri/postern/privsep/wire"
)

// Timeout is how long an asker waits for a decision or a commit before it fails
// closed (or, for a teardown, goes on).
const Timeout = 2 * time.Second

// pool keeps idle connections to one service. A call uses a connection alone,
// so that an answer can only be the one to its question.
type pool struct {
	path string
	mu   sync.Mutex
	idle []*seqpacket.Conn
	seq  uint64
	busy chan struct{} // calls under way
}

const (
	maxIdle = 8
	maxBusy = 64 // less than maxPeers: an honest asker waits here, and is let in
)

func newPool(path string) pool { return pool{path: path, busy: make(chan struct{}, maxBusy)} }

func (p *pool) get() (*seqpacket.Conn, uint64, error) {
	p.mu.Lock()
	p.seq++
	seq := p.seq
	if n := len(p.idle); n > 0 {
		c := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		return c, seq, nil
	}
	p.mu.Unlock()
	c, err := seqpacket.Dial(p.path)
	return c, seq, err
}

func (p *pool) put(c *seqpacket.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) >= maxIdle {
		c.Close()
		return
	}
	p.idle = append(p.idle, c)
}

// call sends one datagram and reads the answer's body. An idle connection may be
// one to a service that restarted: that shows before an answer, and is tried
// once more on a fresh connection.
func (p *pool) call(ctx context.Context, verb wire.Verb, body func(*wire.Coder), answer func(*wire.Coder), fds ...int) error {
	end := time.Now().Add(Timeout)
	if d, ok := ctx.Deadline(); ok && d.Before(end) {
		end = d
	}
	late := time.NewTimer(time.Until(end))
	defer late.Stop()
	select {
	case p.busy <- struct{}{}:
		defer func() { <-p.busy }()
	case <-late.C:
		return fmt.Errorf("%d calls are under way: %w", maxBusy, context.DeadlineExceeded)
	}
	var err error
	for range maxIdle + 1 {
		var c *seqpacket.Conn
		var seq uint64
		if c, seq, err = p.get(); err != nil {
			return err
		}
		if err = exchange(c, end, verb, seq, body, answer, fds); err == nil {
			p.put(c)
			return nil
		}
		c.Close()
		if !errors.Is(err, seqpacket.ErrEOF) && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
			return err
		}
	}
	return err
}

func exchange(c *seqpacket.Conn, end time.Time, verb wire.Verb, seq uint64, body, answer func(*wire.Coder), fds []int) error {
	e := wire.NewEncoder()
	v, version := uint16(verb), wire.Version
	e.U16(&v)
	e.U16(&version)
	e.U64(&seq)
	body(e)
	b, err := e.Encoded()
	if err != nil {
		return err
	}
	if err := c.SetDeadline(end); err != nil {
		return err
	}
	if err := c.Send(b, fds...); err != nil {
		return err
	}
	buf := make([]byte, 16<<10)
	n, got, err := c.Recv(buf)
	if err != nil {
		return err
	}
	seqpacket.CloseAll(got)
	h, rest, err := wire.DecodeHeader(buf[:n])
	if err != nil {
		return err
	}
	if len(got) > 0 || h.Verb != verb+1 || h.Sequence != seq {
		return fmt.Errorf("%w: answer %#x to question %#x", wire.ErrViolation, h.Verb, verb)
	}
	d := wire.NewDecoder(rest)
	answer(d)
	return d.Finish()
}

// Policy asks postern-policyd.
type Policy struct{ pool pool }

// NewPolicy returns a Policy that connects to the socket at path when it is
// first asked.
func NewPolicy(path string) *Policy { return &Policy{newPool(path)} }

// Decide asks for a decision. An error means that there is none: the caller
// refuses, unless the question's class is ClassTeardown.
func (p *Policy) Decide(ctx context.Context, q Question) (Decision, error) {
	var fds []int
	if len(q.Sections) > 0 {
		b, err := joinSections(q.Sections)
		if err != nil {
			return Decision{}, fmt.Errorf("asking policyd: %w", err)
		}
		fd, err := wire.MakeMemfd(b)
		if err != nil {
			return Decision{}, fmt.Errorf("asking policyd: %w", err)
		}
		defer unix.Close(fd)
		fds = append(fds, fd)
	}
	var d Decision
	if err := p.pool.call(ctx, verbDecide, q.header, d.code, fds...); err != nil {
		return Decision{}, fmt.Errorf("asking policyd: %w", err)
	}
	return d, nil
}

// Audit commits records with postern-auditd.
type Audit struct{ pool pool }

// NewAudit returns an Audit that connects to the socket at path when it is first
// used.
func NewAudit(path string) *Audit { return &Audit{newPool(path)} }

// Commit hands over one JSON object and returns its sequence number when it is
// durable, or, with async, when it is queued.
func (a *Audit) Commit(ctx context.Context, stage Stage, payload []byte, async bool) (uint64, error) {
	var done committed
	m := commit{stage, async, payload}
	if err := a.pool.call(ctx, verbCommit, m.code, done.code); err != nil {
		return 0, fmt.Errorf("committing to auditd: %w", err)
	}
	if !done.ok {
		return 0, fmt.Errorf("auditd refused the record: %q", done.problem) // its words, in one line of ours
	}
	return done.seq, nil
}
