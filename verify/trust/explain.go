package trust

import (
	"fmt"
	"regexp"
	"sort"
	"strings"

	"github.com/BurntSushi/toml"
)

// tables has the keys of each table.
var tables = map[string]string{
	"":                "default, authorities, rules or revoked",
	"authorities":     "keys",
	"rules":           "scope, verify, identity or threshold",
	"rules.identity":  "type, repository, from or to",
	"rules.threshold": "of, need or required",
	"revoked":         "keys or digests",
}

// knownKeys says which keys could stand in the place of an unknown one.
func knownKeys(k toml.Key) string {
	table := strings.Join(k[:len(k)-1], ".")
	if len(k) > 2 && k[0] == "authorities" {
		table = k[0]
	}
	if t, ok := tables[table]; ok {
		return ": want " + t
	}
	return ""
}

var (
	typeError  = regexp.MustCompile(`^toml: (?:line (\d+) )?\(last key "([^"]*)"\): incompatible types: TOML value has type (\S+); destination has type (\S+)$`)
	parseError = regexp.MustCompile(`^toml: (line \d+)(?: \(last key "[^"]*"\))?: (.*)$`)
)

// decodeError says in an operator's words what is no TOML or has the wrong type.
func decodeError(err error) string {
	if m := typeError.FindStringSubmatch(err.Error()); m != nil {
		return fmt.Sprintf("line %s: %s: want %s, not %s", m[1], m[2], kind(m[4]), kind(m[3]))
	}
	if m := parseError.FindStringSubmatch(err.Error()); m != nil {
		return m[1] + ": " + m[2]
	}
	return err.Error()
}

func kind(t string) string {
	switch {
	case strings.HasPrefix(t, "int"):
		return "an integer"
	case t == "slice", strings.HasPrefix(t, "[]"):
		return "an array"
	case t == "string", t == "bool", t == "float":
		return "a " + t
	}
	return "a table"
}

// names lists the authorities.
func (c *Config) names() (list []string) {
	for n := range c.Authorities {
		list = append(list, n)
	}
	sort.Strings(list)
	return list
}
