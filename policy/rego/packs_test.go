package rego_test

import (
	"context"
	"strings"
	"testing"

	"github.com/postern-cri/postern/policy/engine"
	"github.com/postern-cri/postern/policy/rego"
)

// TestPacks runs the packs' own tests. Every deny rule must have fired in one,
// and the packs' lines must be covered.
func TestPacks(t *testing.T) {
	rep, err := engine.Test(context.Background(), rego.All())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rep.Tests {
		if !r.Pass {
			t.Errorf("%s:%d: %s.%s failed %v", r.File, r.Line, r.Package, r.Name, r.Err)
		}
	}
	for _, r := range rep.Untested {
		t.Errorf("%s:%d: no test makes %s fire", r.File, r.Line, r.ID)
	}
	if rep.Coverage < 95 {
		t.Errorf("coverage %.1f%%, want 95%%: %s", rep.Coverage, strings.Join(rep.Uncovered, " "))
	}
	t.Logf("%d tests, %d rules, coverage %.1f%%", len(rep.Tests), len(rep.Rules), rep.Coverage)
}

func TestProfilesCompile(t *testing.T) {
	for _, name := range []string{"restricted", "baseline", "conformance", "allow-all"} {
		files, ok := rego.Pack(name)
		if !ok {
			t.Fatalf("no profile %s", name)
		}
		if _, err := engine.Compile(context.Background(), files); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		rep, err := engine.Test(context.Background(), files)
		if err != nil {
			t.Fatalf("%s: tests: %v", name, err)
		}
		for _, r := range rep.Tests {
			if !r.Pass {
				t.Errorf("%s: %s.%s failed", name, r.Package, r.Name)
			}
		}
	}
	if _, ok := rego.Pack("../system"); ok {
		t.Error("a profile that does not exist")
	}
}
