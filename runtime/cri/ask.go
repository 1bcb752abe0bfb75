package cri

import (
	"context"
	"encoding/json"
	"time"

	"github.com/postern-cri/postern/audit/record"
	"github.com/postern-cri/postern/policy/facts"
	"github.com/postern-cri/postern/privsep/gate"
	"github.com/postern-cri/postern/runtime/store"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ask has policy decide a method that this package answers itself. For a method
// that changes something the decision is on disk in the audit log before ask
// returns, and the caller must call done with the outcome.
func (s *Server) ask(ctx context.Context, method string, f facts.Facts) (done func(error) error, err error) {
	if rules[method].where != here {
		panic("cri: " + method + " is not asked here")
	}
	return s.askFor(ctx, method, f)
}

// askFor is ask for a method that is usually decided elsewhere.
func (s *Server) askFor(ctx context.Context, method string, f facts.Facts) (done func(error) error, err error) {
	r := rules[method]
	started := time.Now()
	who := callerOf(ctx)
	f.RequestID = requestID(ctx)
	f.Caller = &facts.Caller{UID: who.UID, PID: who.PID}
	d, derr := s.decide(ctx, method, r.class, f)
	if derr != nil {
		if !openWithoutPolicy(r.class, who) {
			s.record(ctx, gate.StageDecision, method, r.class, f, gate.Decision{Message: derr.Error()}, nil, 0, r.class == gate.ClassRead)
			return nil, status.Errorf(codes.Unavailable, "no answer from policy to %s: %v", method, derr)
		}
		d = gate.Decision{Allow: true, Rule: "policy-unavailable", Message: derr.Error()}
	}
	if !d.Allow {
		s.record(ctx, gate.StageDecision, method, r.class, f, d, nil, 0, r.class == gate.ClassRead)
		return nil, deniedByPolicy(method, d)
	}
	if r.class == gate.ClassRead {
		s.reads.count(method, who.UID)
		return func(err error) error { return err }, nil
	}
	if err := s.record(ctx, gate.StageDecision, method, r.class, f, d, nil, 0, false); err != nil && r.class != gate.ClassTeardown {
		return nil, status.Errorf(codes.Unavailable, "%s: the decision could not be recorded: %v", method, err)
	}
	return func(err error) error {
		s.record(context.WithoutCancel(ctx), gate.StageComplete, method, r.class, f, d, err, time.Since(started), true)
		return err
	}, nil
}

// askRead is ask for a method that changes nothing.
func (s *Server) askRead(ctx context.Context, method string) error {
	_, err := s.ask(ctx, method, facts.Facts{})
	return err
}

func (s *Server) decide(ctx context.Context, method string, class gate.Class, f facts.Facts) (gate.Decision, error) {
	b, err := facts.Encode(f)
	if err != nil {
		return gate.Decision{}, err
	}
	return s.policy.Decide(ctx, gate.Question{
		Method: method, Class: class, Sections: []gate.Section{{Kind: gate.SectionFacts, Data: b}},
	})
}

// openWithoutPolicy says what holds where policy gives no answer: teardown goes
// on, because a broken policy must not keep a container alive; reads go on for
// root, which is the kubelet; nothing else does.
func openWithoutPolicy(c gate.Class, who caller) bool {
	return c == gate.ClassTeardown || c == gate.ClassRead && who.UID == 0
}

// auditRecord is what this package says in a record; auditd adds the rest.
type auditRecord struct {
	Kind      string           `json:"kind"`
	Method    string           `json:"method"`
	Class     string           `json:"class"`
	Request   auditRequest     `json:"request"`
	Caller    *facts.Caller    `json:"caller,omitempty"`
	Pod       *facts.Pod       `json:"pod,omitempty"`
	Container *facts.Container `json:"container,omitempty"`
	Image     *facts.Image     `json:"image,omitempty"`
	Decision  *record.Decision `json:"decision,omitempty"`
	Result    *record.Result   `json:"result,omitempty"`
	Count     uint64           `json:"count,omitempty"`
}

type auditRequest struct {
	ID string `json:"id"`
}

func (s *Server) record(ctx context.Context, stage gate.Stage, method string, class gate.Class, f facts.Facts,
	d gate.Decision, result error, took time.Duration, async bool) error {
	r := auditRecord{
		Kind: "cri", Method: method, Class: class.String(), Request: auditRequest{f.RequestID},
		Caller: f.Caller, Pod: f.Pod, Container: f.Container, Image: f.Image,
		Decision: &record.Decision{ID: d.ID, Allow: d.Allow, Rule: d.Rule, Message: d.Message, Field: d.Field, Revision: d.Revision, InputSHA256: d.InputSHA256},
	}
	if stage == gate.StageComplete {
		st := status.Convert(result)
		r.Result = &record.Result{Code: st.Code().String(), Message: clip(st.Message(), 1024), DurationUS: took.Microseconds()}
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = s.audit.Commit(ctx, stage, b, async)
	if err != nil {
		s.log.Warn("audit record", "method", method, "error", err)
	}
	return err
}

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n]
}

func podFacts(p *store.Pod) *facts.Pod {
	return &facts.Pod{ID: p.ID, Name: p.Name, Namespace: p.Namespace, UID: p.UID, Attempt: p.Attempt, Labels: claimed(p.Labels), Annotations: claimed(p.Annotations)}
}

func containerFacts(c *store.Container) *facts.Container {
	return &facts.Container{ID: c.ID, Name: c.Name, Attempt: c.Attempt, Image: c.UserImage, Labels: claimed(c.Labels), Annotations: claimed(c.Annotations)}
}
