package config

import (
	"fmt"
	"reflect"
	"regexp"
	"strings"

	"github.com/BurntSushi/toml"
)

// unknown is the error for a key that is not known.
func unknown(name, text string, k toml.Key) error {
	where := ""
	if line := lineOf(text, k); line > 0 {
		where = fmt.Sprintf(" (line %d)", line)
	}
	table := ""
	if len(k) > 1 {
		table = " in [" + strings.Join(k[:len(k)-1], ".") + "]"
	}
	return fmt.Errorf("%s: unknown key %q%s%s%s", name, k[len(k)-1], table, where, meant(k[len(k)-1], known(k[:len(k)-1])))
}

var typeError = regexp.MustCompile(`^toml: (?:line (\d+) )?\(last key "([^"]*)"\): incompatible types: TOML value has type (\S+); destination has type (\S+)$`)

// wrongType says in an operator's words that a value is of the wrong type.
func wrongType(err error) string {
	m := typeError.FindStringSubmatch(err.Error())
	if m == nil {
		return strings.TrimPrefix(err.Error(), "toml: ")
	}
	word := func(t string) string {
		switch {
		case strings.HasPrefix(t, "int"):
			return "an integer"
		case t == "slice", strings.HasPrefix(t, "[]"):
			return "an array"
		case t == "map", t == "struct", t == "table", strings.HasPrefix(t, "map["):
			return "a table"
		}
		return "a " + t
	}
	return fmt.Sprintf("line %s: %s: want %s, not %s", m[1], m[2], word(m[4]), word(m[3]))
}

// lineOf finds the line where k is set or opened as a table. The decoder does not
// tell positions of keys.
func lineOf(text string, k toml.Key) int {
	table, found := "", 0
	for i, l := range strings.Split(text, "\n") {
		l = strings.TrimSpace(l)
		if strings.HasPrefix(l, "[") {
			table = strings.Trim(strings.SplitN(l, "#", 2)[0], "[] \t")
			if table == k.String() || strings.HasPrefix(table, k.String()+".") {
				return i + 1
			}
			continue
		}
		key, _, ok := strings.Cut(l, "=")
		key = strings.Trim(key, " \t\"'")
		if full := strings.TrimPrefix(table+"."+key, "."); ok && found == 0 && full == k.String() {
			found = i + 1
		}
	}
	return found
}

// known lists the keys of a table.
func known(table toml.Key) (keys []string) {
	t := reflect.TypeFor[Config]()
	for _, part := range table {
		for i := range t.NumField() {
			if t.Field(i).Tag.Get("toml") == part && t.Field(i).Type.Kind() == reflect.Struct {
				t = t.Field(i).Type
				break
			}
		}
	}
	for i := range t.NumField() {
		keys = append(keys, t.Field(i).Tag.Get("toml"))
	}
	return keys
}

// UnknownProfile is the error for a profile that is none of Profiles.
func UnknownProfile(name string) error {
	return fmt.Errorf("unknown profile %q: choose one of %s%s", name, strings.Join(Profiles, ", "), meant(name, Profiles))
}

// meant guesses which of names was meant by wrong.
func meant(wrong string, names []string) string {
	best, least := "", len(wrong)/2+1
	for _, n := range names {
		if d := distance(strings.ToLower(wrong), n); d < least {
			best, least = n, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

// distance counts the insertions, deletions, changes and swaps between a and b.
func distance(a, b string) int {
	d := make([][]int, len(a)+1)
	for i := range d {
		d[i] = make([]int, len(b)+1)
		d[i][0] = i
	}
	for j := range d[0] {
		d[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			d[i][j] = min(d[i-1][j]+1, d[i][j-1]+1, d[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d[i][j] = min(d[i][j], d[i-2][j-2]+1)
			}
		}
	}
	return d[len(a)][len(b)]
}

// Says tells whether text, which parsed, sets the top-level key.
func Says(text []byte, key string) bool { return lineOf(string(text), toml.Key{key}) > 0 }
