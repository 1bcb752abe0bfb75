// Package daemon is postern-policyd: it answers questions on a socket with the
// policy of one directory and hands what it judged to the audit log. It runs
// after confinement: it can read that directory, and connect to auditd.
package daemon

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"log"
	"path/filepath"
	"runtime/debug"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/audit/record"
	"github.com/postern-cri/postern/audit/redact"
	"github.com/postern-cri/postern/policy/decision"
	"github.com/postern-cri/postern/policy/engine"
	"github.com/postern-cri/postern/policy/input"
	"github.com/postern-cri/postern/privsep/gate"
	"github.com/postern-cri/postern/privsep/layout"
	"github.com/postern-cri/postern/privsep/seqpacket"
)

// FDs is how many fds init hands over: the listener.
const FDs = 1

// interval is how often the policy directory is looked at.
const interval = 2 * time.Second

// Serve answers on fd 3 until the listener fails.
func Serve(l layout.Layout, users layout.Users) error {
	listener, err := seqpacket.NewListener(3)
	if err != nil {
		return err
	}
	s := newServer(gate.NewAudit(l.AuditSocket()), key(filepath.Join(l.PolicyState(), "redact.key")))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go s.record(ctx)
	s.watch(ctx, l.Policy())
	return gate.ServePolicy(listener, Peers(users), s.decide)
}

// key reads the redaction key. Without one digests are of no use to anybody
// after a restart, and that is all.
func key(path string) []byte {
	k, err := redact.LoadKey(path)
	if err != nil {
		log.Printf("%v: digests will differ after a restart", err)
		k = make([]byte, 32)
		rand.Read(k)
	}
	return k
}

// Peers says who may ask, by the uid that the kernel vouches for. Root is the
// helper: everything else of ours that asks has a uid of its own.
func Peers(u layout.Users) gate.Peer {
	roles := map[uint32]string{
		0: input.RoleHelper, u.Front.UID: input.RoleFront, u.Fetch.UID: input.RoleFetch, u.Stream.UID: input.RoleStream,
	}
	return func(c *unix.Ucred) (string, bool) {
		role, ok := roles[c.Uid]
		return role, ok
	}
}

// committer is the part of gate.Audit that is used.
type committer interface {
	Commit(ctx context.Context, stage gate.Stage, payload []byte, async bool) (uint64, error)
}

type entry struct {
	stage   gate.Stage
	payload []byte
}

type server struct {
	engine *engine.Engine
	audit  committer
	queue  chan entry
	lost   atomic.Uint64
}

func newServer(a committer, key []byte) *server {
	return &server{engine: engine.New(redact.New(key)), audit: a, queue: make(chan entry, 256)}
}

// watch loads the policy, so that the first question is judged by it, and goes on
// looking for a newer one.
func (s *server) watch(ctx context.Context, dir string) {
	first := make(chan struct{})
	go s.engine.Watch(ctx, dir, interval, func(ev engine.Event) {
		s.event(ev)
		debug.FreeOSMemory() // a compilation leaves tens of megabytes behind
		if first != nil {
			close(first)
			first = nil
		}
	})
	<-first
}

func (s *server) event(ev engine.Event) {
	ext := map[string]string{"event": ev.Kind, "revision": ev.Revision, "previous": ev.Previous}
	severity := "info"
	if ev.Err != nil {
		severity = "error"
		ext["error"] = limit(ev.Err.Error(), 1024)
		log.Printf("%s: revision %q stays in force: %v", ev.Kind, ev.Revision, ev.Err)
	} else {
		log.Printf("%s: revision %s", ev.Kind, ev.Revision)
	}
	b, err := json.Marshal(map[string]any{"kind": "policy", "severity": severity, "ext": ext})
	if err == nil {
		s.enqueue(entry{gate.StageEvent, b})
	}
}

func limit(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}

func (s *server) decide(role string, q gate.Question) gate.Decision {
	ctx, cancel := context.WithTimeout(context.Background(), gate.Timeout)
	defer cancel()
	j := s.engine.Decide(ctx, role, q)
	if j.Err != nil {
		log.Printf("%s by %s: %s: %v [decision %s]", q.Method, role, j.Decision.Rule, j.Err, j.Decision.ID)
	}
	if j.Class != gate.ClassRead || j.Err != nil || !j.Decision.Allow {
		s.enqueue(entry{gate.StageInput, payload(&j)})
	}
	return j.Decision
}

// payload is the audit record of what was judged: the very document, with the
// answer and every violation.
func payload(j *engine.Judged) []byte {
	d := &j.Decision
	ext := struct {
		Violations []string `json:"violations,omitempty"`
		MicroS     int64    `json:"eval_us"`
	}{MicroS: j.Took.Microseconds()}
	for i, v := range j.Violations {
		if i == 32 {
			break
		}
		ext.Violations = append(ext.Violations, v.ID)
	}
	rec := struct {
		Kind     string          `json:"kind"`
		Method   string          `json:"method"`
		Class    string          `json:"class"`
		Decision record.Decision `json:"decision"`
		Hash     string          `json:"input_sha256,omitempty"`
		Ext      any             `json:"ext"`
		Input    json.RawMessage `json:"input,omitempty"`
	}{
		Kind: "policy", Method: j.Method, Class: j.Class.String(), Hash: d.InputSHA256, Ext: ext, Input: j.Input,
		Decision: record.Decision{ID: d.ID, Allow: d.Allow, Rule: d.Rule, Message: d.Message, Field: d.Field, Revision: d.Revision, InputSHA256: d.InputSHA256},
	}
	if j.Err != nil {
		rec.Decision.Error = limit(decision.OneLine(j.Err.Error()), 512)
	}
	var b []byte
	var err error
	if b, err = marshal(rec); err != nil {
		rec.Input = nil
		b, _ = marshal(rec)
	}
	return b
}

// enqueue never waits: the decision itself is committed by who acts on it.
func (s *server) enqueue(e entry) {
	select {
	case s.queue <- e:
	default:
		s.lost.Add(1)
	}
}

// record commits what is queued, one after another.
func (s *server) record(ctx context.Context) {
	for {
		var e entry
		select {
		case <-ctx.Done():
			return
		case e = <-s.queue:
		}
		if _, err := s.audit.Commit(ctx, e.stage, e.payload, true); err != nil {
			if s.lost.Add(1)%64 == 1 {
				log.Printf("an input document was not recorded (%d so far): %v", s.lost.Load(), err)
			}
			// auditd may be starting: do not spin on a socket that is not there.
			select {
			case <-ctx.Done():
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
}
