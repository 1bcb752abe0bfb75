package redact

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// JSON redacts every string of one JSON value and returns it in canonical form
// (sorted keys, no white space, numbers as they were written) with the JSON
// pointers of what was taken.
func (r *Redactor) JSON(doc []byte) ([]byte, []string, error) {
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, nil, fmt.Errorf("redacting: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, nil, errors.New("redacting: bytes after the JSON value")
	}
	v, taken := r.Tree(v)
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, nil, fmt.Errorf("redacting: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), taken, nil
}

// Tree is JSON on a decoded value: maps, slices, strings, numbers. The result
// shares nothing that changed with v.
func (r *Redactor) Tree(v any) (any, []string) {
	var taken []string
	v = r.walk(v, "", "", &taken)
	return v, taken
}

func (r *Redactor) walk(v any, key, at string, taken *[]string) any {
	switch v := v.(type) {
	case string:
		out, cut := r.Value(key, v)
		if cut {
			*taken = append(*taken, at)
		}
		return out
	case map[string]any:
		if env(key) {
			return r.environ(v, at, taken)
		}
		if SecretKey(key) && len(v) > 0 {
			*taken = append(*taken, at)
			return Mark
		}
		return r.object(v, at, taken)
	case []any:
		return r.list(v, key, at, taken)
	case json.Number, float64, int, int64, uint64:
		if SecretKey(key) {
			*taken = append(*taken, at)
			return Mark
		}
	}
	return v
}

func (r *Redactor) object(m map[string]any, at string, taken *[]string) map[string]any {
	out := make(map[string]any, len(m))
	for _, k := range sorted(m) {
		// A secret can be the name of a label, too.
		name, cut := r.String(k)
		if cut {
			for n := 2; has(out, name) || has(m, name); n++ {
				name = Mark + "#" + strconv.Itoa(n)
			}
			*taken = append(*taken, at+"/"+escape(name))
		}
		out[name] = r.walk(m[k], k, at+"/"+escape(name), taken)
	}
	// {"name": "DB_PASSWORD", "value": "…"}: the key of the value is beside it.
	for _, n := range []string{"name", "key"} {
		name, _ := out[n].(string)
		value, ok := out["value"].(string)
		if ok && SecretKey(name) {
			var cut bool
			if out["value"], cut = r.Value(name, value); cut {
				*taken = append(*taken, at+"/value")
			}
		}
	}
	return out
}

func (r *Redactor) list(l []any, key, at string, taken *[]string) any {
	out := make([]any, len(l))
	argv := make([]string, 0, len(l))
	for i := range l {
		s, ok := l[i].(string)
		if !ok {
			argv = nil
			break
		}
		argv = append(argv, s)
	}
	switch {
	case env(key):
		for i := range l {
			out[i] = r.envEntry(l[i], at+"/"+strconv.Itoa(i), taken)
		}
	case argv != nil && !SecretKey(key):
		// Any list of strings is taken for a command: the rules find nothing in other lists.
		clean, changed := r.Argv(argv)
		for i := range clean {
			out[i] = clean[i]
			if idKey(key) && isID(argv[i]) {
				out[i] = argv[i]
				changed = slices.DeleteFunc(changed, func(j int) bool { return j == i })
			}
		}
		for _, i := range changed {
			*taken = append(*taken, at+"/"+strconv.Itoa(i))
		}
	default:
		for i := range l {
			out[i] = r.walk(l[i], key, at+"/"+strconv.Itoa(i), taken)
		}
	}
	return out
}

// env tells whether a field holds an environment.
func env(key string) bool {
	switch key {
	case "env", "envs", "environ", "environment", "Env", "env_values":
		return true
	}
	return false
}

func (r *Redactor) environ(m map[string]any, at string, taken *[]string) map[string]any {
	out := make(map[string]any, len(m))
	for _, k := range sorted(m) {
		name, _ := r.String(k)
		s, ok := m[k].(string)
		if !ok {
			s = fmt.Sprint(m[k])
		}
		out[name] = r.EnvDigest(k, s)
		if out[name] != s {
			*taken = append(*taken, at+"/"+escape(name))
		}
	}
	return out
}

func (r *Redactor) envEntry(v any, at string, taken *[]string) any {
	switch v := v.(type) {
	case string:
		name, value, ok := strings.Cut(v, "=")
		if !ok {
			out, cut := r.String(v)
			if cut {
				*taken = append(*taken, at)
			}
			return out
		}
		clean, _ := r.String(name)
		out := clean + "=" + r.EnvDigest(name, value)
		if out != v {
			*taken = append(*taken, at)
		}
		return out
	case map[string]any:
		name, _ := v["name"].(string)
		if name == "" {
			name, _ = v["key"].(string)
		}
		out := make(map[string]any, len(v))
		for _, k := range sorted(v) {
			s, ok := v[k].(string)
			if k == "value" && ok {
				out[k] = r.EnvDigest(name, s)
				if out[k] != s {
					*taken = append(*taken, at+"/value")
				}
				continue
			}
			kk, _ := r.String(k)
			out[kk] = r.walk(v[k], "", at+"/"+escape(kk), taken)
		}
		return out
	}
	return r.walk(v, "", at, taken)
}

func sorted(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

func has(m map[string]any, k string) bool { _, ok := m[k]; return ok }

func escape(k string) string {
	return strings.ReplaceAll(strings.ReplaceAll(k, "~", "~0"), "/", "~1")
}
