// Package verify judges whether an image may be let in: it checks that index,
// manifest and configuration hang together, finds the rule of trust.toml for the
// repository, and counts the authorities whose signatures are good, speak of
// these very bytes and were made for this repository.
//
// It runs in a process that dies after one image, has no network and no secret,
// and whose uid alone can write verification records.
package verify

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/postern-cri/postern/privsep/record"
	"github.com/postern-cri/postern/runtime/image/manifest"
	"github.com/postern-cri/postern/verify/evidence"
	"github.com/postern-cri/postern/verify/trust"
)

// Code says why an image was refused.
type Code string

// Codes. All are definitive: the same bytes will be refused again.
const (
	Unsigned         Code = "UNSIGNED"
	KeyMismatch      Code = "KEY_MISMATCH"
	DigestMismatch   Code = "DIGEST_MISMATCH"
	IdentityMismatch Code = "IDENTITY_MISMATCH"
	Threshold        Code = "THRESHOLD"
	Revoked          Code = "REVOKED"
	TooLarge         Code = "EVIDENCE_TOO_LARGE"
	Invalid          Code = "INVALID" // the image itself, not its signatures
)

// Failure is a definitive no.
type Failure struct {
	Code   Code
	Reason string
}

// Error returns the code with the reason.
func (f *Failure) Error() string { return string(f.Code) + " " + f.Reason }

func fail(code Code, format string, args ...any) *Failure {
	return &Failure{code, fmt.Sprintf(format, args...)}
}

// Judge returns the verification record for the job's image, or why there is
// none.
func Judge(c *trust.Config, epoch string, j *evidence.Job, now time.Time) (*record.Record, *Failure) {
	r, digests, err := compose(j)
	if err != nil {
		return nil, fail(Invalid, "%v", err)
	}
	r.Epoch, r.VerifiedAt = epoch, now.UTC().Format(time.RFC3339)
	for _, d := range []string{r.Manifest, r.Index} {
		if d != "" && slices.Contains(c.Revoked.Digests, d) {
			return nil, fail(Revoked, "%s is revoked", d)
		}
	}
	rule := c.Rule(j.Repository)
	if rule == nil {
		if c.Accept {
			r.Status = record.AcceptedUnsigned
			return r, nil
		}
		return nil, fail(Unsigned, "no rule of trust.toml covers %s and default is reject", j.Repository)
	}
	if j.TooMany {
		return nil, fail(TooLarge, "more than %d signatures or %d bytes of them", evidence.MaxSignatures, evidence.MaxBytes)
	}
	switch {
	case rule.Verify == "index" && r.Index == "":
		return nil, fail(Unsigned, "the rule for %s wants the signature of an index, and this image has none", j.Repository)
	case rule.Verify == "index":
		digests = []string{r.Index}
	case rule.Verify == "manifest":
		digests = []string{r.Manifest}
	}
	return r, count(c, rule, j, r, digests)
}

// count fills in the authorities that vouch for one of the digests.
func count(c *trust.Config, rule *trust.Rule, j *evidence.Job, r *record.Record, digests []string) *Failure {
	found := map[string]bool{}
	worst := fail(Unsigned, "no signature found")
	for i := range j.Signatures {
		s := &j.Signatures[i]
		a, key := signer(c, rule, s)
		if a == nil {
			note(worst, KeyMismatch, "%d signature(s) found, none by a key of these authorities", len(j.Signatures))
			continue
		}
		p, err := parsePayload(s.Payload)
		switch {
		case err != nil:
			note(worst, DigestMismatch, "signed by %s, but %v", a.Name, err)
		case slices.Contains(c.Revoked.Keys, key.ID):
			note(worst, Revoked, "signed by a revoked key of %s", a.Name)
		case !slices.Contains(digests, p.Critical.Image.Digest):
			note(worst, DigestMismatch, "signed by %s, but for %.80q", a.Name, p.Critical.Image.Digest)
		case !rule.Identity.Allows(p.Critical.Identity.Reference, j.Repository):
			note(worst, IdentityMismatch, "signed by %s, but as %.200q", a.Name, p.Critical.Identity.Reference)
		default:
			sum := sha256.Sum256(s.Payload)
			r.Evidence = append(r.Evidence, "sha256:"+hex.EncodeToString(sum[:]))
			if !found[a.Name] {
				found[a.Name] = true
				r.Authorities = append(r.Authorities, record.Authority{Name: a.Name, Type: "key", Identity: key.ID})
			}
		}
	}
	sort.Slice(r.Authorities, func(i, k int) bool { return r.Authorities[i].Name < r.Authorities[k].Name })
	tried := "; tried authorities: " + strings.Join(rule.Of, ", ")
	for _, n := range rule.Required {
		if !found[n] && len(found) > 0 {
			return fail(Threshold, "authority %s is required and has not signed%s", n, tried)
		}
	}
	if len(found) >= rule.Need {
		r.Status = record.Verified
		return nil
	}
	if len(found) > 0 {
		return fail(Threshold, "%d of %d authorities have signed%s", len(found), rule.Need, tried)
	}
	worst.Reason += tried
	return worst
}

// order ranks failures by how close the signature came: what is reported is the
// nearest miss, which is what an operator can mend.
var order = []Code{Unsigned, KeyMismatch, DigestMismatch, IdentityMismatch, Revoked}

func note(f *Failure, code Code, format string, args ...any) {
	if slices.Index(order, code) > slices.Index(order, f.Code) {
		*f = *fail(code, format, args...)
	}
}

// signer returns the authority of the rule whose key made the signature.
func signer(c *trust.Config, rule *trust.Rule, s *evidence.Signature) (*trust.Authority, *trust.Key) {
	for _, n := range rule.Of {
		a := c.Authorities[n]
		for i := range a.Keys {
			if good(a.Keys[i].Verifier, s) {
				return a, &a.Keys[i]
			}
		}
	}
	return nil, nil
}

// compose computes every digest from the job's bytes and checks that the image
// is one: the index lists the manifest, the manifest names the configuration,
// and that has a diffID for every layer.
func compose(j *evidence.Job) (*record.Record, []string, error) {
	r := &record.Record{Schema: record.Schema, Manifest: manifest.Digest(j.Manifest), Config: manifest.Digest(j.Config), Repository: j.Repository}
	digests := []string{r.Manifest}
	m, _, err := manifest.Parse(j.Manifest, j.Type)
	if err != nil {
		return nil, nil, err
	}
	if m == nil {
		return nil, nil, fmt.Errorf("%s is an index, not a manifest", r.Manifest)
	}
	if err := m.Check(); err != nil {
		return nil, nil, err
	}
	if len(j.Index) > 0 {
		_, i, err := manifest.Parse(j.Index, j.IndexType)
		if err != nil {
			return nil, nil, err
		}
		r.Index = manifest.Digest(j.Index)
		if i == nil || !i.Has(r.Manifest) {
			return nil, nil, fmt.Errorf("index %s does not list %s", r.Index, r.Manifest)
		}
		digests = append(digests, r.Index)
	}
	if m.Config.Digest != r.Config {
		return nil, nil, fmt.Errorf("manifest %s names configuration %s, not %s", r.Manifest, m.Config.Digest, r.Config)
	}
	diffIDs, err := ids(m, j.Config)
	if err != nil {
		return nil, nil, err
	}
	if len(diffIDs) != len(m.Layers) {
		return nil, nil, fmt.Errorf("%d layers, but %d diffIDs", len(m.Layers), len(diffIDs))
	}
	for k, l := range m.Layers {
		r.Layers = append(r.Layers, record.Layer{Digest: l.Digest, DiffID: diffIDs[k], Size: l.Size})
	}
	return r, digests, nil
}

// ids name the layers: by what an image's configuration says of their content, or
// by what an artifact's files are.
func ids(m *manifest.Manifest, config []byte) ([]string, error) {
	if !m.Artifact() {
		_, diffIDs, err := manifest.ParseConfig(config)
		return diffIDs, err
	}
	names, err := m.Files()
	if err != nil {
		return nil, err
	}
	for k, l := range m.Layers {
		names[k] = manifest.FileID(l.Digest, names[k])
	}
	return names, nil
}
