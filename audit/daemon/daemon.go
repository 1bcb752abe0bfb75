// Package daemon is postern-auditd: it takes records from the processes of this
// node that it knows by their uid, adds what only it can know (the number, the
// time, who wrote it) and has the log make them durable.
package daemon

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/audit/record"
	"github.com/postern-cri/postern/audit/redact"
	"github.com/postern-cri/postern/audit/wal"
	"github.com/postern-cri/postern/privsep/gate"
	"github.com/postern-cri/postern/privsep/layout"
	"github.com/postern-cri/postern/privsep/seqpacket"
)

// FDs is how many fds auditd inherits: the listener of its socket.
const FDs = 1

var stages = map[gate.Stage]string{
	gate.StageDecision: "decision", gate.StageComplete: "complete", gate.StageEvent: "event", gate.StageInput: "input",
}

// Server commits records.
type Server struct {
	log    *wal.Log
	bootID string
	redact *redact.Redactor
	now    func() time.Time

	mu      sync.Mutex
	stopped bool
}

// Serve runs auditd until it is told to stop; the listener is fd 3.
func Serve(dirs layout.Layout, users layout.Users) error {
	l, err := seqpacket.NewListener(3)
	if err != nil {
		return fmt.Errorf("the inherited listener: %w", err)
	}
	s, err := New(wal.Dir(dirs.AuditLog()), wal.Options{})
	if err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM, unix.SIGINT)
	asked := make(chan struct{})
	go func() {
		<-stop
		close(asked)
		l.Close()
	}()
	err = gate.ServeAudit(l, Peers(users), s.Commit)
	select {
	case <-asked:
		err = nil // the listener was closed under it
	default:
	}
	return errors.Join(err, s.Stop())
}

// Peers tells the role of a peer by its uid. Nobody else may write.
func Peers(users layout.Users) gate.Peer {
	roles := map[uint32]string{0: "root"}
	for _, r := range users.Roles() {
		roles[r.ID.UID] = r.Name
	}
	return func(c *unix.Ucred) (string, bool) {
		role, ok := roles[c.Uid]
		return role, ok
	}
}

// New opens the log and writes that it was opened.
func New(fs wal.FS, o wal.Options) (*Server, error) {
	s := &Server{bootID: bootID(), now: time.Now, redact: redact.New(nil)}
	o.BootID, o.Event = s.bootID, s.event
	seq, err := s.open(fs, o)
	if err != nil {
		return nil, err
	}
	_, err = s.log.Commit(s.event(wal.Event{Kind: "audit.start", Detail: map[string]any{"after": seq}}), false)
	if err != nil {
		log.Printf("the log takes no records yet: %v", err)
	}
	return s, nil
}

func (s *Server) open(fs wal.FS, o wal.Options) (uint64, error) {
	var err error
	if s.log, err = wal.Open(fs, o); err != nil {
		return 0, err
	}
	seq, _ := s.log.Head()
	return seq, nil
}

// Stop writes that the log ends here and closes it.
func (s *Server) Stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil
	}
	s.stopped = true
	_, err := s.log.Commit(s.event(wal.Event{Kind: "audit.stop"}), false)
	return errors.Join(err, s.log.Close())
}

// Commit is gate.ServeAudit's: one record of role.
func (s *Server) Commit(role string, stage gate.Stage, payload []byte, async bool) (uint64, error) {
	m, err := record.Parse(payload)
	if err != nil {
		return 0, err
	}
	if kind, _ := m["kind"].(string); strings.HasPrefix(kind, "audit.") {
		return 0, errors.New("records of kind audit.* are auditd's own")
	}
	s.clean(m)
	return s.log.Commit(s.build(m, role, stages[stage]), async)
}

// clean redacts what the committer should have redacted, and cuts what is too
// long. The input of a decision stays as it is: policy judged it redacted, and
// its hash is in the decision.
func (s *Server) clean(m map[string]any) {
	input, ok := m["input"]
	delete(m, "input")
	v, taken := s.redact.Tree(m)
	for k := range m {
		delete(m, k)
	}
	for k, v := range v.(map[string]any) {
		m[k] = v
	}
	record.Cut(m)
	if len(taken) > 0 {
		list, _ := m["redactions"].([]any)
		for _, p := range taken {
			list = append(list, p)
		}
		m["redactions"] = list
	}
	if ok {
		m["input"] = input
	}
}

func (s *Server) build(m map[string]any, role, stage string) wal.Build {
	at := s.now().UTC().Format(time.RFC3339Nano)
	return func(seq uint64, prev wal.Hash) ([]byte, error) {
		return record.Stamped(m, record.Stamp{
			Seq: seq, Time: at, BootID: s.bootID, Writer: role, Stage: stage, Prev: prev.String(),
		})
	}
}

// event makes the record of something that the log says about itself.
func (s *Server) event(ev wal.Event) wal.Build {
	severity := "info"
	if ev.Critical {
		severity = "critical"
		log.Printf("%s: %v", ev.Kind, ev.Detail)
	}
	m := map[string]any{"kind": ev.Kind, "severity": severity}
	if len(ev.Detail) > 0 {
		m["ext"] = ev.Detail
	}
	return s.build(m, "postern-audit", "event")
}

// bootID is the kernel's; where it cannot be read, one of this run.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if id := strings.TrimSpace(string(b)); err == nil && len(id) == 36 {
		return id
	}
	r := make([]byte, 16)
	rand.Read(r)
	return hex.EncodeToString(r)
}
