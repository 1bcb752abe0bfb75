package input

import (
	"reflect"
	"sort"
	"strings"
	"sync"
)

// field is one property of a struct of the document.
type field struct {
	name     string
	index    int
	optional bool // a nil pointer is left out
}

var fieldCache sync.Map // reflect.Type -> []field

// fieldsOf returns the properties of a struct, sorted by name: the order of
// canonical JSON.
func fieldsOf(t reflect.Type) []field {
	if f, ok := fieldCache.Load(t); ok {
		return f.([]field)
	}
	out := make([]field, 0, t.NumField())
	for i := range t.NumField() {
		name, opts, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		out = append(out, field{name, i, opts == "omitempty"})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].name < out[j].name })
	fieldCache.Store(t, out)
	return out
}
