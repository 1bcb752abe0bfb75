// Package decision is the answer of a policy: violations, obligations, and how
// they become the answer that the asker gets.
package decision

import (
	"errors"
	"fmt"
	"sort"
	"strings"

	"github.com/postern-cri/postern/privsep/gate"
	"github.com/postern-cri/postern/profiles/capability"
)

// Violation is one reason to deny. All fields but Field are never empty.
type Violation struct {
	ID          string `json:"id"`
	Severity    string `json:"severity"`
	Message     string `json:"message"`
	Field       string `json:"field"`
	Remediation string `json:"remediation"`
}

// Obligation tightens what is permitted.
type Obligation struct {
	Type string   `json:"type"`
	Args []string `json:"args"`
}

// Result is what the rules say.
type Result struct {
	Violations  []Violation
	Obligations []Obligation
}

// Ids of decisions that no rule made.
const (
	RuleError    = "POLICY_ERROR"
	RuleInvalid  = "INPUT_INVALID"
	RuleTooLarge = "INPUT_TOO_LARGE"
)

// maxText bounds what goes into the error that the kubelet shows.
const maxText = 256

var severities = map[string]int{"critical": 0, "high": 1, "medium": 2, "low": 3}

// Severity tells whether s is a severity.
func Severity(s string) bool { _, ok := severities[s]; return ok }

// Check refuses a result that is not complete and orders it: the gravest first.
func (r *Result) Check() error {
	for i := range r.Violations {
		v := &r.Violations[i]
		if v.ID == "" || v.Message == "" || v.Remediation == "" {
			return fmt.Errorf("violation %q without id, message or remediation", v.ID)
		}
		if !Severity(v.Severity) {
			return fmt.Errorf("violation %s: unknown severity %q", v.ID, v.Severity)
		}
		v.ID, v.Field = cut(v.ID, 64), cut(v.Field, 128)
		v.Message, v.Remediation = cut(v.Message, maxText), cut(v.Remediation, maxText)
	}
	sort.Slice(r.Violations, func(i, j int) bool {
		a, b := &r.Violations[i], &r.Violations[j]
		switch {
		case a.Severity != b.Severity:
			return severities[a.Severity] < severities[b.Severity]
		case a.ID != b.ID:
			return a.ID < b.ID
		case a.Field != b.Field:
			return a.Field < b.Field
		}
		return a.Message < b.Message
	})
	_, err := r.obligations()
	return err
}

// Gate turns the result into the answer: any violation denies.
func (r *Result) Gate() (gate.Decision, error) {
	o, err := r.obligations()
	if err != nil {
		return gate.Decision{}, err
	}
	if len(r.Violations) == 0 {
		return gate.Decision{Allow: true, Obligations: o}, nil
	}
	v := r.Violations[0]
	return gate.Decision{
		Rule: v.ID, Message: v.Message, Field: v.Field, Remedy: v.Remediation,
		More: uint16(min(len(r.Violations)-1, 0xffff)),
	}, nil
}

func (r *Result) obligations() (gate.Obligations, error) {
	var o gate.Obligations
	for _, ob := range r.Obligations {
		if ob.Type != "drop_capabilities" && len(ob.Args) > 0 {
			return o, fmt.Errorf("obligation %q takes no arguments", ob.Type)
		}
		switch ob.Type {
		case "drop_capabilities":
			if len(ob.Args) == 0 {
				return o, errors.New("obligation drop_capabilities without a capability")
			}
			for _, name := range ob.Args {
				bit, ok := capability.Parse(name)
				if !ok {
					return o, fmt.Errorf("obligation drop_capabilities: unknown capability %q", name)
				}
				o.DropCaps |= 1 << bit
			}
		case "no_new_privs":
			o.NoNewPrivs = true
		case "read_only_rootfs":
			o.ReadOnlyRootfs = true
		case "seccomp_runtime_default":
			o.SeccompDefault = true
		default:
			return o, fmt.Errorf("unknown obligation %q", ob.Type)
		}
	}
	return o, nil
}

// Failed is the answer where policy could not answer: teardown goes on, since a
// broken policy must not keep a container alive; everything else is denied.
func Failed(class gate.Class, rule, message string) gate.Decision {
	return gate.Decision{
		Allow: class == gate.ClassTeardown, Rule: rule, Message: cut(message, maxText),
		Remedy: "run `postern policy check` on the node and look for this decision in the audit log",
	}
}

// cut keeps at most n bytes of printable text on one line.
func cut(s string, n int) string {
	s = strings.ToValidUTF8(s, "?")
	s = strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n-3], "") + "..."
}

// OneLine makes any text one printable line.
func OneLine(s string) string { return cut(s, 4096) }
