package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	opa "github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/postern-cri/postern/policy/decision"
)

// errTimeout says that an evaluation ran out of time.
var errTimeout = errors.New("the policy took too long")

// errShape says that the rules answered something that is no decision.
var errShape = errors.New("the policy's answer is not a decision")

// Eval asks the policy about a document. The clock that rules see is timeNS.
func (p *Policy) Eval(ctx context.Context, in ast.Value, timeNS int64) (*decision.Result, error) {
	return p.eval(ctx, in, timeNS, Deadline, true)
}

func (p *Policy) eval(ctx context.Context, in ast.Value, timeNS int64, limit time.Duration, indexing bool) (res *decision.Result, err error) {
	defer func() {
		if r := recover(); r != nil { // a bug in OPA must cost one decision, not the process
			res, err = nil, fmt.Errorf("evaluating the policy: panic: %v", r)
		}
	}()
	cancel := topdown.NewCancel()
	defer setAlarm(limit, cancel.Cancel).stop()
	rs, err := p.query.Eval(ctx,
		opa.EvalParsedInput(in), opa.EvalTime(time.Unix(0, timeNS)), opa.EvalExternalCancel(cancel),
		opa.EvalRuleIndexing(indexing),
	)
	if err != nil {
		if topdown.IsCancel(err) {
			return nil, fmt.Errorf("%w: more than %s of processor time, or %s", errTimeout, limit, wallLimit)
		}
		return nil, fmt.Errorf("evaluating the policy: %w", err)
	}
	if len(rs) != 1 || len(rs[0].Expressions) != 1 {
		return nil, fmt.Errorf("%w: undefined", errShape)
	}
	r, ok := rs[0].Expressions[0].Value.(*decision.Result)
	if !ok || r == nil {
		return nil, errShape
	}
	if err := r.Check(); err != nil {
		return nil, err
	}
	return r, nil
}

// resultOf turns the answer into a Result without going over JSON, and is as
// strict as a decoder: another field, another type or a missing field is an error.
func resultOf(t *ast.Term, _ *opa.EvalContext) (any, error) {
	obj, ok := t.Value.(ast.Object)
	if !ok || obj.Len() != 2 {
		return nil, errShape
	}
	r := &decision.Result{}
	err := members(obj, "violations", func(o ast.Object) error {
		v := decision.Violation{}
		for name, to := range map[string]*string{
			"id": &v.ID, "severity": &v.Severity, "message": &v.Message, "field": &v.Field, "remediation": &v.Remediation,
		} {
			s, ok := text(o, name)
			if !ok {
				return fmt.Errorf("%w: violation without %s", errShape, name)
			}
			*to = s
		}
		if o.Len() != 5 {
			return fmt.Errorf("%w: violation with an unknown field", errShape)
		}
		r.Violations = append(r.Violations, v)
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = members(obj, "obligations", func(o ast.Object) error {
		typ, ok := text(o, "type")
		if !ok {
			return fmt.Errorf("%w: obligation without type", errShape)
		}
		ob, n := decision.Obligation{Type: typ}, 1
		if a := o.Get(ast.InternedTerm("args")); a != nil {
			arr, ok := a.Value.(*ast.Array)
			if !ok {
				return fmt.Errorf("%w: obligation %s: args is no list", errShape, typ)
			}
			for i := range arr.Len() {
				s, ok := arr.Elem(i).Value.(ast.String)
				if !ok {
					return fmt.Errorf("%w: obligation %s: an argument is no string", errShape, typ)
				}
				ob.Args = append(ob.Args, string(s))
			}
			n++
		}
		if o.Len() != n {
			return fmt.Errorf("%w: obligation %s with an unknown field", errShape, typ)
		}
		r.Obligations = append(r.Obligations, ob)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// members calls f for every object of the set obj[name].
func members(obj ast.Object, name string, f func(ast.Object) error) error {
	t := obj.Get(ast.InternedTerm(name))
	if t == nil {
		return fmt.Errorf("%w: no %s", errShape, name)
	}
	set, ok := t.Value.(ast.Set)
	if !ok {
		return fmt.Errorf("%w: %s is no set", errShape, name)
	}
	return set.Iter(func(t *ast.Term) error {
		o, ok := t.Value.(ast.Object)
		if !ok {
			return fmt.Errorf("%w: %s holds no object", errShape, name)
		}
		return f(o)
	})
}

func text(o ast.Object, name string) (string, bool) {
	t := o.Get(ast.InternedTerm(name))
	if t == nil {
		return "", false
	}
	s, ok := t.Value.(ast.String)
	return string(s), ok
}
