package verify

import (
	"context"
	"crypto"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1"
	"github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/postern-cri/postern/privsep/record"
	"github.com/postern-cri/postern/test/fixtures"
	"github.com/postern-cri/postern/verify/evidence"
	"github.com/postern-cri/postern/verify/trust"
)

const repo = "r.example/team/app"

// setup loads a trust configuration with the authorities a and b.
func setup(t testing.TB, rules string) (c *trust.Config, a, b *fixtures.Key) {
	t.Helper()
	dir := t.TempDir()
	a, b = fixtures.NewKey(), fixtures.NewKey()
	os.Mkdir(filepath.Join(dir, "trust.d"), 0o755)
	for name, content := range map[string]string{"trust.d/a.pub": string(a.Public()), "trust.d/b.pub": string(b.Public()),
		"trust.toml": "[authorities.a]\nkeys = [\"trust.d/a.pub\"]\n[authorities.b]\nkeys = [\"trust.d/b.pub\"]\n" + rules} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c, err := trust.Load(filepath.Join(dir, "trust.toml"))
	if err != nil {
		t.Fatal(err)
	}
	return c, a, b
}

func job(sigs ...evidence.Signature) (*evidence.Job, fixtures.Image) {
	i := fixtures.MakeImage(fixtures.Config{}, fixtures.MakeLayer(fixtures.File{Name: "x"}))
	return &evidence.Job{Requested: repo + ":1", Repository: repo, Manifest: i.Manifest, Type: fixtures.ManifestType, Config: i.Config, Signatures: sigs}, i
}

func signed(k *fixtures.Key, payload []byte) evidence.Signature {
	return evidence.Signature{Payload: payload, Signature: k.Sign(payload)}
}

const one = "[[rules]]\nscope = [\"r.example/**\"]\nthreshold = { of = [\"a\"], need = 1 }\n"

func TestJudge(t *testing.T) {
	_, image := job()
	good := fixtures.Payload(repo, image.Digest())
	both := "[[rules]]\nscope = [\"r.example/**\"]\nthreshold = { of = [\"a\", \"b\"], need = %d, required = [%s] }\n"
	for name, tt := range map[string]struct {
		rules string
		sign  func(a, b *fixtures.Key) []evidence.Signature
		want  Code
	}{
		"good":      {one, func(a, b *fixtures.Key) []evidence.Signature { return []evidence.Signature{signed(a, good)} }, ""},
		"none":      {one, func(a, b *fixtures.Key) []evidence.Signature { return nil }, Unsigned},
		"other key": {one, func(a, b *fixtures.Key) []evidence.Signature { return []evidence.Signature{signed(b, good)} }, KeyMismatch},
		"after junk": {one, func(a, b *fixtures.Key) []evidence.Signature {
			return []evidence.Signature{signed(b, good), signed(a, good)}
		}, ""},
		"not base64": {one, func(a, b *fixtures.Key) []evidence.Signature {
			return []evidence.Signature{{Payload: good, Signature: "%"}}
		}, KeyMismatch},
		"empty": {one, func(a, b *fixtures.Key) []evidence.Signature { return []evidence.Signature{{}} }, KeyMismatch},
		"two of two": {fmt.Sprintf(both, 2, ""), func(a, b *fixtures.Key) []evidence.Signature {
			return []evidence.Signature{signed(a, good), signed(b, good)}
		}, ""},
		"one twice": {fmt.Sprintf(both, 2, ""), func(a, b *fixtures.Key) []evidence.Signature {
			return []evidence.Signature{signed(a, good), signed(a, good)}
		}, Threshold},
		"required":   {fmt.Sprintf(both, 1, `"b"`), func(a, b *fixtures.Key) []evidence.Signature { return []evidence.Signature{signed(a, good)} }, Threshold},
		"other rule": {strings.Replace(one, "r.example", "s.example", 1), func(a, b *fixtures.Key) []evidence.Signature { return []evidence.Signature{signed(a, good)} }, Unsigned},
		"index only": {one + "verify = \"index\"\n", func(a, b *fixtures.Key) []evidence.Signature { return []evidence.Signature{signed(a, good)} }, Unsigned},
		"another tag": {one, func(a, b *fixtures.Key) []evidence.Signature {
			return []evidence.Signature{signed(a, fixtures.Payload(repo+":7", image.Digest()))}
		}, ""},
		"digest": {one, func(a, b *fixtures.Key) []evidence.Signature {
			return []evidence.Signature{signed(a, fixtures.Payload(repo, fixtures.Digest(nil)))}
		}, DigestMismatch},
		"identity": {one, func(a, b *fixtures.Key) []evidence.Signature {
			return []evidence.Signature{signed(a, fixtures.Payload("r.example/other", image.Digest()))}
		}, IdentityMismatch},
		"payload with a member twice": {one, func(a, b *fixtures.Key) []evidence.Signature {
			return []evidence.Signature{signed(a, []byte(strings.Replace(string(good), `"docker-manifest-digest"`, `"docker-manifest-digest":"x","docker-manifest-digest"`, 1)))}
		}, DigestMismatch},
		"revoked digest": {one + "[revoked]\ndigests = [\"" + image.Digest() + "\"]\n", func(a, b *fixtures.Key) []evidence.Signature { return []evidence.Signature{signed(a, good)} }, Revoked},
	} {
		t.Run(name, func(t *testing.T) {
			c, a, b := setup(t, tt.rules)
			j, _ := job(tt.sign(a, b)...)
			r, f := Judge(c, "epoch", j, time.Now())
			switch {
			case tt.want == "" && f != nil:
				t.Error(f)
			case tt.want == "" && (r.Status != record.Verified || r.Manifest != image.Digest() || len(r.Authorities) == 0):
				t.Errorf("%+v", r)
			case tt.want != "" && (f == nil || f.Code != tt.want):
				t.Errorf("got %v, want %s", f, tt.want)
			}
		})
	}
}

func TestRevokedKey(t *testing.T) {
	c, a, _ := setup(t, one)
	j, i := job()
	j.Signatures = []evidence.Signature{signed(a, fixtures.Payload(repo, i.Digest()))}
	c.Revoked.Keys = []string{c.Authorities["a"].Keys[0].ID}
	if _, f := Judge(c, "", j, time.Now()); f == nil || f.Code != Revoked {
		t.Errorf("%v", f)
	}
}

// TestPartsMustHangTogether: each of these is another image than was signed.
func TestPartsMustHangTogether(t *testing.T) {
	c, a, _ := setup(t, one)
	j, i := job()
	other := fixtures.MakeImage(fixtures.Config{User: "1"}, i.Layers...)
	sign := func(d string) []evidence.Signature { return []evidence.Signature{signed(a, fixtures.Payload(repo, d))} }
	index := fixtures.MakeIndex(other)
	for name, bad := range map[string]*evidence.Job{
		"configuration of another":  {Repository: repo, Manifest: j.Manifest, Config: other.Config, Signatures: sign(i.Digest())},
		"index of another":          {Repository: repo, Manifest: j.Manifest, Config: j.Config, Index: index, Signatures: sign(fixtures.Digest(index))},
		"manifest sent as an index": {Repository: repo, Manifest: j.Manifest, Config: j.Config, Type: fixtures.IndexType, Signatures: sign(i.Digest())},
		"index in its place":        {Repository: repo, Manifest: index, Config: j.Config, Signatures: sign(fixtures.Digest(index))},
	} {
		if _, f := Judge(c, "", bad, time.Now()); f == nil || f.Code != Invalid {
			t.Errorf("%s: %v", name, f)
		}
	}
}

// TestAgreesWithCosign: cosign's own verification of the same payloads and
// signatures, by the same key, says the same.
func TestAgreesWithCosign(t *testing.T) {
	c, a, b := setup(t, one)
	j, i := job()
	pub, err := cryptoutils.UnmarshalPEMToPublicKey(a.Public())
	if err != nil {
		t.Fatal(err)
	}
	v, err := signature.LoadVerifier(pub, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	h, err := v1.NewHash(i.Digest())
	if err != nil {
		t.Fatal(err)
	}
	good := fixtures.Payload(repo, i.Digest())
	cut := signed(a, good)
	cut.Signature = cut.Signature[:len(cut.Signature)-8]
	changed := signed(a, good)
	changed.Payload = append([]byte(" "), good...)
	for name, s := range map[string]evidence.Signature{
		"good": signed(a, good), "other key": signed(b, good), "other digest": signed(a, fixtures.Payload(repo, fixtures.Digest(nil))),
		"cut": cut, "changed": changed, "no digest": signed(a, fixtures.Payload(repo, "")),
	} {
		sig, err := static.NewSignature(s.Payload, s.Signature)
		if err != nil {
			t.Fatal(err)
		}
		_, err = cosign.VerifyImageSignature(context.Background(), sig, h, &cosign.CheckOpts{SigVerifier: v, ClaimVerifier: cosign.SimpleClaimVerifier, IgnoreTlog: true, Offline: true})
		j.Signatures = []evidence.Signature{s}
		_, f := Judge(c, "", j, time.Now())
		if (err == nil) != (f == nil) {
			t.Errorf("%s: cosign says %v, we say %v", name, err, f)
		}
	}
}

func FuzzJudge(f *testing.F) {
	c, a, _ := setup(f, one)
	j, i := job()
	j.Signatures = []evidence.Signature{signed(a, fixtures.Payload(repo, i.Digest()))}
	b, _ := json.Marshal(j)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		j, err := evidence.Decode(b)
		if err != nil {
			return
		}
		r, failure := Judge(c, "e", j, time.Now())
		if failure == nil && (r.Manifest != i.Digest() || r.Config != fixtures.Digest(i.Config)) {
			t.Fatalf("another image than the signed one passed: %+v", r)
		}
	})
}
