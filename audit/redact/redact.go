// Package redact takes secrets out of what policy and audit see. It runs before
// both, so that the recorded input is the evaluated input and a replay is exact.
//
// What it knows is heuristics, built to take too much rather than too little: a
// secret in an audit log is copied to every SIEM, and a word too few there costs
// nothing. Every function is idempotent and returns valid UTF-8, whatever it got:
// a record that was redacted twice is the record that was redacted once.
package redact

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// Mark stands where a secret was.
const Mark = "[redacted]"

const digestPrefix = "hmac:"

// Redactor redacts with one node key. It is safe for concurrent use.
type Redactor struct{ key []byte }

// New returns a Redactor whose digests are keyed by key, which must never leave
// the node: with it, short values could be guessed from their digests. Without a
// key values are marked and not digested.
func New(key []byte) *Redactor { return &Redactor{append([]byte(nil), key...)} }

// LoadKey reads the node key at path and makes one where there is none yet. The
// file is 0600 and belongs to whoever calls first.
//
// Expected syscalls: openat, read, write, fsync.
func LoadKey(path string) ([]byte, error) {
	key, err := os.ReadFile(path)
	if err == nil {
		if len(key) != 32 {
			return nil, fmt.Errorf("redaction key %s: %d bytes, want 32", path, len(key))
		}
		return key, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the redaction key: %w", err)
	}
	key = make([]byte, 32)
	rand.Read(key)
	f, err := os.CreateTemp(dirOf(path), ".key-*") // 0600
	if err != nil {
		return nil, fmt.Errorf("making the redaction key: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(key)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Link(f.Name(), path) // never replaces a key another process made
	}
	if errors.Is(err, fs.ErrExist) {
		return LoadKey(path)
	}
	if err != nil {
		return nil, fmt.Errorf("making the redaction key: %w", err)
	}
	return key, nil
}

func dirOf(path string) string {
	if i := strings.LastIndexByte(path, '/'); i > 0 {
		return path[:i]
	}
	return "."
}

// EnvDigest replaces the value of an environment variable by a digest under the
// node key: equal values have equal digests under one name, and nothing else can
// be learned. A value that is a digest already stays.
func (r *Redactor) EnvDigest(name, value string) string {
	if value == Mark || isDigest(value) {
		return value
	}
	if len(r.key) == 0 {
		return Mark
	}
	m := hmac.New(sha256.New, r.key)
	// The length keeps ("A", "BC") and ("AB", "C") apart.
	fmt.Fprintf(m, "env\x00%d\x00%s%s", len(name), name, value)
	return digestPrefix + hex.EncodeToString(m.Sum(nil))
}

func isDigest(s string) bool {
	h, ok := strings.CutPrefix(s, digestPrefix)
	return ok && len(h) == 64 && isHex(h)
}

// Value redacts the value that stands under key (an annotation, a label, a JSON
// field): all of it where the key says that it is a secret, else what String
// finds. It tells whether anything was taken.
func (r *Redactor) Value(key, value string) (string, bool) {
	if SecretKey(key) {
		if value == "" || value == Mark || value == "true" || value == "false" || isDigest(value) {
			return value, false
		}
		return Mark, true
	}
	if idKey(key) && isID(value) {
		return value, false
	}
	return r.String(value)
}

// URL redacts the user information and the secret query parameters of a URL or
// of an image reference.
func (r *Redactor) URL(u string) (string, bool) { return r.String(u) }

// String redacts what is recognised as a secret by its own looks, anywhere in s:
// keys and tokens of known shapes, PEM blocks but certificates and public keys,
// user information in URLs, "password=…" pairs, and words too random for a name.
func (r *Redactor) String(s string) (string, bool) {
	s = strings.ToValidUTF8(s, "\uFFFD")
	return fixed(s, scrub)
}

// fixed applies f until nothing changes, so that a second pass over the result
// changes nothing. A string that will not settle is taken as a whole.
func fixed(s string, f func(string) string) (string, bool) {
	out := s
	for range 6 {
		next := f(out)
		if next == out {
			return out, out != s
		}
		out = next
	}
	return Mark, true
}
