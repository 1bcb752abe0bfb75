package config

import (
	"reflect"
	"strings"
	"testing"
)

// TestExample: the shipped file says exactly the defaults, every one of them.
func TestExample(t *testing.T) {
	c, err := Parse("postern.toml", []byte(Example))
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Image.Pinned, want.Container.Ulimits = []string{}, []string{}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("example %+v\ndefault %+v", c, want)
	}
	v := reflect.TypeFor[Config]()
	for i := range v.NumField() {
		f := v.Field(i)
		if f.Type.Kind() != reflect.Struct {
			continue
		}
		for j := range f.Type.NumField() {
			if key := f.Type.Field(j).Tag.Get("toml"); !strings.Contains(Example, "\n"+key+" = ") {
				t.Errorf("the example does not say %s.%s", f.Tag.Get("toml"), key)
			}
		}
	}
	if c, err := Parse("x", []byte(Starter("restricted"))); err != nil || c.Profile != "restricted" {
		t.Error(c.Profile, err)
	}
}

func TestErrors(t *testing.T) {
	for text, want := range map[string]string{
		"\n\n[streem]\naddress = \"1.2.3.4:5\"":   `postern.toml: unknown key "streem" (line 3); did you mean "stream"?`,
		"[image]\npined = []":                     `postern.toml: unknown key "pined" in [image] (line 2); did you mean "pinned"?`,
		"proflie = \"x\"":                         `postern.toml: unknown key "proflie" (line 1); did you mean "profile"?`,
		"profile = \"base\"":                      `postern.toml: profile = "base": must be one of`,
		"profile = 3":                             `postern.toml: line 1: profile: want a string, not an integer`,
		"profile =":                               `postern.toml: line 1:`,
		"[stream]\naddress = \"localhost\"":       `stream.address = "localhost"`,
		"[kubelet]\nroot = \"../x\"":              `kubelet.root`,
		"[stop]\non_stop = \"leaev\"":             `did you mean "leave"?`,
		"[users]\nbase = 0":                       `users.base = 0: must be from 1000`,
		"[policy]\npack = \"a\"\ndir = \"/b\"":    `exclude one another`,
		"[image]\nshort_names = \"x\"\nfoo = 1\n": `unknown key "foo" in [image] (line 3)`,
	} {
		_, err := Parse("postern.toml", []byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}
