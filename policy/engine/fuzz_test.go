package engine

import (
	"context"
	"reflect"
	"strings"
	"testing"

	"github.com/postern-cri/postern/policy/input"
	"github.com/postern-cri/postern/policy/rego"
)

// source of a fuzzed document: bytes that decide what each field is.
type bits struct{ b []byte }

func (s *bits) next() byte {
	if len(s.b) == 0 {
		return 0
	}
	c := s.b[0]
	s.b = s.b[1:]
	return c
}

// words are strings that rules look for, and strings that trouble them.
var words = strings.Fields(`CreateContainer RunPodSandbox Exec PullImage StopContainer node pod container target
	host_path pod_volumes volumes/ volumes/kubernetes.io~nfs/a volumes volumes/x runtime_default unconfined localhost
	SYS_ADMIN NET_RAW verified accepted-unsigned resolve registry.example.com/a % %s %d [ ] * \ / . ~ registry.example.com`)

// fill sets v from s.
func fill(s *bits, v reflect.Value, depth int) {
	switch v.Kind() {
	case reflect.Pointer:
		if s.next()%4 != 0 {
			v.Set(reflect.New(v.Type().Elem()))
			fill(s, v.Elem(), depth+1)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			fill(s, v.Field(i), depth+1)
		}
	case reflect.Slice:
		n := int(s.next() % 4)
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			fill(s, v.Index(i), depth+1)
		}
	case reflect.Map:
		m := map[string]string{}
		for range s.next() % 3 {
			m[word(s)] = word(s)
		}
		v.Set(reflect.ValueOf(m))
	case reflect.String:
		v.SetString(word(s))
	case reflect.Bool:
		v.SetBool(s.next()&1 == 1)
	case reflect.Int32, reflect.Int64:
		v.SetInt(int64(int8(s.next())))
	default:
		v.SetUint(uint64(s.next()))
	}
}

func word(s *bits) string {
	switch c := s.next(); {
	case int(c) < len(words):
		return words[c]
	case c < 128:
		return ""
	default:
		n := min(int(c-128), len(s.b), 12)
		w := strings.ToValidUTF8(string(s.b[:n]), "?")
		s.b = s.b[n:]
		return w
	}
}

// FuzzPacks: no document makes a shipped rule fail or contradict itself, and the
// same document always gets the same answer.
func FuzzPacks(f *testing.F) {
	p := compile(f, rego.All())
	f.Add([]byte{})
	f.Add([]byte(strings.Repeat("\x01", 200)))
	seed := make([]byte, 400)
	for i := range seed {
		seed[i] = byte(i * 7)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, b []byte) {
		var d input.Document
		fill(&bits{b}, reflect.ValueOf(&d).Elem(), 0)
		first, err := p.eval(context.Background(), d.Value(), int64(len(b)), patience, true)
		if err != nil {
			t.Fatalf("%v of %s", err, d.Canonical())
		}
		second, err := p.eval(context.Background(), d.Value(), int64(len(b)), patience, true)
		if err != nil || !reflect.DeepEqual(first, second) {
			t.Fatalf("%v: %+v and then %+v", err, first, second)
		}
	})
}

// FuzzPolicyText: no text makes the compiler panic.
func FuzzPolicyText(f *testing.F) {
	for _, b := range rego.All() {
		f.Add(b)
	}
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _ = Compile(context.Background(), Files{"a.rego": b})
	})
}
