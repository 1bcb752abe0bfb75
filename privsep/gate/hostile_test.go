package gate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/fuzz/fill"
	"github.com/postern-cri/postern/privsep/seqpacket"
	"github.com/postern-cri/postern/privsep/wire"
)

// raw sends one datagram as a hostile peer would and returns what comes back.
func raw(t *testing.T, path string, b []byte, fds ...int) error {
	t.Helper()
	c, err := seqpacket.Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	if err := c.Send(b, fds...); err != nil {
		return err
	}
	_, got, err := c.Recv(make([]byte, 1<<16))
	seqpacket.CloseAll(got)
	return err
}

func datagram(verb wire.Verb, body ...byte) []byte {
	e := wire.NewEncoder()
	v, version, seq := uint16(verb), wire.Version, uint64(1)
	e.U16(&v)
	e.U16(&version)
	e.U64(&seq)
	b, _ := e.Encoded()
	return append(b, body...)
}

// A violation ends the connection without an answer, and only that connection.
func TestViolationsEndTheConnection(t *testing.T) {
	policy, listen := socket(t)
	go ServePolicy(listen(), me, func(string, Question) Decision { return Decision{Allow: true} })
	audit, listen := socket(t)
	go ServeAudit(listen(), me, func(string, Stage, []byte, bool) (uint64, error) { return 1, nil })
	memfd := func(b []byte) int {
		fd, err := wire.MakeMemfd(b)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	unsealed, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(unsealed)
	ask := datagram(verbDecide, 1, 0, 'X', byte(ClassCreate))
	good := memfd([]byte{1, 0, byte(SectionFacts), 2, 0, 0, 0, '{', '}'})
	if err := raw(t, policy, ask, good); err != nil {
		t.Fatalf("an honest question: %v", err)
	}
	commit := datagram(verbCommit, byte(StageEvent), 1, 2, 0, 0, 0, '{', '}')
	if err := raw(t, audit, commit); err != nil {
		t.Fatalf("an honest record: %v", err)
	}
	badVersion := bytes.Clone(ask)
	badVersion[2] = 9
	for name, err := range map[string]error{
		"cut header":          raw(t, policy, ask[:5]),
		"version":             raw(t, policy, badVersion),
		"verb":                raw(t, policy, datagram(0x108, ask[wire.HeaderSize:]...)),
		"audit verb":          raw(t, policy, commit),
		"policy verb":         raw(t, audit, ask),
		"left-over byte":      raw(t, policy, append(bytes.Clone(ask), 0)),
		"class":               raw(t, policy, datagram(verbDecide, 1, 0, 'X', 99)),
		"two fds":             raw(t, policy, ask, good, good),
		"unsealed":            raw(t, policy, ask, unsealed),
		"section kind":        raw(t, policy, ask, memfd([]byte{1, 0, 99, 0, 0, 0, 0})),
		"section twice":       raw(t, policy, ask, memfd([]byte{2, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0})),
		"section length":      raw(t, policy, ask, memfd([]byte{1, 0, 1, 0xff, 0xff, 0xff, 0xff, 0})),
		"fd with a record":    raw(t, audit, commit, good),
		"stage":               raw(t, audit, datagram(verbCommit, 0, 1, 0, 0, 0, 0)),
		"bool":                raw(t, audit, datagram(verbCommit, 1, 2, 0, 0, 0, 0)),
		"record too large":    raw(t, audit, append(datagram(verbCommit, 1, 0, 1, 0, 1, 0), make([]byte, MaxPayload+1)...)),
		"datagram too large":  raw(t, audit, make([]byte, maxDatagram+1)),
		"record length a lie": raw(t, audit, datagram(verbCommit, 1, 0, 9, 0, 0, 0, 'x')),
	} {
		if !errors.Is(err, seqpacket.ErrEOF) && !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.EPIPE) {
			t.Errorf("%s: %v, want the end of the connection", name, err)
		}
	}
	if err := raw(t, policy, ask); err != nil {
		t.Errorf("after all that, an honest question: %v", err)
	}
}

// The client believes no answer but the one to its question.
func TestHostileServer(t *testing.T) {
	allow := func() []byte {
		e := wire.NewEncoder()
		(&Decision{Allow: true}).code(e)
		b, _ := e.Encoded()
		return b
	}()
	for name, reply := range map[string]func(q []byte) []byte{
		"wrong sequence": func(q []byte) []byte {
			return append(datagram(verbDecide+1, allow...)[:4], append([]byte{9, 9, 9, 9, 9, 9, 9, 9}, allow...)...)
		},
		"wrong verb": func(q []byte) []byte { return append(append(datagram(verbCommit + 1)[:4], q[4:12]...), allow...) },
		"an echo":    func(q []byte) []byte { return q },
		"left-over byte": func(q []byte) []byte {
			return append(append(append(datagram(verbDecide + 1)[:4], q[4:12]...), allow...), 0)
		},
		"cut": func(q []byte) []byte { return append(append(datagram(verbDecide + 1)[:4], q[4:12]...), allow[:3]...) },
		"bool 2": func(q []byte) []byte {
			return append(append(append(datagram(verbDecide + 1)[:4], q[4:12]...), 2), allow[1:]...)
		},
		"too large": func([]byte) []byte { return make([]byte, 17<<10) },
	} {
		path, listen := socket(t)
		l := listen()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				b := make([]byte, 1<<16)
				n, fds, err := c.Recv(b)
				seqpacket.CloseAll(fds)
				if err == nil {
					c.Send(reply(bytes.Clone(b[:n])))
				}
				c.Close()
			}
		}()
		if d, err := NewPolicy(path).Decide(context.Background(), Question{Method: "X", Class: ClassCreate}); err == nil || d.Allow {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
	}
}

// Many at once: everybody gets the answer to the own question.
func TestConcurrency(t *testing.T) {
	path, listen := socket(t)
	go ServePolicy(listen(), me, func(_ string, q Question) Decision {
		return Decision{Allow: true, ID: q.Method, Message: string(q.Sections[0].Data)}
	})
	p := NewPolicy(path)
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			for k := range 20 {
				m := fmt.Sprintf("method-%d-%d", i, k)
				d, err := p.Decide(context.Background(), Question{m, ClassExec, []Section{{SectionFacts, []byte(m)}}})
				if err != nil || d.ID != m || d.Message != m {
					t.Errorf("%s: %+v, %v", m, d, err)
				}
			}
		})
	}
	wg.Wait()
	if n := len(p.pool.idle); n > maxIdle {
		t.Errorf("%d idle connections", n)
	}
}

func canonical[T any](t *testing.T, b []byte, code func(*T, *wire.Coder)) {
	var v T
	d := wire.NewDecoder(b)
	code(&v, d)
	if d.Finish() != nil {
		return
	}
	e := wire.NewEncoder()
	code(&v, e)
	again, err := e.Encoded()
	if err != nil || !bytes.Equal(again, b) {
		t.Fatalf("two encodings of %+v (%v):\n%x\n%x", v, err, b, again)
	}
}

// Every message of the two services: what decodes encodes to the same bytes.
func FuzzMessages(f *testing.F) {
	f.Add([]byte{1, 0, 'X', 1})
	f.Add([]byte{1, 0, byte(SectionFacts), 2, 0, 0, 0, '{', '}'})
	f.Add([]byte{1, 1, 2, 0, 0, 0, '{', '}'})
	e := wire.NewEncoder()
	var d Decision
	fill.Fill(&d, nil)
	d.code(e)
	b, _ := e.Encoded()
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		canonical(t, b, (*Question).header)
		canonical(t, b, func(s *[]Section, c *wire.Coder) { codeSections(c, s) })
		canonical(t, b, (*Decision).code)
		canonical(t, b, (*commit).code)
		canonical(t, b, (*committed).code)
	})
}
