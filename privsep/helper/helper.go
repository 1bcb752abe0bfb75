// Package helper is the privileged side of the boundary: it answers the verbs of
// docs/PROTOCOL.md, and nothing else, for one unprivileged client.
//
// Rules of this package:
//   - the order is always: decode, ceiling, image record, policy, audit, act,
//     audit again; a request that fails at one step never reaches the next;
//   - every fact that an effect uses was derived here or checked here; what the
//     client claims goes to policy and audit, marked as a claim;
//   - a request that an honest client cannot send ends the connection;
//   - teardown works when policy, audit, network or log do not;
//   - there is no recover: a panic is an alarm, init starts a fresh helper, and
//     it finds everything again through its state files.
package helper

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/postern-cri/postern/privsep/ceiling"
	"github.com/postern-cri/postern/privsep/gate"
	"github.com/postern-cri/postern/privsep/seqpacket"
	"github.com/postern-cri/postern/privsep/wire"
)

// Decider answers policy questions: a *gate.Policy.
type Decider interface {
	Decide(context.Context, gate.Question) (gate.Decision, error)
}

// Recorder commits audit records: a *gate.Audit.
type Recorder interface {
	Commit(ctx context.Context, stage gate.Stage, payload []byte, async bool) (uint64, error)
}

// Config is what a Helper works with.
type Config struct {
	Ceiling  *ceiling.Ceiling
	ClientID uint32 // the only uid that may connect
	Policy   Decider
	Audit    Recorder
	Kernel   Kernel
	StateDir string // of this package's own files; root, 0700
}

// Helper serves the boundary.
type Helper struct {
	Config
	generation uint64

	mu    sync.Mutex
	pods  map[string]*pod
	ctrs  map[string]*ctr
	execs map[string]*exec

	penalty penalty
	conns   chan struct{} // a place for each connection
}

// maxConns is how many connections there can be, and so requests under way: an
// honest client has 16. What one costs, a memfd and a launch, it costs so often.
const maxConns = 64

// New returns a Helper with what its state files say still exists; what was
// half-made is removed.
func New(c Config) (*Helper, error) {
	h := &Helper{Config: c, generation: uint64(time.Now().UnixNano()), pods: map[string]*pod{}, ctrs: map[string]*ctr{}, execs: map[string]*exec{}, conns: make(chan struct{}, maxConns)}
	if err := h.load(); err != nil {
		return nil, fmt.Errorf("recovering state: %w", err)
	}
	return h, nil
}

// Serve answers connections on l until it is closed.
func (h *Helper) Serve(l *seqpacket.Listener) error {
	go h.retryTeardown()
	for {
		c, err := l.Accept()
		if err != nil {
			if errors.Is(err, os.ErrClosed) {
				return nil
			}
			return err
		}
		h.let(c)
	}
}

// let serves a connection if there is a place for it.
func (h *Helper) let(c *seqpacket.Conn) {
	select {
	case h.conns <- struct{}{}:
		go func() {
			defer func() { <-h.conns }()
			h.serveConn(c)
		}()
	default:
		c.Close()
	}
}

// Idle tells whether nothing is left that a next helper would have to find.
func (h *Helper) Idle() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.pods)+len(h.ctrs) == 0
}

// penalty slows a client down whose connections ended by violations: the sign of
// an attack, or of a bug that is one.
type penalty struct {
	mu    sync.Mutex
	count int
	last  time.Time
}

const (
	penaltyStep = 100 * time.Millisecond
	penaltyMax  = 2 * time.Second
	penaltyFade = 30 * time.Second
)

func (p *penalty) add() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count++
	p.last = time.Now()
}

func (p *penalty) wait() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.last) > penaltyFade {
		p.count = 0
	}
	return min(time.Duration(p.count)*penaltyStep, penaltyMax)
}

// connection is one client connection: strictly one request, then one answer.
type connection struct {
	*seqpacket.Conn
	greeted bool
	buf     [wire.MaxRequest]byte
}

func (h *Helper) serveConn(s *seqpacket.Conn) {
	defer s.Close()
	cred, err := s.Peer()
	if err != nil || cred.Uid != h.ClientID {
		log.Printf("refused a connection: peer %+v, %v", cred, err)
		return
	}
	if d := h.penalty.wait(); d > 0 {
		time.Sleep(d)
	}
	c := &connection{Conn: s}
	for {
		err := h.serveOne(c)
		if errors.Is(err, seqpacket.ErrEOF) {
			return
		}
		if err != nil {
			if errors.Is(err, wire.ErrViolation) || errors.Is(err, seqpacket.ErrTruncated) {
				h.penalty.add()
				h.event("violation", map[string]any{"pid": cred.Pid, "uid": cred.Uid, "error": err.Error()})
			}
			log.Printf("connection of pid %d ends: %v", cred.Pid, err)
			return
		}
	}
}

// serveOne reads, checks and answers one request. An error ends the connection.
func (h *Helper) serveOne(c *connection) error {
	n, fds, err := c.Recv(c.buf[:])
	if err != nil {
		return err
	}
	defer seqpacket.CloseAll(fds)
	head, body, err := wire.DecodeHeader(c.buf[:n])
	if err != nil {
		return err
	}
	v, ok := verbs[head.Verb]
	if !ok {
		return fmt.Errorf("%w: verb %d", wire.ErrViolation, head.Verb)
	}
	if !c.greeted && head.Verb != wire.Hello {
		return fmt.Errorf("%w: %s before HELLO", wire.ErrViolation, v.name)
	}
	if len(fds) != v.fds {
		return fmt.Errorf("%w: %s with %d fds, want %d", wire.ErrViolation, v.name, len(fds), v.fds)
	}
	in := &request{h: h}
	if v.fds == 1 {
		b, err := wire.ReadMemfd(fds[0])
		if err != nil {
			return fmt.Errorf("%s: %w", v.name, err)
		}
		if in.plan, in.claims, err = wire.SplitSections(b); err != nil {
			return fmt.Errorf("%s: %w", v.name, err)
		}
	}
	ans, err := v.serve(in, body)
	if err != nil {
		return fmt.Errorf("%s: %w", v.name, err)
	}
	c.greeted = true
	defer seqpacket.CloseAll(in.out)
	out, err := wire.Encode(head.Verb+1, head.Sequence, ans)
	if err != nil {
		return fmt.Errorf("%s: %w", v.name, err)
	}
	return c.Send(out, in.out...)
}

// request is one request under way.
type request struct {
	h            *Helper
	plan, claims []byte // the memfd's sections, exactly as received
	out          []int  // fds of the answer; closed after sending
}

// verb is one row of the dispatch table.
type verb struct {
	name  string
	fds   int // exactly so many come with the request
	serve func(*request, []byte) (wire.Message, error)
}

// serve adapts a typed handler: the body is decoded strictly before it runs.
func serve[Q any, PQ interface {
	*Q
	wire.Message
}](f func(*request, PQ) (wire.Message, error)) func(*request, []byte) (wire.Message, error) {
	return func(r *request, body []byte) (wire.Message, error) {
		q := PQ(new(Q))
		if err := wire.Decode(body, q); err != nil {
			return nil, err
		}
		return f(r, q)
	}
}

// verbs is the whole language. A verb that is not here does not exist, and none
// but HELLO is permitted before HELLO.
var verbs = map[wire.Verb]verb{
	wire.Hello:     {"HELLO", 0, serve(hello)},
	wire.PodCreate: {"POD_CREATE", 1, serve(podCreate)},
	wire.PodDelete: {"POD_DELETE", 0, serve(podDelete)},
	wire.PodSocket: {"POD_SOCKET", 0, serve(podSocket)},
	wire.CtrCreate: {"CTR_CREATE", 1, serve(ctrCreate)},
	wire.CtrStart:  {"CTR_START", 0, serve(ctrStart)},
	wire.CtrSignal: {"CTR_SIGNAL", 0, serve(ctrSignal)},
	wire.CtrExec:   {"CTR_EXEC", 1, serve(ctrExec)},
	wire.CtrUpdate: {"CTR_UPDATE", 0, serve(ctrUpdate)},
	wire.CtrDelete: {"CTR_DELETE", 0, serve(ctrDelete)},
	wire.CtrUsage:  {"CTR_USAGE", 0, serve(ctrUsage)},
	wire.LogReopen: {"LOG_REOPEN", 0, serve(logReopen)},
	wire.List:      {"LIST", 0, serve(list)},
}

func hello(r *request, q *wire.HelloRequest) (wire.Message, error) {
	if q.Version != wire.Version {
		return &wire.HelloAnswer{Answer: fail(wire.Invalid, "protocol version %d, want %d", q.Version, wire.Version)}, nil
	}
	cg, features := r.h.Kernel.Features()
	return &wire.HelloAnswer{Version: wire.Version, Profile: r.h.Ceiling.Profile, CgroupVersion: cg, Features: features, Generation: r.h.generation}, nil
}

// fail is an answer other than OK. Kernels and plugins say what they like; the
// codec carries short text.
func fail(code wire.Code, format string, a ...any) wire.Answer {
	b := []byte(fmt.Sprintf(format, a...))
	b = b[:min(len(b), 1000)]
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '?'
		}
	}
	return wire.Answer{Code: code, Message: string(b)}
}

// answerError is an error that knows its answer.
type answerError struct{ wire.Answer }

// Invalid is an error for which the request is to blame: the text names its field
// and what would help.
func Invalid(format string, a ...any) error { return &answerError{fail(wire.Invalid, format, a...)} }

// Exists is an error for which the state of the thing is to blame: it is started
// already, or has ended.
func Exists(format string, a ...any) error { return &answerError{fail(wire.Exists, format, a...)} }

func (e *answerError) Error() string {
	if e.Code == wire.Denied {
		return e.Denial.Rule + ": " + e.Denial.Message
	}
	return e.Message
}

// denied is a denial as an answer. Its texts quote what the client sent, and what
// policy said: cut, the answer always fits, and a denial always says why.
func denied(d *wire.Denial) error {
	c := *d
	for _, s := range []*string{&c.By, &c.Rule, &c.Message, &c.Field, &c.Remedy, &c.DecisionID, &c.Revision} {
		*s = clip(*s)
	}
	return &answerError{wire.Answer{Code: wire.Denied, Denial: c}}
}

// clip makes any text one that the codec carries.
func clip(s string) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "?"), "\x00", "?")
	if len(s) <= 1000 {
		return s
	}
	n := 997
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "..."
}

// failure maps an error of the kernel side to an answer.
func failure(err error) wire.Answer {
	var a *answerError
	if errors.As(err, &a) {
		return a.Answer
	}
	return fail(wire.Failed, "%v", err)
}

// outcome is failure, or OK.
func outcome(err error) wire.Answer {
	if err == nil {
		return wire.Answer{}
	}
	return failure(err)
}
