package helper

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log"
	"time"

	"github.com/postern-cri/postern/privsep/gate"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/wire"
)

// Teardown does not wait long for a policy or an audit log that is broken: it
// goes on without, and says so in the log.
const (
	askTimeout      = gate.Timeout
	teardownTimeout = 500 * time.Millisecond
)

// methodCreate is the one method that can keep obligations.
const methodCreate = "CreateContainer"

// subject names what a request is about.
type subject struct {
	method     string
	class      gate.Class
	pod, ctr   string
	claims     *plan.Claims
	planSHA256 string
	image      string
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// judged is a request that may act. done must be called with its outcome.
type judged struct {
	h        *Helper
	s        subject
	started  time.Time
	decision gate.Decision
}

// record is the part that every audit record of a request has.
func (j *judged) record() map[string]any {
	s := j.s
	r := map[string]any{
		"kind": "cri", "method": s.method, "class": s.class.String(),
		"request": map[string]any{"id": s.claims.RequestID},
		"caller":  map[string]any{"uid": s.claims.CallerUID, "pid": s.claims.CallerPID},
		"pod":     map[string]any{"id": s.pod, "name": s.claims.PodName, "namespace": s.claims.Namespace, "uid": s.claims.PodUID},
	}
	if s.ctr != "" {
		r["container"] = map[string]any{"id": s.ctr, "name": s.claims.Container, "attempt": s.claims.Attempt}
	}
	if s.image != "" {
		r["image"] = map[string]any{"ref": clip(s.claims.ImageRef), "digest": s.image}
	}
	if s.planSHA256 != "" {
		r["plan_sha256"] = s.planSHA256
	}
	return r
}

// judge holds a request against what the ceiling and the image record said (no,
// found by the caller), then policy, then audit. The error is an answer.
func (h *Helper) judge(s subject, no *wire.Denial, sections ...gate.Section) (*judged, error) {
	j := &judged{h: h, s: s, started: time.Now()}
	if no != nil {
		return nil, j.refuse(no)
	}
	timeout := askTimeout
	if s.class == gate.ClassTeardown {
		timeout = teardownTimeout
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	d, err := h.Policy.Decide(ctx, gate.Question{Method: s.method, Class: s.class, Sections: sections})
	cancel()
	switch {
	case err != nil && s.class == gate.ClassTeardown:
		log.Printf("%s goes on without a decision: %v", s.method, err)
		d = gate.Decision{Allow: true, Rule: "POLICY-UNAVAILABLE"}
	case err != nil:
		if aerr := j.decide(map[string]any{"allow": false, "by": "helper", "rule": "POLICY-UNAVAILABLE", "message": err.Error()}); aerr != nil {
			log.Printf("a refusal is not in the audit log: %v", aerr)
		}
		return nil, &answerError{fail(wire.Unavailable, "policyd gave no decision, and without one %s is refused: %v", s.method, err)}
	case !d.Allow:
		return nil, j.refuse(&wire.Denial{By: "policy", Rule: d.Rule, Message: d.Message, Field: d.Field, Remedy: d.Remedy, DecisionID: d.ID, Revision: d.Revision, More: d.More})
	}
	j.decision = d
	if d.Obligations != (gate.Obligations{}) && s.method != methodCreate && s.class != gate.ClassTeardown {
		// A yes under a condition that cannot be met is a no.
		return nil, j.refuse(&wire.Denial{By: "policy", Rule: "POLICY-OBLIGATION", Message: "policy demands an obligation that only a create can keep", Remedy: "have the rule deny instead", DecisionID: d.ID, Revision: d.Revision})
	}
	if s.class == gate.ClassRead { // reads are decided; their records are the front end's aggregates
		return j, nil
	}
	err = j.decide(map[string]any{"allow": true, "id": d.ID, "revision": d.Revision, "input_sha256": d.InputSHA256, "rule": d.Rule})
	if err != nil && s.class != gate.ClassTeardown {
		return nil, &answerError{fail(wire.Unavailable, "auditd did not commit the decision, and without that %s is refused: %v", s.method, err)}
	}
	if err != nil {
		log.Printf("%s goes on without an audit record: %v", s.method, err)
	}
	return j, nil
}

// refuse records a denial and returns it. A denial stands whether or not it can
// be recorded.
func (j *judged) refuse(d *wire.Denial) error {
	err := j.decide(map[string]any{"allow": false, "by": d.By, "id": d.DecisionID, "revision": d.Revision, "rule": clip(d.Rule), "message": clip(d.Message), "field": clip(d.Field)})
	if err != nil {
		log.Printf("a denial (%q) is not in the audit log: %v", d.Rule, err)
	}
	return denied(d)
}

// decide commits the decision, before the effect.
func (j *judged) decide(decision map[string]any) error {
	r := j.record()
	r["decision"] = decision
	timeout := askTimeout
	if j.s.class == gate.ClassTeardown {
		timeout = teardownTimeout
	}
	return j.h.commit(gate.StageDecision, r, false, timeout)
}

// done records the outcome, after the effect.
func (j *judged) done(err error) {
	result := map[string]any{"code": "ok", "duration_us": time.Since(j.started).Microseconds()}
	if err != nil {
		result["code"], result["message"] = "failed", clip(err.Error())
	}
	r := j.record()
	r["result"] = result
	r["decision"] = map[string]any{"allow": true, "id": j.decision.ID}
	if err := j.h.commit(gate.StageComplete, r, true, teardownTimeout); err != nil {
		log.Printf("a completion is not in the audit log: %v", err)
	}
}

// event records something that is not a request.
func (h *Helper) event(name string, detail map[string]any) {
	if err := h.commit(gate.StageEvent, map[string]any{"kind": "helper", "method": name, "ext": detail}, true, teardownTimeout); err != nil {
		log.Printf("event %s is not in the audit log: %v", name, err)
	}
}

func (h *Helper) commit(stage gate.Stage, record map[string]any, async bool, timeout time.Duration) error {
	b, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("encoding an audit record: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	_, err = h.Audit.Commit(ctx, stage, b, async)
	return err
}

// tighten applies obligations: they only ever take away.
func tighten(p *plan.Plan, o gate.Obligations) {
	p.CapsBounding &^= o.DropCaps
	p.CapsAmbient &^= o.DropCaps
	p.NoNewPrivs = p.NoNewPrivs || o.NoNewPrivs
	p.ReadOnlyRootfs = p.ReadOnlyRootfs || o.ReadOnlyRootfs
	if o.SeccompDefault && p.Seccomp.Kind == plan.ProfileUnconfined {
		p.Seccomp = plan.Profile{Kind: plan.ProfileRuntimeDefault}
	}
}
