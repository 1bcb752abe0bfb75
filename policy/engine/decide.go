package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/postern-cri/postern/policy/decision"
	"github.com/postern-cri/postern/policy/input"
	"github.com/postern-cri/postern/privsep/gate"
)

// Judged is one decision with what it was made on.
type Judged struct {
	Decision   gate.Decision
	Method     string
	Class      gate.Class
	Input      []byte // canonical JSON; nil where no document could be made
	Violations []decision.Violation
	Err        error // why policy could not answer
	TimeNS     int64
	Took       time.Duration
}

// Engine decides with the policy in force.
type Engine struct {
	policy   atomic.Pointer[Policy]
	broken   atomic.Pointer[error] // why there is no policy
	redactor input.Redactor
	slots    chan struct{}
	now      func() time.Time
}

// New returns an engine without a policy: it denies everything but teardown.
func New(r input.Redactor) *Engine {
	e := &Engine{redactor: r, slots: make(chan struct{}, 2*runtime.GOMAXPROCS(0)), now: time.Now}
	err := errors.New("no policy was loaded")
	e.broken.Store(&err)
	return e
}

// Use puts a policy in force. Decisions under way keep the one they began with.
func (e *Engine) Use(p *Policy) { e.policy.Store(p) }

// Policy returns the policy in force, or nil.
func (e *Engine) Policy() *Policy { return e.policy.Load() }

// Broken says why there is no policy, for the message of the denials.
func (e *Engine) Broken(err error) { e.broken.Store(&err) }

// maxWait is the longest that a question waits for its turn. The asker gives up
// after 2 s.
const maxWait = time.Second

// Decide answers a question. It always answers: what goes wrong is a denial, but
// for teardown, which must go on.
func (e *Engine) Decide(ctx context.Context, role string, q gate.Question) Judged {
	start := e.now()
	// The class is our own; that of an unknown method is the strictest.
	class, known := input.ClassOf(q.Method)
	if !known {
		class = gate.ClassAdmin
	}
	j := Judged{Method: q.Method, Class: class, TimeNS: start.UnixNano()}
	p := e.policy.Load()
	rule, err := e.judge(ctx, p, role, q, &j)
	if err != nil {
		j.Err = err
		j.Decision = decision.Failed(class, rule, err.Error())
	}
	j.Decision.ID = decision.NewID(j.TimeNS)
	if p != nil {
		j.Decision.Revision = p.Revision
	}
	if j.Input != nil {
		j.Decision.InputSHA256 = input.Sum(j.Input)
	}
	j.Took = e.now().Sub(start)
	return j
}

func (e *Engine) judge(ctx context.Context, p *Policy, role string, q gate.Question, j *Judged) (rule string, err error) {
	doc, err := input.Build(role, q, j.TimeNS, e.redactor)
	if err != nil {
		return decision.RuleInvalid, err
	}
	canonical := doc.Canonical()
	if len(canonical) > input.MaxSize {
		return decision.RuleTooLarge, fmt.Errorf("the input document has %d bytes, at most %d", len(canonical), input.MaxSize)
	}
	j.Input = canonical
	if p == nil {
		return decision.RuleError, *e.broken.Load()
	}
	if err := e.enter(ctx); err != nil {
		return decision.RuleError, err
	}
	defer func() { <-e.slots }()
	res, err := p.Eval(ctx, doc.Value(), j.TimeNS)
	if err != nil {
		return decision.RuleError, err
	}
	j.Violations = res.Violations
	if j.Decision, err = res.Gate(); err != nil {
		return decision.RuleError, err
	}
	return "", nil
}

// enter waits for a turn: memory is bounded by how many evaluations run at once.
func (e *Engine) enter(ctx context.Context) error {
	select {
	case e.slots <- struct{}{}:
		return nil
	default:
	}
	t := time.NewTimer(maxWait)
	defer t.Stop()
	select {
	case e.slots <- struct{}{}:
		return nil
	case <-t.C:
		return errors.New("too many decisions at once")
	case <-ctx.Done():
		return ctx.Err()
	}
}
