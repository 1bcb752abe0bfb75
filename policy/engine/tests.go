package engine

import (
	"context"
	"fmt"
	"sort"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/cover"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/tester"

	"github.com/postern-cri/postern/policy/lint"
	"github.com/postern-cri/postern/policy/rego"
)

// TestResult is one test of a policy.
type TestResult struct {
	Package string
	Name    string
	File    string
	Line    int
	Pass    bool
	Err     error
	Took    time.Duration
}

// TestReport is what the tests of a policy say.
type TestReport struct {
	Tests     []TestResult
	Coverage  float64     // percent of the lines of the policy
	Uncovered []string    // file:line ranges that no test reached
	Rules     []lint.Rule // deny rules
	Untested  []lint.Rule // deny rules that no test made fire
}

// Test runs the *_test.rego files of a policy under the same restrictions as the
// policy, with package postern.testing beside them.
func Test(ctx context.Context, files Files) (*TestReport, error) {
	tests := Files{}
	for n, b := range files {
		if isTest(n) {
			tests[n] = b
		}
	}
	for n, b := range rego.Testing() {
		tests["system/"+n] = b
	}
	p, err := parse(files.Policy(), tests)
	if err != nil {
		return nil, err
	}
	c := cover.New()
	runner := tester.NewRunner().SetCompiler(p.compiler).SetStore(p.store).SetModules(p.modules).
		CapturePrintOutput(false).RaiseBuiltinErrors(true).SetParallel(1).SetCoverageQueryTracer(c).
		SetTimeout(10 * time.Second)
	txn, err := p.store.NewTransaction(ctx)
	if err != nil {
		return nil, fmt.Errorf("running the tests: %w", err)
	}
	defer p.store.Abort(ctx, txn)
	return p.report(ctx, runner, txn, c)
}

func (p *parsed) report(ctx context.Context, runner *tester.Runner, txn storage.Transaction, c *cover.Cover) (*TestReport, error) {
	ch, err := runner.RunTests(ctx, txn)
	if err != nil {
		if list := problemsOf(err); len(list) > 0 {
			return nil, sorted(list)
		}
		return nil, err
	}
	out := &TestReport{Rules: p.rules}
	for r := range ch {
		t := TestResult{Package: r.Package, Name: r.Name, Pass: r.Pass(), Err: r.Error, Took: r.Duration}
		if r.Location != nil {
			t.File, t.Line = r.Location.File, r.Location.Row
		}
		out.Tests = append(out.Tests, t)
	}
	sort.Slice(out.Tests, func(i, j int) bool {
		a, b := out.Tests[i], out.Tests[j]
		return a.File < b.File || a.File == b.File && a.Line < b.Line
	})
	policy := map[string]*ast.Module{}
	for n, m := range p.modules {
		if !isTest(n) && n != "system/testing.rego" {
			policy[n] = m
		}
	}
	rep := c.Report(policy)
	out.Coverage = rep.Coverage
	for name, f := range rep.Files {
		for _, r := range f.NotCovered {
			out.Uncovered = append(out.Uncovered, fmt.Sprintf("%s:%d-%d", name, r.Start.Row, r.End.Row))
		}
	}
	sort.Strings(out.Uncovered)
	for _, rule := range p.rules {
		if !covered(rep.Files[rule.File], rule.Line) {
			out.Untested = append(out.Untested, rule)
		}
	}
	return out, nil
}

func covered(f *cover.FileReport, line int) bool { return f != nil && f.IsCovered(line) }
