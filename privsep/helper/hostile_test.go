package helper

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/client"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/seqpacket"
	"github.com/postern-cri/postern/privsep/wire"
)

// peer is a connection that says what it likes.
type peer struct {
	t *testing.T
	*seqpacket.Conn
}

func (b *bench) peer(t *testing.T, greet bool) peer {
	t.Helper()
	b.h.penalty.mu.Lock()
	b.h.penalty.count = 0 // the penalty has a test of its own
	b.h.penalty.mu.Unlock()
	c, err := seqpacket.Dial(b.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute))
	p := peer{t, c}
	if greet {
		if n, err := p.say(wire.Hello, &wire.HelloRequest{Version: wire.Version}); err != nil || n == 0 {
			t.Fatalf("greeting: %v", err)
		}
	}
	return p
}

// raw sends a datagram and waits for the answer.
func (p peer) raw(b []byte, fds ...int) (int, error) {
	if err := p.Send(b, fds...); err != nil {
		return 0, err
	}
	n, got, err := p.Recv(make([]byte, wire.MaxAnswer))
	seqpacket.CloseAll(got)
	return n, err
}

func (p peer) say(v wire.Verb, m wire.Message, fds ...int) (int, error) {
	p.t.Helper()
	b, err := wire.Encode(v, 1, m)
	if err != nil {
		p.t.Fatal(err)
	}
	return p.raw(b, fds...)
}

func ended(err error) bool {
	return errors.Is(err, seqpacket.ErrEOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
}

func sealed(t *testing.T, b []byte) int {
	t.Helper()
	fd, err := wire.MakeMemfd(b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func podMemfd(t *testing.T) []byte {
	t.Helper()
	pb, err := plan.EncodePod(smallPod("u1"))
	if err != nil {
		t.Fatal(err)
	}
	cb, err := plan.EncodeClaims(plan.Claims{})
	if err != nil {
		t.Fatal(err)
	}
	return wire.JoinSections(pb, cb)
}

// What an honest client cannot send ends its connection, without an answer and
// without an effect, and the helper goes on.
func TestHostilePeer(t *testing.T) {
	b := newBench(t)
	id := strings.Repeat("0a", 32)
	good := podMemfd(t)
	fd := sealed(t, good)
	header := func(verb wire.Verb, version uint16) []byte {
		e := wire.NewEncoder()
		v, seq := uint16(verb), uint64(1)
		e.U16(&v)
		e.U16(&version)
		e.U64(&seq)
		out, _ := e.Encoded()
		return out
	}
	unsealed, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(unsealed)
	unix.Pwrite(unsealed, good, 0)
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	pb, cb, err := wire.SplitSections(good)
	if err != nil {
		t.Fatal(err)
	}
	start, _ := wire.Encode(wire.CtrStart, 1, &wire.CtrStartRequest{Container: id})
	type attack struct {
		greet bool
		b     []byte
		fds   []int
	}
	attacks := map[string]attack{
		"cut header":       {true, header(wire.List, wire.Version)[:7], nil},
		"wrong version":    {true, header(wire.List, wire.Version+1), nil},
		"version 0":        {true, header(wire.List, 0), nil},
		"verb 0":           {true, header(0, wire.Version), nil},
		"odd verb":         {true, header(wire.PodCreate+1, wire.Version), nil},
		"unknown verb":     {true, header(wire.List+2, wire.Version), nil},
		"gate verb":        {true, header(0x100, wire.Version), nil},
		"too long":         {true, make([]byte, wire.MaxRequest+1), nil},
		"left-over byte":   {true, append(bytes.Clone(start), 0), nil},
		"cut body":         {true, start[:len(start)-1], nil},
		"bad handle":       {true, append(header(wire.CtrStart, wire.Version), 3, 0, '.', '.', '/'), nil},
		"no fd":            {true, header(wire.PodCreate, wire.Version), nil},
		"two fds":          {true, header(wire.PodCreate, wire.Version), []int{fd, fd}},
		"sixteen fds":      {true, header(wire.PodCreate, wire.Version), []int{fd, fd, fd, fd, fd, fd, fd, fd, fd, fd, fd, fd, fd, fd, fd, fd}},
		"fd with a list":   {true, append(header(wire.List, wire.Version), 0, 0), []int{fd}},
		"fd with hello":    {true, append(header(wire.Hello, wire.Version), 1, 0), []int{fd}},
		"unsealed":         {true, header(wire.PodCreate, wire.Version), []int{unsealed}},
		"a device":         {true, header(wire.PodCreate, wire.Version), []int{int(null.Fd())}},
		"one section":      {true, header(wire.PodCreate, wire.Version), []int{sealed(t, good[:4+len(pb)])}},
		"three sections":   {true, header(wire.PodCreate, wire.Version), []int{sealed(t, append(bytes.Clone(good), 0, 0, 0, 0))}},
		"swapped sections": {true, header(wire.PodCreate, wire.Version), []int{sealed(t, wire.JoinSections(cb, pb))}},
		"plan with more":   {true, header(wire.PodCreate, wire.Version), []int{sealed(t, wire.JoinSections(append(bytes.Clone(pb), 0), cb))}},
		"claims cut":       {true, header(wire.PodCreate, wire.Version), []int{sealed(t, wire.JoinSections(pb, cb[1:]))}},
		"resources broken": {true, func() []byte {
			b, _ := wire.Encode(wire.CtrUpdate, 1, &wire.CtrUpdateRequest{Container: id, Resources: []byte{1}})
			return b
		}(), nil},
		"signal to all": {true, func() []byte {
			b, _ := wire.Encode(wire.CtrSignal, 1, &wire.CtrSignalRequest{Target: id, Signal: 15, All: true})
			return b
		}(), nil},
		"create before hello": {false, header(wire.PodCreate, wire.Version), []int{fd}},
		"list before hello":   {false, append(header(wire.List, wire.Version), 0, 0), nil},
	}
	for name, a := range attacks {
		b.w.begin("", "", nil)
		p := b.peer(t, a.greet)
		if n, err := p.raw(a.b, a.fds...); !ended(err) {
			t.Errorf("%s: %d bytes, %v, want the end", name, n, err)
		}
		if did := b.w.did(); len(did) > 0 {
			t.Errorf("%s did %v", name, did)
		}
		if _, err := p.raw(append(header(wire.List, wire.Version), 0, 0)); !ended(err) {
			t.Errorf("%s: the connection goes on: %v", name, err)
		}
	}
	b.h.penalty.mu.Lock()
	if b.h.penalty.count == 0 {
		t.Error("no penalty for a violation")
	}
	b.h.penalty.count = 0
	b.h.penalty.mu.Unlock()
	if _, err := b.cl.PodCreate(ctx, smallPod("u1"), plan.Claims{}); err != nil {
		t.Errorf("after all that, an honest request: %v", err)
	}
}

// Another version in HELLO is answered, not punished: an old front end can say
// what is wrong.
func TestHelloVersion(t *testing.T) {
	b := newBench(t)
	p := b.peer(t, false)
	if n, err := p.say(wire.Hello, &wire.HelloRequest{Version: 9}); err != nil || n == 0 {
		t.Errorf("%v", err)
	}
	if f := b.cl.Features(); f.Profile != "test" || f.CgroupVersion != 2 || f.Features != wire.FeatureSeccomp || f.Version != wire.Version || f.Generation == 0 {
		t.Errorf("%+v", f)
	}
}

// A connection of any other uid is closed before a byte of it is read.
func TestOtherUID(t *testing.T) {
	b := newBench(t)
	h, err := New(Config{Ceiling: b.c, ClientID: uint32(os.Getuid()) + 1, Policy: b.w, Audit: b.w, Kernel: b.w, StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	here, there, err := seqpacket.Pair()
	if err != nil {
		t.Fatal(err)
	}
	s, err := seqpacket.NewConn(there)
	if err != nil {
		t.Fatal(err)
	}
	go h.serveConn(s)
	k, err := seqpacket.NewConn(here)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	p := peer{t, k}
	if _, err := p.say(wire.Hello, &wire.HelloRequest{Version: wire.Version}); !ended(err) {
		t.Errorf("%v, want the end", err)
	}
}

// Each violation makes the next connection wait longer, up to a bound, and time
// heals it.
func TestPenalty(t *testing.T) {
	var p penalty
	if p.wait() != 0 {
		t.Error("a penalty for nothing")
	}
	last := time.Duration(-1)
	for range 100 {
		d := p.wait()
		if d < last || d > penaltyMax {
			t.Errorf("%v after %v", d, last)
		}
		last = d
		p.add()
	}
	if last != penaltyMax {
		t.Errorf("%v after a hundred violations", last)
	}
	p.last = time.Now().Add(-penaltyFade - time.Second)
	if p.wait() != 0 {
		t.Error("the penalty does not fade")
	}
}

// However long what the ceiling or policy quotes, the denial arrives: a client
// whose connection just ended would not know why.
func TestLongDenials(t *testing.T) {
	b := newBench(t)
	pod, err := b.cl.PodCreate(ctx, smallPod("u1"), plan.Claims{})
	if err != nil {
		t.Fatal(err)
	}
	long := "/" + strings.Repeat("ü/", 1300) + "x"
	for name, change := range map[string]func(*plan.Plan){
		"mount": func(p *plan.Plan) {
			p.Mounts = []plan.Mount{{From: plan.Place{Root: plan.RootHostPath, Name: "x"}, To: long, Propagation: plan.Private}}
		},
		"cwd": func(p *plan.Plan) { p.Cwd = "/proc" + long },
		"cdi": func(p *plan.Plan) { p.CDI = []string{long} },
	} {
		p := smallCtr()
		change(&p)
		_, err := b.cl.CtrCreate(ctx, pod.Pod, p, plan.Claims{})
		var e *client.Error
		if !errors.As(err, &e) || e.Code != wire.Denied || !strings.Contains(e.Denial.Message, "ü/ü") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestClip(t *testing.T) {
	for in, want := range map[string]string{"": "", "x": "x", "a\x00b\xffc": "a?b?c", strings.Repeat("x", 1000): strings.Repeat("x", 1000),
		strings.Repeat("x", 1001): strings.Repeat("x", 997) + "...", "x" + strings.Repeat("€", 400): "x" + strings.Repeat("€", 332) + "..."} {
		if got := clip(in); got != want {
			t.Errorf("%d bytes became %q", len(in), got)
		}
	}
}
