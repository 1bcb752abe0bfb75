package ceiling

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// The ceiling file is a strict subset of TOML: comments, [table], [[table]],
// and key = "string" | integer | true | false | ["array", "of", "strings"]. A
// full TOML reader is more code than the rest of this package, in a root
// process, for nothing that a ceiling needs.

// value is one parsed value with its line.
type value struct {
	line int
	v    any // string, int64, bool or []string
}

// table is one [name] or [[name]] with its keys.
type table struct {
	name  string
	line  int
	array bool // [[name]]
	keys  map[string]value
}

// parseFile splits a file into tables; the first has the name "".
func parseFile(name string, b []byte) ([]*table, error) {
	cur := &table{keys: map[string]value{}}
	tables := []*table{cur}
	single := map[string]bool{}
	lines := strings.Split(string(b), "\n")
	for i := 0; i < len(lines); i++ {
		at := i + 1
		l := strings.TrimSpace(stripComment(lines[i]))
		if l == "" {
			continue
		}
		if strings.HasPrefix(l, "[") {
			array := strings.HasPrefix(l, "[[")
			open, shut := "[", "]"
			if array {
				open, shut = "[[", "]]"
			}
			n := strings.TrimSpace(strings.TrimSuffix(strings.TrimPrefix(l, open), shut))
			if !strings.HasSuffix(l, shut) || n == "" || strings.ContainsAny(n, "[]\" ") {
				return nil, fmt.Errorf("%s: line %d: malformed table header %q", name, at, l)
			}
			if !array {
				if single[n] {
					return nil, fmt.Errorf("%s: line %d: table [%s] is there twice", name, at, n)
				}
				single[n] = true
			}
			cur = &table{name: n, line: at, array: array, keys: map[string]value{}}
			tables = append(tables, cur)
			continue
		}
		key, rest, ok := strings.Cut(l, "=")
		key, rest = strings.TrimSpace(key), strings.TrimSpace(rest)
		if !ok || key == "" || rest == "" || strings.Trim(key, "abcdefghijklmnopqrstuvwxyz_") != "" {
			return nil, fmt.Errorf("%s: line %d: want key = value, got %q", name, at, l)
		}
		for strings.HasPrefix(rest, "[") && !strings.HasSuffix(rest, "]") && i+1 < len(lines) {
			i++ // an array over several lines
			rest += " " + strings.TrimSpace(stripComment(lines[i]))
			rest = strings.TrimSpace(rest)
		}
		v, err := parseValue(rest)
		if err != nil {
			return nil, fmt.Errorf("%s: line %d: key %q: %w", name, at, key, err)
		}
		if _, ok := cur.keys[key]; ok {
			return nil, fmt.Errorf("%s: line %d: key %q is there twice", name, at, key)
		}
		cur.keys[key] = value{at, v}
	}
	return tables, nil
}

// stripComment cuts a # that is not inside a string.
func stripComment(l string) string {
	quoted, escaped := false, false
	for i := range len(l) {
		switch {
		case escaped:
			escaped = false
		case quoted && l[i] == '\\':
			escaped = true
		case l[i] == '"':
			quoted = !quoted
		case l[i] == '#' && !quoted:
			return l[:i]
		}
	}
	return l
}

func parseValue(s string) (any, error) {
	switch {
	case s == "true":
		return true, nil
	case s == "false":
		return false, nil
	case strings.HasPrefix(s, `"`):
		v, rest, err := parseString(s)
		if err == nil && rest != "" {
			err = fmt.Errorf("left-over %q behind the string", rest)
		}
		return v, err
	case strings.HasPrefix(s, "["):
		list := []string{}
		rest := strings.TrimSpace(s[1:])
		for rest != "]" {
			v, r, err := parseString(rest)
			if err != nil {
				return nil, fmt.Errorf("array of strings: %w", err)
			}
			list = append(list, v)
			rest = strings.TrimSpace(r)
			if after, ok := strings.CutPrefix(rest, ","); ok {
				rest = strings.TrimSpace(after)
			} else if rest != "]" {
				return nil, fmt.Errorf("array of strings: want , or ] before %q", rest)
			}
		}
		return list, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("%q is neither a string in double quotes, an integer, true, false nor an array of strings", s)
	}
	return n, nil
}

func parseString(s string) (v, rest string, err error) {
	q, err := strconv.QuotedPrefix(s)
	if err != nil || !strings.HasPrefix(q, `"`) {
		return "", "", fmt.Errorf("%q is not a string in double quotes", s)
	}
	v, err = strconv.Unquote(q)
	return v, s[len(q):], err
}

// reader takes the known keys out of a table; what is left over is unknown.
type reader struct {
	file  string
	t     *table
	known []string
	err   error
}

func (r *reader) fail(line int, format string, a ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%s: line %d: %s", r.file, line, fmt.Sprintf(format, a...))
	}
}

func get[T any](r *reader, key, kind string, into *T) {
	r.known = append(r.known, key)
	v, ok := r.t.keys[key]
	if !ok {
		return
	}
	got, ok := v.v.(T)
	if !ok {
		r.fail(v.line, "key %q is not %s", key, kind)
		return
	}
	*into = got
}

func (r *reader) str(key string, into *string)    { get(r, key, "a string", into) }
func (r *reader) num(key string, into *int64)     { get(r, key, "an integer", into) }
func (r *reader) flag(key string, into *bool)     { get(r, key, "true or false", into) }
func (r *reader) strs(key string, into *[]string) { get(r, key, "an array of strings", into) }

// done fails on a key that nobody took.
func (r *reader) done() error {
	for k, v := range r.t.keys {
		if !slices.Contains(r.known, k) {
			where := "at the top"
			if r.t.name != "" {
				where = "in [" + r.t.name + "]"
			}
			r.fail(v.line, "unknown key %q %s%s", k, where, meant(k, r.known))
		}
	}
	return r.err
}

// meant guesses which of names was meant by wrong.
func meant(wrong string, names []string) string {
	best, dist := "", 3
	for _, n := range names {
		if d := distance(wrong, n); d < dist {
			best, dist = n, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

// distance is the Levenshtein distance.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		prev := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := prev
			if a[i] != b[j] {
				cost++
			}
			prev = row[j+1]
			row[j+1] = min(cost, row[j]+1, prev+1)
		}
	}
	return row[len(b)]
}
