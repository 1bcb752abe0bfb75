package fetch

import (
	"context"
	"encoding/json"
	"time"

	"github.com/postern-cri/postern/policy/facts"
	"github.com/postern-cri/postern/privsep/gate"
	"github.com/postern-cri/postern/runtime/image"
)

// Policy decides.
type Policy interface {
	Decide(context.Context, gate.Question) (gate.Decision, error)
}

// Audit makes records durable.
type Audit interface {
	Commit(ctx context.Context, stage gate.Stage, payload []byte, async bool) (uint64, error)
}

type auditRecord struct {
	Kind     string         `json:"kind"`
	Method   string         `json:"method"`
	Class    string         `json:"class"`
	Request  map[string]any `json:"request"`
	Pod      *facts.Pod     `json:"pod,omitempty"`
	Image    map[string]any `json:"image"`
	Decision map[string]any `json:"decision"`
	Result   map[string]any `json:"result,omitempty"`
	Ext      map[string]any `json:"ext,omitempty"`
}

// request is one pull as policy and audit see it.
type request struct {
	facts   facts.Facts
	started time.Time
}

// decide asks policy; without an answer there is no image.
func (s *Server) decide(ctx context.Context, r *request, rec []byte) (gate.Decision, error) {
	b, err := facts.Encode(r.facts)
	if err != nil {
		return gate.Decision{}, err
	}
	q := gate.Question{Method: "PullImage", Class: gate.ClassImage, Sections: []gate.Section{{Kind: gate.SectionFacts, Data: b}}}
	if rec != nil {
		q.Sections = append(q.Sections, gate.Section{Kind: gate.SectionRecord, Data: rec})
	}
	d, err := s.Policy.Decide(ctx, q)
	if err != nil {
		d = gate.Decision{Message: "no answer from policy: " + err.Error()}
		_ = s.commit(ctx, gate.StageDecision, r, d, nil, false)
		return d, image.Errorf(image.Policy, "PullImage: %s", d.Message)
	}
	if !d.Allow {
		_ = s.commit(ctx, gate.StageDecision, r, d, nil, false)
		m := d.Message
		if d.Rule != "" {
			m = d.Rule + ": " + m
		}
		if d.Field != "" {
			m += " (field " + d.Field + ")"
		}
		if d.Remedy != "" {
			m += "; remedy: " + d.Remedy
		}
		return d, image.Errorf(image.Policy, "PullImage %s: denied: %s", r.facts.Image.Requested, m)
	}
	return d, nil
}

// commit writes an audit record; result is the pull's error at StageComplete.
func (s *Server) commit(ctx context.Context, stage gate.Stage, r *request, d gate.Decision, result error, async bool) error {
	a := auditRecord{Kind: "image", Method: "PullImage", Class: "image",
		Request: map[string]any{"id": r.facts.RequestID}, Pod: r.facts.Pod,
		Image: map[string]any{"ref": r.facts.Image.Requested, "digest": r.facts.Image.Digest},
		Decision: map[string]any{"id": d.ID, "allow": d.Allow, "rule": d.Rule, "message": clip(d.Message),
			"field": d.Field, "revision": d.Revision, "input_sha256": d.InputSHA256}}
	if v := r.facts.Image.Verification; v != nil {
		a.Ext = map[string]any{"verification": v}
	}
	if stage == gate.StageComplete {
		code, message := "OK", ""
		if result != nil {
			e := image.AsError(result)
			code, message = string(e.Code), clip(e.Message)
		}
		a.Result = map[string]any{"code": code, "message": message, "duration_us": time.Since(r.started).Microseconds()}
	}
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	_, err = s.Audit.Commit(ctx, stage, b, async)
	return err
}

func clip(s string) string {
	if len(s) > 1024 {
		return s[:1024]
	}
	return s
}
