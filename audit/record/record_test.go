package record

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestStamped(t *testing.T) {
	m, err := Parse([]byte(`{"kind":"cri","seq":7,"writer":"root","method":"Exec","n":1.50,"z":{"b":1,"a":"<é>"},"decision":{"allow":false,"rule":"R"}}`))
	if err != nil {
		t.Fatal(err)
	}
	b, err := Stamped(m, Stamp{Seq: 3, Time: "t", BootID: "b", Writer: "front", Stage: "decision", Prev: "p"})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"boot_id":"b","decision":{"allow":false,"rule":"R"},"kind":"cri","method":"Exec","n":1.50,"prev":"p","schema":"postern.audit/v1","seq":3,"stage":"decision","time":"t","writer":"front","z":{"a":"<é>","b":1}}`
	if string(b) != want {
		t.Errorf("got  %s\nwant %s", b, want)
	}
	r, err := Decode(b)
	if err != nil || r.Seq != 3 || r.Writer != "front" || r.Decision.Rule != "R" {
		t.Errorf("%+v %v", r, err)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, s := range []string{
		``, `1`, `[]`, `{} {}`, `{"a":1,"a":2}`, `{"a":{"b":1,"b":2}}`, "{\"a\":\"\xff\"}", `{"a"`, `{"a":"` + strings.Repeat("x", MaxRecord) + `"}`,
		strings.Repeat(`{"a":`, 40) + `1` + strings.Repeat(`}`, 40),
	} {
		if _, err := Parse([]byte(s)); err == nil {
			t.Errorf("%.40q was taken", s)
		}
	}
}

func TestCut(t *testing.T) {
	m := map[string]any{"a": map[string]any{"b/c": []any{strings.Repeat("é", MaxString)}}, "s": "short"}
	Cut(m)
	s := m["a"].(map[string]any)["b/c"].([]any)[0].(string)
	if len(s) != MaxString || !utf8.ValidString(s) {
		t.Errorf("cut to %d bytes", len(s))
	}
	if l := m["truncated"].([]any); len(l) != 1 || l[0].(map[string]any)["pointer"] != "/a/b~1c/0" {
		t.Errorf("listed %v", l)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"a":[1,"x",{"b":null}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if err != nil {
			return
		}
		Cut(m)
		once, err := Stamped(m, Stamp{})
		if err != nil {
			return
		}
		m, err = Parse(once)
		if err != nil {
			t.Fatalf("%s: %v", once, err)
		}
		if twice, err := Stamped(m, Stamp{}); err != nil || string(twice) != string(once) {
			t.Fatalf("%s\n%s %v", once, twice, err)
		}
	})
}
