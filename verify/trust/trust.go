// Package trust reads trust.toml: who may vouch for which images. Decoding is
// strict, because a key that is misspelt and ignored is a rule that does not
// hold.
package trust

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
)

// Config is a checked trust.toml with the keys that it names.
type Config struct {
	Accept      bool // images that no rule covers, or that are unsigned, are let in
	Authorities map[string]*Authority
	Rules       []Rule
	Revoked     Revoked
}

// Authority is one that can vouch, by any one of its keys.
type Authority struct {
	Name string
	Keys []Key
}

// Key is a public key.
type Key struct {
	Name     string // the file's
	ID       string // SHA-256 of its DER encoding
	Verifier signature.Verifier
}

// Rule says what images in its scope need.
type Rule struct {
	Scope    []string
	Identity Identity
	Of       []string
	Need     int
	Required []string
	Verify   string // "index", "manifest" or "either"
}

// Identity says which docker-reference a signature must bear.
type Identity struct {
	Type       string `toml:"type"`       // matchRepository (default), exactRepository or remap
	Repository string `toml:"repository"` // exactRepository: this one
	From       string `toml:"from"`       // remap: images pulled from beneath here …
	To         string `toml:"to"`         // … are signed as beneath there
}

// Revoked are keys (by ID) and images (by digest) that count no longer.
type Revoked struct {
	Keys    []string `toml:"keys"`
	Digests []string `toml:"digests"`
}

type file struct {
	Default     string `toml:"default"`
	Authorities map[string]struct {
		Keys []string `toml:"keys"`
	} `toml:"authorities"`
	Rules []struct {
		Scope     []string `toml:"scope"`
		Verify    string   `toml:"verify"`
		Identity  Identity `toml:"identity"`
		Threshold struct {
			Of       []string `toml:"of"`
			Need     int      `toml:"need"`
			Required []string `toml:"required"`
		} `toml:"threshold"`
	} `toml:"rules"`
	Revoked Revoked `toml:"revoked"`
}

// Load reads the trust file at path; keys are read from beneath its directory.
func Load(path string) (*Config, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the trust configuration: %w", err)
	}
	var f file
	md, err := toml.Decode(string(b), &f)
	if err != nil {
		return nil, fmt.Errorf("%s: %s", filepath.Base(path), decodeError(err))
	}
	if u := md.Undecoded(); len(u) > 0 {
		return nil, fmt.Errorf("%s: unknown key %q%s", filepath.Base(path), u[0].String(), knownKeys(u[0]))
	}
	c, err := f.config(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Base(path), err)
	}
	return c, nil
}

func (f *file) config(dir string) (*Config, error) {
	c := &Config{Authorities: map[string]*Authority{}, Revoked: f.Revoked}
	switch f.Default {
	case "accept":
		c.Accept = true
	case "reject", "":
	default:
		return nil, fmt.Errorf("default = %q: want \"reject\" or \"accept\"", f.Default)
	}
	owner := map[string]string{}
	names := make([]string, 0, len(f.Authorities))
	for n := range f.Authorities {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, name := range names {
		a := &Authority{Name: name}
		if len(f.Authorities[name].Keys) == 0 {
			return nil, fmt.Errorf("authorities.%s.keys: has no keys", name)
		}
		for _, k := range f.Authorities[name].Keys {
			key, err := loadKey(dir, k)
			if err != nil {
				return nil, fmt.Errorf("authorities.%s.keys: %w", name, err)
			}
			// One key under two names would meet a threshold of two.
			if other, ok := owner[key.ID]; ok && other != name {
				return nil, fmt.Errorf("authorities %q and %q have the same key %s", other, name, k)
			}
			owner[key.ID] = name
			a.Keys = append(a.Keys, key)
		}
		c.Authorities[name] = a
	}
	for i, r := range f.Rules {
		rule := Rule{Scope: r.Scope, Identity: r.Identity, Of: r.Threshold.Of, Need: r.Threshold.Need, Required: r.Threshold.Required, Verify: r.Verify}
		if err := c.check(&rule); err != nil {
			return nil, fmt.Errorf("rules[%d].%w", i+1, err)
		}
		c.Rules = append(c.Rules, rule)
	}
	return c, nil
}

func (c *Config) check(r *Rule) error {
	if len(r.Scope) == 0 {
		return errors.New("scope: is missing; name repositories, like \"registry.example.com/**\"")
	}
	for _, s := range r.Scope {
		if s == "" || strings.ContainsAny(s, " ?[]\\@") {
			return fmt.Errorf("scope: %q: want a repository, with * for part of a name and a final ** for all beneath", s)
		}
		if i := strings.Index(s, "**"); i >= 0 && (i != len(s)-2 || i > 0 && s[i-1] != '/') {
			return fmt.Errorf("scope: %q: ** can only stand at the end, for whole names", s)
		}
	}
	seen := map[string]bool{}
	for _, n := range r.Of {
		if c.Authorities[n] == nil || seen[n] {
			return fmt.Errorf("threshold.of: authority %q is unknown or named twice; the authorities are %s", n, strings.Join(c.names(), ", "))
		}
		seen[n] = true
	}
	for _, n := range r.Required {
		if !seen[n] {
			return fmt.Errorf("threshold.required: authority %q is not among \"of\"", n)
		}
	}
	if r.Need < 1 || r.Need > len(r.Of) {
		return fmt.Errorf("threshold.need = %d: want 1 to %d, the number of authorities in \"of\"", r.Need, len(r.Of))
	}
	switch r.Verify {
	case "":
		r.Verify = "either"
	case "index", "manifest", "either":
	default:
		return fmt.Errorf("verify = %q: want index, manifest or either", r.Verify)
	}
	i := &r.Identity
	switch {
	case i.Type == "" || i.Type == "matchRepository":
		i.Type = "matchRepository"
		if i.Repository+i.From+i.To == "" {
			return nil
		}
	case i.Type == "exactRepository" && i.Repository != "" && i.From+i.To == "":
		return nil
	case i.Type == "remap" && i.From != "" && i.To != "" && i.Repository == "":
		return nil
	}
	return fmt.Errorf("identity: type %q with these members: want matchRepository, exactRepository with repository, or remap with from and to", i.Type)
}

// strong says whether a key is of a kind and size that still vouches for
// something. (sigstore's own check is deprecated; what replaces it links the
// whole of a certificate authority.)
func strong(pub crypto.PublicKey) error {
	switch k := pub.(type) {
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < 2048 || n > 4096 {
			return fmt.Errorf("an RSA key of %d bits: want 2048 to 4096", n)
		}
		return nil
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() && k.Curve != elliptic.P521() {
			return fmt.Errorf("curve %s: want P-256, P-384 or P-521", k.Curve.Params().Name)
		}
		return nil
	case ed25519.PublicKey:
		return nil
	}
	return fmt.Errorf("a key of type %T: want RSA, ECDSA or Ed25519", pub)
}

// loadKey reads a PEM public key. It must lie in trust.d, so that changing it
// changes the epoch.
func loadKey(dir, name string) (Key, error) {
	if clean := filepath.Clean(name); clean != name || filepath.Dir(clean) != "trust.d" {
		return Key{}, fmt.Errorf("%q: want trust.d/<file>", name)
	}
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			err = errors.New("no such file; put the public key there")
		}
		return Key{}, fmt.Errorf("%s: %w", name, err)
	}
	pub, err := cryptoutils.UnmarshalPEMToPublicKey(b)
	if err != nil {
		return Key{}, fmt.Errorf("%s: %w", name, err)
	}
	if err := strong(pub); err != nil {
		return Key{}, fmt.Errorf("%s: %w", name, err)
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return Key{}, fmt.Errorf("%s: %w", name, err)
	}
	v, err := signature.LoadVerifier(pub, crypto.SHA256)
	if err != nil {
		return Key{}, fmt.Errorf("%s: %w", name, err)
	}
	return Key{Name: name, ID: fmt.Sprintf("sha256:%x", sha256.Sum256(der)), Verifier: v}, nil
}
