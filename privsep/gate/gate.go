// Package gate is how a process asks postern-policyd for a decision and has
// postern-auditd commit a record. It is linked into the privileged helper, so
// it is standard library and x/sys only, and it parses nothing but the strict
// codec of package wire: to the helper policyd and auditd are untrusted peers
// that can say yes or no and nothing else.
package gate

// Class groups methods by what a failure of policy or audit means for them:
// teardown is allowed then, everything else is refused.
type Class uint8

// Classes.
const (
	ClassCreate Class = iota + 1
	ClassExec
	ClassImage
	ClassUpdate
	ClassAdmin
	ClassTeardown
	ClassRead
)

var classNames = [...]string{"", "create", "exec", "image", "update", "admin", "teardown", "read"}

// String is c as it stands in policy's input and in the audit log; "" for none.
func (c Class) String() string {
	if int(c) >= len(classNames) {
		return ""
	}
	return classNames[c]
}

// SectionKind tags a part of the question's memfd.
type SectionKind uint8

// Sections. The bytes of 1 to 5 are the strict encodings of package plan, as
// they were received; a Record is the file of the image store as it was read;
// Facts is a JSON object from an asker that is not the helper.
const (
	SectionPodPlan SectionKind = iota + 1
	SectionPlan
	SectionExecPlan
	SectionResources
	SectionClaims
	SectionRecord
	SectionFacts
)

// Section is one part of a question.
type Section struct {
	Kind SectionKind
	Data []byte
}

// Question is one request to be decided. All sections together are at most
// 1 MiB and travel in one sealed memfd.
type Question struct {
	Method   string // CRI method name
	Class    Class
	Sections []Section
}

// Obligations are tightenings that policy demands with a yes. The asker applies
// them or says no.
type Obligations struct {
	DropCaps       uint64 // capability mask to remove
	NoNewPrivs     bool
	ReadOnlyRootfs bool
	SeccompDefault bool // replace Unconfined by RuntimeDefault
}

// Decision is policyd's answer.
type Decision struct {
	Allow       bool
	ID          string // decision id (ULID)
	Revision    string // policy revision
	InputSHA256 string // of the redacted input document, hex; the audit log holds the document
	Rule        string // first violation
	Message     string
	Field       string
	Remedy      string
	More        uint16 // violations not shown
	Obligations Obligations
}

// Stage is the stage of an audit record.
type Stage uint8

// Stages.
const (
	StageDecision Stage = iota + 1 // committed before the effect
	StageComplete                  // after it
	StageEvent                     // anything that is not a request
	StageInput                     // a redacted policy input, content-addressed
)
