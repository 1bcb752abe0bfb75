// Package fill fills structs by reflection, so that a test notices a field that
// was added and that a codec, a check or a policy input forgot.
package fill

import (
	"fmt"
	"reflect"
	"strings"
)

// Rules say what a field gets, by "Type.Field" or, for any type, "Field". A
// value is set as it is; a func(int) any is called with a number that never
// comes twice, for fields that must differ from each other.
type Rules map[string]any

// Fill sets every exported field of *v, at any depth, to something that is not
// zero: true, a number, a word, lists of two. It panics on a kind that it does
// not know: a new one needs a thought.
func Fill(v any, rules Rules) {
	n := 0
	fill(reflect.ValueOf(v).Elem(), "", rules, &n)
}

func fill(v reflect.Value, at string, rules Rules, n *int) {
	*n++
	if rule, ok := find(at, rules); ok {
		if f, ok := rule.(func(int) any); ok {
			rule = f(*n)
		}
		if r := reflect.ValueOf(rule); r.Type().ConvertibleTo(v.Type()) {
			v.Set(r.Convert(v.Type()))
			return
		}
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() {
				fill(v.Field(i), v.Type().Name()+"."+f.Name, rules, n)
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			fill(v.Index(i), at, rules, n)
		}
	case reflect.String:
		v.SetString(fmt.Sprintf("word-%d", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Uint8: // an enumeration, or a byte: 1 is one of every list
		v.SetUint(1)
	case reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(*n))
	case reflect.Int32, reflect.Int64:
		v.SetInt(int64(-*n))
	default:
		panic(fmt.Sprintf("%s: a %s: fill does not know what to put there", at, v.Kind()))
	}
}

func find(at string, rules Rules) (any, bool) {
	if r, ok := rules[at]; ok {
		return r, true
	}
	r, ok := rules[at[strings.IndexByte(at, '.')+1:]]
	return r, ok
}

// Zero lists the fields of *v, at any depth, that are zero: after Fill there are
// none, or the test that relies on it tests less than it says.
func Zero(v any) []string { return zero(reflect.ValueOf(v).Elem(), "") }

func zero(v reflect.Value, at string) (out []string) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() {
				out = append(out, zero(v.Field(i), v.Type().Name()+"."+f.Name)...)
			}
		}
		return out
	case reflect.Slice:
		for i := range v.Len() {
			out = append(out, zero(v.Index(i), at)...)
		}
	}
	if v.IsZero() {
		out = append(out, at)
	}
	return out
}

// Fields lists "Type.Field" of every exported field of v's type and of the
// structs and lists of structs within it.
func Fields(v any) []string {
	seen := map[reflect.Type]bool{}
	var out []string
	var walk func(reflect.Type)
	walk = func(t reflect.Type) {
		for t.Kind() == reflect.Slice || t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		if t.Kind() != reflect.Struct || seen[t] {
			return
		}
		seen[t] = true
		for i := range t.NumField() {
			if f := t.Field(i); f.IsExported() {
				out = append(out, t.Name()+"."+f.Name)
				walk(f.Type)
			}
		}
	}
	walk(reflect.TypeOf(v))
	return out
}
