package decision

import (
	"strings"
	"testing"

	"github.com/postern-cri/postern/privsep/gate"
)

func TestResultMustBeComplete(t *testing.T) {
	good := Violation{ID: "A-B", Severity: "low", Message: "m", Field: "f", Remediation: "r"}
	for name, change := range map[string]func(*Violation){
		"id": func(v *Violation) { v.ID = "" }, "severity": func(v *Violation) { v.Severity = "worst" },
		"message": func(v *Violation) { v.Message = "" }, "remediation": func(v *Violation) { v.Remediation = "" },
	} {
		v := good
		change(&v)
		if (&Result{Violations: []Violation{v}}).Check() == nil {
			t.Errorf("a violation with a bad %s", name)
		}
	}
	v := good
	v.Message = "a\nb\x1b[31m" + strings.Repeat("é", 300)
	r := Result{Violations: []Violation{v}}
	if err := r.Check(); err != nil {
		t.Fatal(err)
	}
	if m := r.Violations[0].Message; len(m) > maxText || strings.ContainsAny(m, "\n\x1b") {
		t.Errorf("%q", m)
	}
	d, err := r.Gate()
	if err != nil || d.Allow {
		t.Errorf("%+v %v", d, err)
	}
}

func TestOnlyTeardownGoesOn(t *testing.T) {
	for c := gate.ClassCreate; c <= gate.ClassRead; c++ {
		if d := Failed(c, RuleError, "x"); d.Allow != (c == gate.ClassTeardown) {
			t.Errorf("class %d: %+v", c, d)
		}
	}
}

func TestIDs(t *testing.T) {
	a, b := NewID(1_000_000), NewID(2_000_000)
	if len(a) != 26 || a >= b || a[:10] != "0000000001" || NewID(1_000_000) == a {
		t.Errorf("%s %s", a, b)
	}
}
