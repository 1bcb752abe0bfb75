package gate

import (
	"fmt"
	"unicode/utf8"

	"github.com/postern-cri/postern/privsep/wire"
)

// Verbs of the two services. They are not boundary verbs: nothing privileged
// answers them.
const (
	verbDecide wire.Verb = 0x100
	verbCommit wire.Verb = 0x102
)

// Limits.
const (
	// MaxPayload is the most bytes of one audit payload.
	MaxPayload  = 64 << 10
	maxDatagram = MaxPayload + 4<<10
	maxText     = 1 << 10
	maxSections = 8
)

func (q *Question) header(c *wire.Coder) {
	c.Str(&q.Method, 64)
	wire.Enum(c, &q.Class, ClassCreate, ClassRead)
}

// joinSections is the memfd content of the sections.
func joinSections(s []Section) ([]byte, error) {
	c := wire.NewEncoder()
	codeSections(c, &s)
	return c.Encoded()
}

func codeSections(c *wire.Coder, s *[]Section) {
	wire.ListOf(c, s, maxSections, 5, func(s *Section) {
		wire.Enum(c, &s.Kind, SectionPodPlan, SectionFacts)
		c.Bytes(&s.Data, wire.MaxMemfd)
	})
	wire.Unique(c, "sections", *s, func(s Section) string { return fmt.Sprint(s.Kind) })
}

func (d *Decision) code(c *wire.Coder) {
	c.Bool(&d.Allow)
	for _, s := range []*string{&d.ID, &d.Revision, &d.InputSHA256, &d.Rule, &d.Message, &d.Field, &d.Remedy} {
		c.Str(s, maxText)
	}
	c.U16(&d.More)
	c.U64(&d.Obligations.DropCaps)
	c.Bool(&d.Obligations.NoNewPrivs)
	c.Bool(&d.Obligations.ReadOnlyRootfs)
	c.Bool(&d.Obligations.SeccompDefault)
}

// clip shortens what a policy author wrote to what the codec carries.
func (d *Decision) clip() {
	for _, s := range []*string{&d.ID, &d.Revision, &d.InputSHA256, &d.Rule, &d.Message, &d.Field, &d.Remedy} {
		*s = clip(*s)
	}
}

// clip cuts s to what the codec carries, never in the middle of a rune.
func clip(s string) string {
	if len(s) <= maxText {
		return s
	}
	n := maxText - len("...")
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "..."
}

type commit struct {
	stage   Stage
	async   bool
	payload []byte
}

func (m *commit) code(c *wire.Coder) {
	wire.Enum(c, &m.stage, StageDecision, StageInput)
	c.Bool(&m.async)
	c.Bytes(&m.payload, MaxPayload)
}

type committed struct {
	ok      bool
	seq     uint64
	problem string
}

func (m *committed) code(c *wire.Coder) {
	c.Bool(&m.ok)
	c.U64(&m.seq)
	c.Str(&m.problem, maxText)
}
