// Package record is the verification record of an image: the verify uid writes
// it, O_EXCL and 0444, into a directory that only it can write, and the helper
// reads it before every create. On one host, file ownership is the signature.
package record

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// Schema names the record's version. Later versions only add fields.
const Schema = "postern.record/v1"

// MaxSize is the most bytes of a record.
const MaxSize = 64 << 10

// Status says how the image was let in.
type Status string

// Statuses.
const (
	Verified         Status = "verified"          // the trust policy's signatures were found good
	AcceptedUnsigned Status = "accepted-unsigned" // the trust policy's default is accept
)

// Record is what was verified about one image manifest.
type Record struct {
	Schema      string      `json:"schema"`
	Manifest    string      `json:"manifest"`        // sha256:<hex>
	Index       string      `json:"index,omitempty"` // the index it was chosen from
	Config      string      `json:"config"`          // sha256:<hex>
	Repository  string      `json:"repository"`      // that it was verified for
	Layers      []Layer     `json:"layers"`          // lowest first
	Status      Status      `json:"status"`          //
	Authorities []Authority `json:"authorities,omitempty"`
	Epoch       string      `json:"epoch"`              // Epoch of the trust configuration
	VerifiedAt  string      `json:"verified_at"`        // RFC 3339
	Evidence    []string    `json:"evidence,omitempty"` // sha256 of each piece of evidence
}

// Layer is one layer of the image.
type Layer struct {
	Digest string `json:"digest"`  // of the blob as pulled
	DiffID string `json:"diff_id"` // of the uncompressed tar: names the EROFS file
	Size   int64  `json:"size"`    // of the blob
}

// Authority is one that vouched.
type Authority struct {
	Name     string `json:"name"`
	Type     string `json:"type"` // "key" today; "keyless" and others later
	Identity string `json:"identity"`
}

// Hex returns the hex part of a sha256 digest, or an error: names of files come
// from it, so nothing else may pass.
func Hex(digest string) (string, error) {
	h, ok := strings.CutPrefix(digest, "sha256:")
	if !ok || len(h) != 64 || strings.Trim(h, "0123456789abcdef") != "" {
		return "", fmt.Errorf("digest %q is not sha256:<64 lower-case hex digits>", digest)
	}
	return h, nil
}

// Decode decodes and checks a record. Unknown fields are kept out of the way:
// a newer writer may have added some.
func Decode(b []byte) (*Record, error) {
	var r Record
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("decoding a verification record: %w", err)
	}
	if r.Schema != Schema {
		return nil, fmt.Errorf("verification record: schema %q, want %q", r.Schema, Schema)
	}
	if r.Status != Verified && r.Status != AcceptedUnsigned {
		return nil, fmt.Errorf("verification record: unknown status %q", r.Status)
	}
	if len(r.Layers) == 0 || len(r.Layers) > 127 {
		return nil, fmt.Errorf("verification record: %d layers, want 1 to 127", len(r.Layers))
	}
	for _, d := range []string{r.Manifest, r.Config} {
		if _, err := Hex(d); err != nil {
			return nil, fmt.Errorf("verification record: %w", err)
		}
	}
	for _, l := range r.Layers {
		if _, err := Hex(l.DiffID); err != nil {
			return nil, fmt.Errorf("verification record: %w", err)
		}
		if _, err := Hex(l.Digest); err != nil {
			return nil, fmt.Errorf("verification record: %w", err)
		}
	}
	return &r, nil
}

// Encode is Decode's inverse.
func (r *Record) Encode() ([]byte, error) { return json.Marshal(r) }

// OpenOwned opens name beneath dirfd for reading and checks that it is a regular
// file with one link, owned by uid, that nobody may write.
//
// Expected syscalls: openat2, fstat.
func OpenOwned(dirfd int, name string, uid uint32) (*os.File, error) {
	fd, err := unix.Openat2(dirfd, name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NOFOLLOW | unix.O_NONBLOCK,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "openat2", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		f.Close()
		return nil, fmt.Errorf("fstat %s: %w", name, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink != 1 || st.Uid != uid || st.Mode&0o222 != 0 {
		f.Close()
		return nil, fmt.Errorf("%s: mode %o, %d links, uid %d: want a read-only regular file of uid %d with one link", name, st.Mode, st.Nlink, st.Uid, uid)
	}
	return f, nil
}

// Read reads the record of the image with this manifest digest. It returns the
// record and its bytes; os.ErrNotExist says that there is none.
func Read(dirfd int, manifest string, uid uint32) (*Record, []byte, error) {
	h, err := Hex(manifest)
	if err != nil {
		return nil, nil, err
	}
	f, err := OpenOwned(dirfd, h+".json", uid)
	if err != nil {
		return nil, nil, fmt.Errorf("verification record of %s: %w", manifest, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return nil, nil, fmt.Errorf("reading the verification record of %s: %w", manifest, err)
	}
	if len(b) > MaxSize {
		return nil, nil, fmt.Errorf("verification record of %s: longer than %d bytes", manifest, MaxSize)
	}
	r, err := Decode(b)
	if err != nil {
		return nil, nil, err
	}
	if r.Manifest != manifest {
		return nil, nil, fmt.Errorf("verification record of %s speaks of %s", manifest, r.Manifest)
	}
	return r, b, nil
}

// Epoch names a state of the trust configuration: the SHA-256 of the trust file
// and of every file in the trust directory, by name. A record of another epoch
// is stale: what it says was judged by other rules.
func Epoch(trustFile, trustDir string) (string, error) {
	h := sha256.New()
	add := func(name, path string) error {
		b, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("reading the trust configuration: %w", err)
		}
		s := sha256.Sum256(b)
		fmt.Fprintf(h, "%s\x00%x\n", name, s)
		return nil
	}
	if err := add("trust.toml", trustFile); err != nil {
		return "", err
	}
	ents, err := os.ReadDir(trustDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("reading the trust directory: %w", err)
	}
	var names []string
	for _, e := range ents {
		// A key may be a symlink, and then it is what the link leads to that counts.
		if st, err := os.Stat(filepath.Join(trustDir, e.Name())); err == nil && st.Mode().IsRegular() {
			names = append(names, e.Name())
		}
	}
	sort.Strings(names)
	for _, n := range names {
		if err := add("trust.d/"+n, filepath.Join(trustDir, n)); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
