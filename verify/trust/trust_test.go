package trust

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func key(t *testing.T) []byte {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&k.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func load(t *testing.T, text string) (*Config, error) {
	t.Helper()
	dir := t.TempDir()
	os.Mkdir(filepath.Join(dir, "trust.d"), 0o755)
	a, b := key(t), key(t)
	for name, content := range map[string][]byte{"trust.toml": []byte(text), "trust.d/a.pub": a, "trust.d/b.pub": b, "trust.d/a2.pub": a, "trust.d/junk": []byte("x"), "out.pub": b} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return Load(filepath.Join(dir, "trust.toml"))
}

const two = "[authorities.a]\nkeys = [\"trust.d/a.pub\"]\n[authorities.b]\nkeys = [\"trust.d/b.pub\"]\n"

func rule(more string) string {
	return two + "[[rules]]\nscope = [\"r.example/**\"]\n" + more
}

func TestLoad(t *testing.T) {
	c, err := load(t, rule("verify = \"index\"\nidentity = { type = \"remap\", from = \"r.example\", to = \"o.example\" }\nthreshold = { of = [\"a\", \"b\"], need = 2, required = [\"a\"] }\n"))
	if err != nil || c.Accept || len(c.Rules) != 1 || c.Rules[0].Need != 2 {
		t.Fatalf("%+v %v", c, err)
	}
	need := "threshold = { of = [\"a\"], need = 1 }\n"
	for name, tt := range map[string][2]string{
		"unknown key":       {"defualt = \"reject\"", "defualt"},
		"unknown inner key": {rule(need + "identity = { typ = \"x\" }"), "identity.typ"},
		"default":           {"default = \"maybe\"", "maybe"},
		"one key twice":     {"[authorities.a]\nkeys = [\"trust.d/a.pub\"]\n[authorities.b]\nkeys = [\"trust.d/a2.pub\"]", "same key"},
		"no key":            {"[authorities.a]\nkeys = []", "no keys"},
		"key outside":       {"[authorities.a]\nkeys = [\"out.pub\"]", "trust.d/<file>"},
		"key by dots":       {"[authorities.a]\nkeys = [\"trust.d/../out.pub\"]", "trust.d/<file>"},
		"not a key":         {"[authorities.a]\nkeys = [\"trust.d/junk\"]", "junk"},
		"need 0":            {rule("threshold = { of = [\"a\"], need = 0 }"), "need = 0"},
		"need too many":     {rule("threshold = { of = [\"a\"], need = 2 }"), "need = 2"},
		"of twice":          {rule("threshold = { of = [\"a\", \"a\"], need = 2 }"), "twice"},
		"unknown authority": {rule("threshold = { of = [\"c\"], need = 1 }"), "unknown"},
		"required outside":  {rule("threshold = { of = [\"a\"], need = 1, required = [\"b\"] }"), "required"},
		"inner double star": {two + "[[rules]]\nscope = [\"r/**/x\"]\n" + need, "**"},
		"no scope":          {two + "[[rules]]\n" + need, "scope"},
		"identity":          {rule(need + "identity = { type = \"any\" }"), "identity"},
		"exact without":     {rule(need + "identity = { type = \"exactRepository\" }"), "identity"},
		"verify":            {rule(need + "verify = \"all\""), "verify"},
	} {
		if _, err := load(t, tt[0]); err == nil || !strings.Contains(err.Error(), tt[1]) {
			t.Errorf("%s: got %v, want %q", name, err, tt[1])
		}
	}
}

func TestScopes(t *testing.T) {
	c := &Config{Rules: []Rule{{Scope: []string{"**"}}, {Scope: []string{"r.example/**"}}, {Scope: []string{"r.example/team-*/app"}},
		{Scope: []string{"r.example/team-1/app"}}, {Scope: []string{"r.example:5000/x*z/**", "other.example/*"}}}}
	for repo, want := range map[string]int{
		"x.example/a": 0, "r.example/a": 1, "r.example/a/b/c": 1, "r.example/team-2/app": 2, "r.example/team-1/app": 3,
		"r.example.evil.example/a": 0, "r.example:5000/xyz/a": 4, "r.example:5000/xyz": 0, "other.example/a": 4, "other.example/a/b": 0, "r.example/team-1/app/b": 1,
	} {
		if r := c.Rule(repo); r != &c.Rules[want] {
			t.Errorf("%s: got %+v, want rule %d", repo, r, want)
		}
	}
	if (&Config{Rules: c.Rules[1:]}).Rule("x.example/a") != nil {
		t.Error("a rule covers what is not in its scope")
	}
}

func TestIdentity(t *testing.T) {
	match, exact, remap := Identity{Type: "matchRepository"}, Identity{Type: "exactRepository", Repository: "o.example/app"}, Identity{Type: "remap", From: "mirror.local/o", To: "o.example"}
	for _, tt := range []struct {
		i            Identity
		signed, repo string
		want         bool
	}{
		{match, "r.example/app", "r.example/app", true},
		{match, "r.example/app:1.2", "r.example/app", true},
		{match, "r.example:5000/app:1", "r.example:5000/app", true},
		{match, "index.docker.io/library/nginx", "docker.io/library/nginx", true},
		{match, "r.example/app2", "r.example/app", false},
		{match, "", "r.example/app", false},
		{exact, "o.example/app", "mirror.local/x", true},
		{exact, "o.example/other", "mirror.local/x", false},
		{remap, "o.example/team/app", "mirror.local/o/team/app", true},
		{remap, "o.example/team/app", "mirror.local/other/team/app", false},
		{remap, "r.example/app", "r.example/app", true},
		{remap, "o.example.evil/app", "mirror.local/o.evil/app", false},
	} {
		if got := tt.i.Allows(tt.signed, tt.repo); got != tt.want {
			t.Errorf("%+v signed %q repo %q: %v", tt.i, tt.signed, tt.repo, got)
		}
	}
}

// A key that can be computed from its public half vouches for nothing.
func TestWeakKeys(t *testing.T) {
	ec := func(c elliptic.Curve) any {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return &k.PublicKey
	}
	modulus := func(bits uint) any { return &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), bits-1), E: 65537} }
	ed, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for what, key := range map[string]any{"P-224": ec(elliptic.P224()), "RSA 1024": modulus(1024), "RSA 2047": modulus(2047),
		"RSA 16384": modulus(16384), "another type": "key"} {
		if strong(key) == nil {
			t.Errorf("%s was accepted", what)
		}
	}
	for what, key := range map[string]any{"P-256": ec(elliptic.P256()), "P-521": ec(elliptic.P521()), "RSA 2048": modulus(2048), "Ed25519": ed} {
		if err := strong(key); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}
