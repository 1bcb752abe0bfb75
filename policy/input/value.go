package input

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"sync"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Value returns the document as a value of OPA, built straight from the struct:
// the way over JSON costs a quarter of the decision's whole budget.
func (d *Document) Value() ast.Value {
	return term(reflect.ValueOf(d).Elem()).Value
}

// The keys of every object are shared between documents: they are never changed.
var keyCache sync.Map // string -> *ast.Term

func keyTerm(name string) *ast.Term {
	if t, ok := keyCache.Load(name); ok {
		return t.(*ast.Term)
	}
	t, _ := keyCache.LoadOrStore(name, ast.StringTerm(name))
	return t.(*ast.Term)
}

func term(v reflect.Value) *ast.Term {
	switch v.Kind() {
	case reflect.Pointer:
		return term(v.Elem())
	case reflect.Struct:
		fields := fieldsOf(v.Type())
		items := make([][2]*ast.Term, 0, len(fields))
		for _, f := range fields {
			fv := v.Field(f.index)
			if f.optional && fv.IsNil() {
				continue
			}
			items = append(items, [2]*ast.Term{keyTerm(f.name), term(fv)})
		}
		return ast.ObjectTerm(items...)
	case reflect.Slice:
		n := v.Len()
		if n == 0 {
			return ast.InternedEmptyArray
		}
		items := make([]*ast.Term, n)
		for i := range n {
			items[i] = term(v.Index(i))
		}
		return ast.ArrayTerm(items...)
	case reflect.Map:
		m := v.Interface().(map[string]string)
		items := make([][2]*ast.Term, 0, len(m))
		for k, s := range m {
			items = append(items, [2]*ast.Term{ast.StringTerm(k), ast.StringTerm(s)})
		}
		return ast.ObjectTerm(items...)
	case reflect.String:
		return ast.InternedTerm(v.String())
	case reflect.Bool:
		return ast.InternedTerm(v.Bool())
	case reflect.Int32, reflect.Int64:
		return number(strconv.FormatInt(v.Int(), 10))
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return number(strconv.FormatUint(v.Uint(), 10))
	}
	panic(fmt.Sprintf("input: a field of kind %s", v.Kind()))
}

func number(s string) *ast.Term {
	if t := ast.InternedIntNumberTermFromString(s); t != nil {
		return t
	}
	return ast.NumberTerm(json.Number(s))
}
