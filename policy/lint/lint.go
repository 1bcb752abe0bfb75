// Package lint holds the rules about rules. They are part of every compilation,
// not advice: a rule without an identity cannot be audited, and a rule that a
// claim can switch off is a rule that the attacker switches off.
package lint

import (
	"fmt"
	"regexp"
	"sort"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Problem is one thing that is wrong, with its place.
type Problem struct {
	File    string
	Line    int
	Rule    string // id of the rule, where it has one
	Message string
	Detail  []string
}

func (p Problem) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d: ", p.File, p.Line)
	if p.Rule != "" {
		b.WriteString(p.Rule + ": ")
	}
	b.WriteString(p.Message)
	for _, d := range p.Detail {
		b.WriteString("\n\t" + d)
	}
	return b.String()
}

// Rule is the identity of one deny rule, from its metadata.
type Rule struct {
	ID          string
	Severity    string
	Message     string
	Field       string
	Remediation string
	Pack        string
	File        string
	Line        int
}

// PackPrefix is the package that all packs lie beneath.
const PackPrefix = "data.postern.packs."

var (
	idPattern   = regexp.MustCompile(`^[A-Z][A-Z0-9]*(-[A-Z0-9]+)+$`)
	packPattern = regexp.MustCompile(`^data\.postern\.packs\.[a-z][a-z0-9_]*$`)
)

type checker struct {
	problems []Problem
	file     string
	rule     string // id
	pack     string
	taint    map[ast.Var]bool // variables of the rule at hand that met a claim
}

func (c *checker) add(loc *ast.Location, format string, args ...any) {
	p := Problem{File: c.file, Rule: c.rule, Message: fmt.Sprintf(format, args...)}
	if loc != nil {
		p.Line = loc.Row
	}
	c.problems = append(c.problems, p)
}

// Check checks the modules of packs and returns their rules.
func Check(modules map[string]*ast.Module) ([]Rule, []Problem) {
	c := &checker{}
	var rules []Rule
	names := make([]string, 0, len(modules))
	for n := range modules {
		names = append(names, n)
	}
	sort.Strings(names)
	byID := map[string]Rule{}
	for _, n := range names {
		m := modules[n]
		c.file, c.rule, c.pack = n, "", m.Package.Path.String()
		if !packPattern.MatchString(c.pack) {
			c.add(m.Package.Location, "package %s: a pack is package postern.packs.<name>", strings.TrimPrefix(c.pack, "data."))
			continue
		}
		c.imports(m)
		for _, r := range m.Rules {
			c.rule = ""
			if isDeny(r) {
				info := c.identity(r, metadataOf(r))
				if info.ID != "" {
					if other, ok := byID[info.ID]; ok {
						c.add(r.Location, "the id is used already at %s:%d", other.File, other.Line)
					}
					byID[info.ID] = info
					rules = append(rules, info)
				}
			}
			c.body(r)
		}
	}
	return rules, c.problems
}

func isDeny(r *ast.Rule) bool { return strings.HasPrefix(r.Head.Ref().String(), "deny") }

func isObligation(r *ast.Rule) bool { return r.Head.Ref().String() == "obligation" }

func metadataOf(r *ast.Rule) *ast.Annotations {
	for _, a := range r.Annotations {
		if a.Scope == "rule" {
			return a
		}
	}
	return nil
}

// identity checks the metadata of a deny rule.
func (c *checker) identity(r *ast.Rule, a *ast.Annotations) Rule {
	info := Rule{Pack: strings.TrimPrefix(c.pack, PackPrefix), File: c.file}
	if r.Location != nil {
		info.Line = r.Location.Row
	}
	if r.Head.RuleKind() != ast.MultiValue || r.Head.Ref().String() != "deny" {
		c.add(r.Location, "deny must be a set: deny contains lib.violation(rego.metadata.rule()) if { ... }")
		return info
	}
	if a == nil {
		c.add(r.Location, "a deny rule without `# METADATA` right above it: it needs custom.id, severity, message, field and remediation")
		return info
	}
	get := func(key string) string { s, _ := a.Custom[key].(string); return s }
	info.ID, info.Severity, info.Message = get("id"), get("severity"), get("message")
	info.Field, info.Remediation = get("field"), get("remediation")
	c.rule = info.ID
	switch {
	case info.ID == "":
		c.add(r.Location, "metadata without custom.id")
	case !idPattern.MatchString(info.ID):
		c.add(r.Location, "id %q: want upper-case words joined by dashes, such as SITE-NO-LATEST", info.ID)
	}
	switch info.Severity {
	case "critical", "high", "medium", "low":
	default:
		c.add(r.Location, "severity %q: want critical, high, medium or low", info.Severity)
	}
	for _, f := range []struct{ key, value string }{
		{"message", info.Message}, {"field", info.Field}, {"remediation", info.Remediation},
	} {
		if f.value == "" {
			c.add(r.Location, "metadata without custom.%s", f.key)
		}
	}
	known := map[string]bool{"id": true, "severity": true, "message": true, "field": true, "remediation": true, "control": true, "docs": true}
	for k := range a.Custom {
		if !known[k] {
			c.add(r.Location, "metadata: unknown custom.%s", k)
		}
	}
	if r.Else != nil {
		c.add(r.Location, "a deny rule with else")
	}
	c.key(r)
	return info
}

// key demands that what a deny rule yields is a violation made by the library
// from this rule's own metadata: an id written by hand could be another rule's.
func (c *checker) key(r *ast.Rule) {
	call, ok := r.Head.Key.Value.(ast.Call)
	if ok && len(call) >= 2 {
		fn := call[0].String()
		arg, isCall := call[1].Value.(ast.Call)
		if (fn == "lib.violation" || fn == "lib.violation_at" || fn == "lib.violation_with") &&
			isCall && arg[0].String() == "rego.metadata.rule" {
			return
		}
	}
	c.add(r.Location, "deny must yield lib.violation(rego.metadata.rule()), lib.violation_with(…, detail) or lib.violation_at(…, detail, field)")
}
