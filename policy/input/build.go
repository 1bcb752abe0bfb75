package input

import (
	"errors"
	"fmt"

	"github.com/postern-cri/postern/policy/facts"
	"github.com/postern-cri/postern/privsep/gate"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/record"
)

// Roles of askers.
const (
	RoleHelper = "helper"
	RoleFront  = "front"
	RoleFetch  = "fetch"
	RoleStream = "stream"
)

// Redactor takes secrets out of what goes into the document; *redact.Redactor
// of package audit/redact is one. It must be deterministic for one key.
type Redactor interface {
	Argv(argv []string) (redacted []string, changed []int)
	EnvDigest(name, value string) string
	Value(key, value string) (redacted string, changed bool)
}

// ErrInvalid is a question that contradicts itself or that its asker may not ask.
var ErrInvalid = errors.New("invalid question")

// mayCarry says which sections each role may put into a question: only the
// privileged helper speaks of plans. A record from the fetch role opens no door,
// since the helper reads the record again at every create.
func mayCarry(role string, k gate.SectionKind) bool {
	switch role {
	case RoleHelper:
		return k >= gate.SectionPodPlan && k <= gate.SectionFacts
	case RoleFetch:
		return k == gate.SectionFacts || k == gate.SectionRecord
	case RoleFront, RoleStream:
		return k == gate.SectionFacts
	}
	return false
}

// Build makes the document of a question. nowNS is the only clock that a rule
// can see.
func Build(role string, q gate.Question, nowNS int64, r Redactor) (*Document, error) {
	class, ok := ClassOf(q.Method)
	if !ok {
		return nil, fmt.Errorf("%w: unknown method %.64q", ErrInvalid, q.Method)
	}
	d := &Document{
		Schema:  Schema,
		Request: Request{Method: q.Method, Class: class.String(), TimeNS: nowNS},
		Asker:   Asker{Role: role},
	}
	b := builder{doc: d, r: r}
	var seen uint16
	for _, s := range q.Sections {
		if !mayCarry(role, s.Kind) {
			return nil, fmt.Errorf("%w: %s may not send section %d", ErrInvalid, role, s.Kind)
		}
		if seen&(1<<s.Kind) != 0 {
			return nil, fmt.Errorf("%w: section %d twice", ErrInvalid, s.Kind)
		}
		seen |= 1 << s.Kind
		if err := b.section(s); err != nil {
			return nil, fmt.Errorf("%w: section %d: %w", ErrInvalid, s.Kind, err)
		}
	}
	d.Request.ID = d.Claimed.RequestID
	if class == gate.ClassImage || q.Method == "RemoveImage" {
		b.subject(seen&(1<<gate.SectionRecord) != 0)
	}
	return d, nil
}

type builder struct {
	doc *Document
	r   Redactor
}

func (b *builder) section(s gate.Section) error {
	d := &b.doc.Derived
	switch s.Kind {
	case gate.SectionPodPlan:
		p, err := plan.DecodePod(s.Data)
		if err != nil {
			return err
		}
		d.Pod = podOf(&p)
	case gate.SectionPlan:
		p, err := plan.DecodeContainer(s.Data)
		if err != nil {
			return err
		}
		d.Container = b.containerOf(&p)
	case gate.SectionExecPlan:
		p, err := plan.DecodeExec(s.Data)
		if err != nil {
			return err
		}
		d.Exec = b.execOf(&p)
	case gate.SectionResources:
		p, err := plan.DecodeResources(s.Data)
		if err != nil {
			return err
		}
		u := resourcesOf(&p)
		d.Update = &u
	case gate.SectionRecord:
		rec, err := record.Decode(s.Data)
		if err != nil {
			return err
		}
		d.Image = imageOf(rec)
	case gate.SectionClaims:
		c, err := plan.DecodeClaims(s.Data)
		if err != nil {
			return err
		}
		b.claims(&c)
	case gate.SectionFacts:
		f, err := facts.Decode(s.Data)
		if err != nil {
			return err
		}
		b.facts(&f)
	default:
		return errors.New("unknown section")
	}
	return nil
}

// subject fills request.image: the image that a pull or removal is about.
func (b *builder) subject(withRecord bool) {
	c := &b.doc.Claimed.Image
	s := parseReference(c.Requested)
	if s.Digest == "" {
		s.Digest = c.Digest
	}
	b.doc.Request.Image = &s
	if b.doc.Request.Method != "PullImage" {
		return
	}
	b.doc.Request.Phase = "resolve"
	if withRecord || c.Status != "" {
		b.doc.Request.Phase = "verified"
	}
}
