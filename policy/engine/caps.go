package engine

import (
	_ "embed"
	"fmt"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// builtinNames is the allow-list of built-in functions. It is a list of what may
// be used and not of what may not, so that a new OPA cannot bring one in. Out are
// everything that talks to a network or reads a clock, and what was seen to run
// on after its deadline: graph.reachable_paths, strings.render_template, bits.lsh.
//
//go:embed builtins.txt
var builtinNames string

// Capabilities returns what a rule may use.
func Capabilities() (*ast.Capabilities, error) {
	allowed := map[string]bool{}
	for _, n := range strings.Fields(builtinNames) {
		allowed[n] = true
	}
	caps := &ast.Capabilities{
		Features: []string{ast.FeatureRegoV1},
		// An empty list is no host; nil would be every host. The field vanishes
		// in JSON when it is empty, so it is set here and nowhere else.
		AllowNet: []string{},
	}
	for _, b := range ast.CapabilitiesForThisVersion().Builtins {
		if allowed[b.Name] {
			if b.Nondeterministic {
				return nil, fmt.Errorf("built-in %s is not deterministic", b.Name)
			}
			caps.Builtins = append(caps.Builtins, b)
			delete(allowed, b.Name)
		}
	}
	for n := range allowed {
		return nil, fmt.Errorf("built-in %s does not exist in this OPA", n)
	}
	return caps, nil
}
