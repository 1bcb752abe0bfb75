package lint

import (
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Claims may only deny. A claim is under the front end's control, so a rule that
// stops denying because of one is a rule that an attacker switches off by saying
// so. What can be checked without running a rule, and is:
//
//   - only the bodies of deny and obligation rules mention input.claimed, so that
//     no helper rule can carry a claim somewhere else;
//   - there it stands in plain, unnegated expressions: no "not", no "!=", no
//     comprehension, no "every" over it, no call within a call;
//   - it goes to predicates that are listed here and to no function of one's own;
//   - a variable that met a claim is a claim;
//   - nobody takes input as a whole, or by a computed name, or by import;
//   - nobody replaces input or data by "with".
//
// A rule that reads claimed.pod.namespace == "prod" and denies is thus fine: it
// adds a denial. That a liar is not denied by it is what docs/POLICY.md says.

// predicates are the built-ins that a claim may be given to, as a statement.
var predicates = map[string]bool{
	"eq": true, "equal": true, "assign": true, "internal.member_2": true, "internal.member_3": true,
	"startswith": true, "endswith": true, "contains": true, "regex.match": true, "glob.match": true,
	"lt": true, "lte": true, "gt": true, "gte": true,
	"strings.any_prefix_match": true, "strings.any_suffix_match": true,
}

func (c *checker) imports(m *ast.Module) {
	for _, i := range m.Imports {
		path := i.Path.String()
		if path != "data.postern.lib" && path != "rego.v1" {
			c.add(i.Location, "import of %s: a pack may import data.postern.lib only", path)
		} else if i.Alias != "" {
			c.add(i.Location, "import of %s under another name", path)
		}
	}
}

// body checks one rule, with its else chain and default.
func (c *checker) body(r *ast.Rule) {
	mayClaim := isDeny(r) || isObligation(r)
	c.refs(r)
	c.spread(r)
	for e := r; e != nil; e = e.Else {
		if c.claims(e.Head) {
			if !mayClaim || e.Else != nil || r.Else != nil {
				c.add(e.Location, "input.claimed in the head of a rule: claimed facts may only deny")
			} else if !c.headDetail(e.Head) {
				c.add(e.Location, "input.claimed in the head of a deny rule other than as its detail")
			}
		}
		for _, x := range e.Body {
			if !c.claims(x) {
				continue
			}
			if !mayClaim || r.Else != nil {
				c.add(x.Location, "input.claimed outside a deny rule: claimed facts may only deny")
				continue
			}
			c.expr(x)
		}
	}
}

// expr checks one expression that mentions a claim.
func (c *checker) expr(x *ast.Expr) {
	if x.Negated {
		c.add(x.Location, "not with input.claimed: a claim would permit")
		return
	}
	switch t := x.Terms.(type) {
	case *ast.Term:
		c.plain(x, t)
	case *ast.SomeDecl:
		for _, s := range t.Symbols {
			if call, ok := s.Value.(ast.Call); ok {
				c.operands(x, call)
			}
		}
	case []*ast.Term:
		c.operands(x, ast.Call(t))
	default: // every
		c.add(x.Location, "every over input.claimed: a claim would permit")
	}
}

func (c *checker) operands(x *ast.Expr, call ast.Call) {
	name := call[0].String()
	if !predicates[name] {
		c.add(x.Location, "input.claimed given to %s: only plain comparisons may see a claim", name)
		return
	}
	for _, op := range call[1:] {
		c.plain(x, op)
	}
}

// plain demands that a term with a claim in it is the claim itself, or data.
func (c *checker) plain(x *ast.Expr, t *ast.Term) {
	if !c.claims(t) {
		if b, ok := t.Value.(ast.Boolean); ok && !bool(b) {
			c.add(x.Location, "input.claimed compared with false: a claim would permit")
		}
		return
	}
	switch v := t.Value.(type) {
	case ast.Var:
		return
	case ast.Ref:
		if c.isClaim(v) || c.lookup(v) {
			return
		}
	}
	c.add(x.Location, "input.claimed within %s: only plain comparisons may see a claim", ast.ValueName(t.Value))
}

// lookup tells whether a reference looks a claim up in configuration:
// data.site.watched[input.claimed.pod.namespace].
func (c *checker) lookup(r ast.Ref) bool {
	if !r[0].Equal(ast.DefaultRootDocument) {
		return false
	}
	for _, t := range r[1:] {
		if v, ok := t.Value.(ast.Ref); ok && !c.isClaim(v) {
			return false
		}
	}
	return true
}

// headDetail tells whether the only claims of a head are arguments after the
// metadata: text for the reader.
func (c *checker) headDetail(h *ast.Head) bool {
	if h.Key == nil || c.claims(h.Reference) || (h.Value != nil && c.claims(h.Value)) {
		return false
	}
	call, ok := h.Key.Value.(ast.Call)
	return ok && strings.HasPrefix(call[0].String(), "lib.violation") && !c.claims(call[1])
}

// refs checks what a rule refers to at all.
func (c *checker) refs(r *ast.Rule) {
	ast.WalkTerms(r, func(t *ast.Term) bool {
		switch v := t.Value.(type) {
		case ast.Var:
			if v == "input" || v == "data" {
				c.add(t.Location, "%s as a whole", v)
			}
		case ast.Ref:
			return c.ref(t, v)
		}
		return false
	})
	ast.WalkWiths(r, func(w *ast.With) bool {
		c.add(w.Location, "with: a pack may not replace its input, its data or a function")
		return true
	})
}

// ref reports whether the walk need not go on below it.
func (c *checker) ref(t *ast.Term, v ast.Ref) bool {
	head, ok := v[0].Value.(ast.Var)
	if !ok {
		return false
	}
	switch head {
	case "input":
		if len(v) < 2 {
			c.add(t.Location, "input as a whole")
		} else if _, ok := v[1].Value.(ast.String); !ok {
			c.add(t.Location, "%s: a part of input by a computed name", v)
		}
	case "data":
		s := v.String()
		switch {
		case s == "data.postern_config" || s == "data.postern" || s == "data.site":
			c.add(t.Location, "%s as a whole", s)
		case strings.HasPrefix(s, "data.postern_config."):
			if name, ok := v[2].Value.(ast.String); !ok || !configKeys[string(name)] {
				c.add(t.Location, "%s: no such configuration", s)
			}
		case strings.HasPrefix(s, "data.site."), strings.HasPrefix(s, "data.postern.lib."),
			strings.HasPrefix(s, c.pack+"."):
		default:
			c.add(t.Location, "%s: a pack may read data.postern_config, data.site and itself", s)
		}
	case "print":
		c.add(t.Location, "print: a policy has nobody to print to")
	default:
		return false
	}
	for _, part := range v[1:] { // walk operands such as data.site.x[input.claimed.y]
		ast.WalkTerms(part, func(t *ast.Term) bool {
			if r, ok := t.Value.(ast.Ref); ok {
				return c.ref(t, r)
			}
			return false
		})
	}
	return true
}

// configKeys are the fields of engine.Config; a test holds the two together.
var configKeys = map[string]bool{
	"require_signature": true, "allowed_registries": true, "extra_capabilities": true,
	"extra_volume_plugins": true, "exec_denied_namespaces": true,
}

// ConfigKeys returns the known fields of data.postern_config.
func ConfigKeys() map[string]bool { return configKeys }

func (c *checker) isClaim(r ast.Ref) bool {
	if v, ok := r[0].Value.(ast.Var); ok && c.taint[v] {
		return true
	}
	return len(r) >= 2 && r[0].Equal(ast.InputRootDocument) && r[1].Equal(ast.StringTerm("claimed"))
}

// claims tells whether a node mentions input.claimed, or a variable that met a
// claim, anywhere.
func (c *checker) claims(node any) bool {
	found := false
	ast.WalkTerms(node, func(t *ast.Term) bool {
		switch v := t.Value.(type) {
		case ast.Var:
			found = found || c.taint[v]
		case ast.Ref:
			found = found || c.isClaim(v)
		}
		return found
	})
	return found
}

// spread finds the variables of a rule that meet a claim: every variable that
// stands as an operand beside one, until no more are found.
func (c *checker) spread(r *ast.Rule) {
	c.taint = map[ast.Var]bool{}
	for again := true; again; {
		again = false
		ast.WalkExprs(r, func(x *ast.Expr) bool {
			if !c.claims(x) {
				return false
			}
			for _, t := range operandsOf(x) {
				if v, ok := t.Value.(ast.Var); ok && !c.taint[v] && v != "input" && v != "data" {
					c.taint[v], again = true, true
				}
			}
			return false
		})
	}
}

func operandsOf(x *ast.Expr) []*ast.Term {
	switch t := x.Terms.(type) {
	case []*ast.Term:
		return t[1:]
	case *ast.SomeDecl:
		var out []*ast.Term
		for _, s := range t.Symbols {
			if call, ok := s.Value.(ast.Call); ok {
				out = append(out, call[1:]...)
			}
		}
		return out
	case *ast.Every:
		if t.Key == nil {
			return []*ast.Term{t.Value, t.Domain}
		}
		return []*ast.Term{t.Key, t.Value, t.Domain}
	}
	return nil
}
