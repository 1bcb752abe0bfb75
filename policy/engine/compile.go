// Package engine compiles a policy and decides questions with it. OPA is
// embedded as a prepared query; everything that could make a wrong policy look
// like a permissive one is an error here: a built-in that fails, a field that is
// not in the schema, an answer of another shape, a rule without an identity.
package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sort"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	opa "github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"

	"github.com/postern-cri/postern/policy/input"
	"github.com/postern-cri/postern/policy/lint"
	"github.com/postern-cri/postern/policy/rego"
)

// entrypoint is the only query that is ever asked.
const entrypoint = "data.postern.main.decision"

// Policy is one compiled policy. It never changes and is safe for concurrent use.
type Policy struct {
	Revision string
	Rules    []lint.Rule
	query    opa.PreparedEvalQuery
}

// Problems are what is wrong with a policy, each with its place.
type Problems []lint.Problem

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i := range p {
		lines[i] = p[i].String()
	}
	return strings.Join(lines, "\n")
}

func systemModules() map[string][]byte { return rego.System() }

// Compile compiles a policy. Its error is a Problems where rules are wrong.
func Compile(ctx context.Context, files Files) (*Policy, error) {
	b, err := parse(files.Policy(), nil)
	if err != nil {
		return nil, err
	}
	if b.compiler.Compile(b.modules); b.compiler.Failed() {
		return nil, sorted(problemsOf(b.compiler.Errors))
	}
	q, err := opa.New(
		opa.Query(entrypoint), opa.Compiler(b.compiler), opa.Store(b.store), opa.Capabilities(b.caps),
		opa.StrictBuiltinErrors(true), opa.Strict(true), opa.EnablePrintStatements(false),
		opa.SetRegoVersion(ast.RegoV1), opa.StoreReadAST(true), opa.GenerateJSON(resultOf),
	).PrepareForEval(ctx)
	if err != nil {
		return nil, fmt.Errorf("preparing the policy: %w", err)
	}
	return &Policy{Revision: files.revision(), Rules: b.rules, query: q}, nil
}

// parsed is a policy that was parsed and found clean, with a compiler for it.
type parsed struct {
	modules  map[string]*ast.Module
	compiler *ast.Compiler
	caps     *ast.Capabilities
	store    storage.Store
	rules    []lint.Rule
}

// parse parses and lints. tests are modules beyond the policy; nil for none.
func parse(files, tests Files) (*parsed, error) {
	caps, err := Capabilities()
	if err != nil {
		return nil, err
	}
	if tests != nil {
		caps.Builtins = append(caps.Builtins, ast.InternalTestCase)
	}
	p := parser{ast.ParserOptions{Capabilities: caps, ProcessAnnotation: true, RegoVersion: ast.RegoV1}, nil}
	all, packs := map[string]*ast.Module{}, map[string]*ast.Module{}
	p.all(systemModules(), "system/", all)
	p.all(files, "", packs)
	p.all(tests, "", all)
	maps.Copy(all, packs)
	data, err := parseData(files[dataFile])
	if err != nil {
		p.problems = append(p.problems, lint.Problem{File: dataFile, Line: 1, Message: err.Error()})
	}
	if len(packs) == 0 && len(p.problems) == 0 {
		return nil, errors.New("no pack: a policy without rules would permit everything; the pack allow-all says so in words")
	}
	rules, found := lint.Check(packs)
	if p.problems = append(p.problems, found...); len(p.problems) > 0 {
		return nil, sorted(p.problems)
	}
	schema, err := inputSchema()
	if err != nil {
		return nil, err
	}
	c := ast.NewCompiler().WithCapabilities(caps).WithStrict(true).WithSchemas(schema).
		WithUseTypeCheckAnnotations(true).WithEnablePrintStatements(false).WithDefaultRegoVersion(ast.RegoV1)
	store := inmem.NewFromObjectWithOpts(data, inmem.OptReturnASTValuesOnRead(true))
	return &parsed{all, c, caps, store, rules}, nil
}

type parser struct {
	opts     ast.ParserOptions
	problems Problems
}

func (p *parser) all(files Files, prefix string, into map[string]*ast.Module) {
	for name, b := range files {
		if name == dataFile {
			continue
		}
		m, err := ast.ParseModuleWithOpts(prefix+name, string(b), p.opts)
		switch {
		case err != nil:
			p.problems = append(p.problems, problemsOf(err)...)
		case m == nil:
			p.problems = append(p.problems, lint.Problem{File: name, Line: 1, Message: "an empty file"})
		default:
			into[prefix+name] = m
		}
	}
}

func inputSchema() (*ast.SchemaSet, error) {
	var raw any
	if err := json.Unmarshal(input.SchemaJSON, &raw); err != nil {
		return nil, fmt.Errorf("the input schema: %w", err)
	}
	s := ast.NewSchemaSet()
	s.Put(ast.SchemaRootRef, raw)
	return s, nil
}

func problemsOf(err error) Problems {
	var list ast.Errors
	if !errors.As(err, &list) {
		return Problems{{File: "policy", Line: 0, Message: err.Error()}}
	}
	var out Problems
	for _, e := range list {
		p := lint.Problem{Message: e.Message}
		if e.Location != nil {
			p.File, p.Line = e.Location.File, e.Location.Row
		}
		if e.Details != nil {
			p.Detail = e.Details.Lines()
		}
		out = append(out, p)
	}
	return out
}

func sorted(p Problems) Problems {
	sort.SliceStable(p, func(i, j int) bool {
		if p[i].File != p[j].File {
			return p[i].File < p[j].File
		}
		return p[i].Line < p[j].Line
	})
	return p
}
