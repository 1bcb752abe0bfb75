package image

import (
	"archive/tar"
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/gate"
	"github.com/postern-cri/postern/privsep/record"
	img "github.com/postern-cri/postern/runtime/image"
	"github.com/postern-cri/postern/runtime/image/userdb"
	"github.com/postern-cri/postern/test/fixtures"
)

// small is an image of two layers that differs by name.
func small(name string) fixtures.Image {
	return fixtures.MakeImage(fixtures.Config{User: "app", Cmd: []string{"/bin/sh"}},
		fixtures.MakeLayer(fixtures.File{Name: "etc", Type: tar.TypeDir, Mode: 0o755},
			fixtures.File{Name: "etc/passwd", Body: "root:x:0:0::/:/bin/sh\napp:x:1000:1000::/:/bin/sh\n"},
			fixtures.File{Name: "etc/group", Body: "app:x:1000:\nextra:x:2000:app\n"}, fixtures.File{Name: "base-" + name, Body: name}),
		fixtures.MakeLayer(fixtures.File{Name: "top", Body: "top of " + name}))
}

func (n *node) push(repo, tag string, i fixtures.Image) {
	n.t.Helper()
	must(n.t, n.reg.PushImage(repo, tag, i))
}

func (n *node) sign(k *fixtures.Key, repo, digest string) {
	n.t.Helper()
	must(n.t, n.reg.SignImage(k, repo, digest))
}

func (n *node) record(digest string) (*record.Record, error) {
	d, err := os.Open(n.l.Records())
	must(n.t, err)
	defer d.Close()
	r, _, err := record.Read(int(d.Fd()), digest, n.users.Verify.UID)
	return r, err
}

func TestSignedPull(t *testing.T) {
	n := newNode(t)
	i := small("signed")
	n.push("app", "1", i)
	n.sign(n.key, "app", i.Digest())
	info, err := n.pull("app:1")
	if err != nil {
		t.Fatal(err)
	}
	if info.ID != fixtures.Digest(i.Config) || info.ManifestDigest != i.Digest() || info.Status != "verified" || info.Config.User != "app" ||
		len(info.Layers) != 2 || info.RepoTags[0] != n.reg.Addr+"/app:1" || info.RepoDigests[0] != n.reg.Addr+"/app@"+i.Digest() {
		t.Errorf("%+v", info)
	}
	r, err := n.record(i.Digest())
	if err != nil {
		t.Fatal(err)
	}
	epoch, _ := record.Epoch(n.l.Trust(), n.l.TrustDir())
	if r.Epoch != epoch || r.Status != record.Verified || r.Authorities[0].Name != "demo" || r.Repository != n.reg.Addr+"/app" || len(r.Layers) != 2 {
		t.Errorf("%+v", r)
	}
	for _, l := range r.Layers {
		h, _ := record.Hex(l.DiffID)
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(n.l.Layers(), h+".erofs"), &st); err != nil || st.Uid != n.users.Verify.UID || st.Mode != unix.S_IFREG|0o444 || st.Nlink != 1 {
			t.Errorf("layer %s: %+v %v", h, st, err)
		}
	}
	db, err := userdb.Open(n.l.Layers(), info.Layers)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if uid, gid, ok, err := db.ByName("app"); uid != 1000 || gid != 1000 || !ok || err != nil {
		t.Errorf("app: %d %d %v %v", uid, gid, ok, err)
	}
	if g, err := db.Member("app"); len(g) != 1 || g[0] != 2000 {
		t.Errorf("groups of app: %v %v", g, err)
	}
	// Two questions, the second with the record; the decision before any layer.
	if len(n.questions) != 2 || len(n.questions[1].Sections) != 2 || n.questions[1].Sections[1].Kind != gate.SectionRecord {
		t.Errorf("questions: %+v", n.questions)
	}
	if d := n.commits[0]; d.stage != gate.StageDecision || d.asked > 2 { // the configuration and the signature's payload
		t.Errorf("the decision was committed after %d blobs: %+v", d.asked, d)
	}
	// A second pull fetches nothing anew.
	n.reg.Log()
	if _, err := n.pull("app:1"); err != nil {
		t.Fatal(err)
	}
	for _, l := range i.Layers {
		if n.reg.Asked(fixtures.Digest(l.Blob)) > 0 {
			t.Error("a layer that is here was fetched again")
		}
	}
	if list, err := n.client.List(context.Background()); err != nil || len(list) != 1 {
		t.Errorf("%v %v", list, err)
	}
	for _, ref := range []string{n.reg.Addr + "/app:1", info.ID, info.ID[7:20], n.reg.Addr + "/app@" + i.Digest()} {
		if f, err := n.client.Find(context.Background(), ref); err != nil || f.ID != info.ID {
			t.Errorf("%s: %v", ref, err)
		}
	}
	if u, err := n.client.Usage(context.Background()); err != nil || u.Bytes == 0 || u.Inodes != 2 {
		t.Errorf("%+v %v", u, err)
	}
}

func TestRefusedBeforeAnyLayer(t *testing.T) {
	n := newNode(t)
	other := fixtures.NewKey()
	i := small("unsigned")
	n.push("unsigned", "1", i)
	n.refused("unsigned:1", i, img.Signature, "UNSIGNED no signature found; tried authorities: demo")

	i = small("wrong")
	n.push("wrong", "1", i)
	n.sign(other, "wrong", i.Digest())
	n.refused("wrong:1", i, img.Signature, "KEY_MISMATCH")

	// A good signature of another image, under this one's tag.
	a, b := small("a"), small("b")
	n.push("moved", "1", a)
	p := fixtures.Payload(n.reg.Addr+"/moved", b.Digest())
	must(t, n.reg.PushSignatures("moved", a.Digest(), fixtures.Signature{Payload: p, Base64: n.key.Sign(p)}))
	n.refused("moved:1", a, img.Signature, "DIGEST_MISMATCH")

	// The same image, signed for another repository.
	n.push("copied", "1", a)
	p = fixtures.Payload(n.reg.Addr+"/original", a.Digest())
	must(t, n.reg.PushSignatures("copied", a.Digest(), fixtures.Signature{Payload: p, Base64: n.key.Sign(p)}))
	n.refused("copied:1", a, img.Signature, "IDENTITY_MISMATCH")

	// An attestation by the right key is not a signature of the image.
	p = []byte(strings.Replace(string(fixtures.Payload(n.reg.Addr+"/typed", a.Digest())), "cosign container image signature", "something else", 1))
	n.push("typed", "1", a)
	must(t, n.reg.PushSignatures("typed", a.Digest(), fixtures.Signature{Payload: p, Base64: n.key.Sign(p)}))
	n.refused("typed:1", a, img.Signature, "DIGEST_MISMATCH")

	// Thousands of signatures are not looked at.
	var junk []fixtures.Signature
	for k := range 70 {
		p := fixtures.Payload(n.reg.Addr+"/junk", fixtures.Digest([]byte{byte(k)}))
		junk = append(junk, fixtures.Signature{Payload: p, Base64: other.Sign(p)})
	}
	n.push("junk", "1", a)
	must(t, n.reg.PushSignatures("junk", a.Digest(), junk...))
	n.refused("junk:1", a, img.Signature, "EVIDENCE_TOO_LARGE")
	n.refused("nothing:1", a, img.NotFound, "not found")

	// Policy's no, before the evidence and after it.
	n.push("denied", "1", a)
	n.sign(n.key, "denied", a.Digest())
	for k := 1; k <= 2; k++ {
		asked := 0
		n.mu.Lock()
		n.decide = func(gate.Question) gate.Decision {
			asked++
			return gate.Decision{Allow: asked < k, ID: "x", Rule: "IMG-TEST", Message: "not this one"}
		}
		n.mu.Unlock()
		n.refused("denied:1", a, img.Policy, "IMG-TEST: not this one")
	}
	if list, err := n.client.List(context.Background()); err != nil || len(list) > 0 {
		t.Errorf("%v %v", list, err)
	}
	for _, c := range n.commits {
		if c.payload["decision"].(map[string]any)["allow"] != false {
			t.Errorf("an audit record allows: %v", c.payload)
		}
	}
}

func TestIndex(t *testing.T) {
	n := newNode(t)
	i := small("index")
	digest, err := n.reg.PushIndex("multi", "1", i)
	must(t, err)
	n.refused("multi:1", i, img.Signature, "UNSIGNED")
	n.sign(n.key, "multi", digest)
	info, err := n.pull("multi:1")
	if err != nil {
		t.Fatal(err)
	}
	if info.IndexDigest != digest || info.ManifestDigest != i.Digest() || info.RepoDigests[0] != n.reg.Addr+"/multi@"+digest {
		t.Errorf("%+v", info)
	}
	// The child alone has no signature: by its digest it is unsigned.
	if _, err := n.pull("multi@" + i.Digest()); err == nil || !strings.Contains(err.Error(), "UNSIGNED") {
		t.Errorf("%v", err)
	}
}

func TestRegistryThatLies(t *testing.T) {
	n := newNode(t)
	i, other := small("honest"), small("other")
	n.push("app", "1", i)
	n.push("app", "2", other)
	n.sign(n.key, "app", i.Digest())
	serve := func(path string, body []byte) func(w http.ResponseWriter, r *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, path) || r.Method != "GET" {
				return false
			}
			if strings.Contains(path, "manifests") {
				w.Header().Set("Content-Type", fixtures.ManifestType)
				w.Header().Set("Docker-Content-Digest", i.Digest())
			}
			w.Write(body)
			return true
		}
	}
	top := i.Layers[1].Blob
	changed := append([]byte(nil), top...)
	changed[len(changed)-5] ^= 1
	for name, tt := range map[string]struct {
		path string
		body []byte
		code img.Code
	}{
		"layer changed":                  {"/blobs/" + fixtures.Digest(top), changed, img.Invalid},
		"layer of another image":         {"/blobs/" + fixtures.Digest(top), other.Layers[1].Blob, img.Invalid},
		"layer cut":                      {"/blobs/" + fixtures.Digest(top), top[:len(top)-1], img.Invalid},
		"layer endless":                  {"/blobs/" + fixtures.Digest(top), append(append([]byte(nil), top...), make([]byte, 1<<20)...), img.Invalid},
		"configuration":                  {"/blobs/" + fixtures.Digest(i.Config), other.Config, img.Invalid},
		"tag moved, digest header stays": {"/manifests/1", other.Manifest, img.Signature},
		"manifest is also an index":      {"/manifests/1", []byte(strings.Replace(string(i.Manifest), "{", `{"manifests":[],`, 1)), img.Invalid},
		"manifest with a member twice":   {"/manifests/1", []byte(strings.Replace(string(i.Manifest), "{", `{"Layers":[],`, 1)), img.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			n.clearSpool()
			n.reg.Intercept(serve(tt.path, tt.body))
			defer n.reg.Intercept(nil)
			_, err := n.pull("app:1")
			e, ok := err.(*img.Error)
			if !ok || e.Code != tt.code {
				t.Errorf("got %v, want %s", err, tt.code)
			}
			t.Log(err)
			h, _ := record.Hex(i.Layers[1].DiffID)
			if _, err := os.Stat(filepath.Join(n.l.Layers(), h+".erofs")); err == nil {
				t.Error("the layer was admitted")
			}
		})
	}
	// The tag moves after it was resolved: everything else goes by digest.
	moved := false
	n.reg.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/manifests/1") && moved {
			t.Error("the tag was asked for twice")
		}
		moved = moved || strings.HasSuffix(r.URL.Path, "/manifests/1")
		return false
	})
	if info, err := n.pull("app:1"); err != nil || info.ManifestDigest != i.Digest() {
		t.Errorf("%+v %v", info, err)
	}
}

func TestEpochRemovalAndSharing(t *testing.T) {
	n := newNode(t)
	base := fixtures.MakeLayer(fixtures.File{Name: "shared", Body: "x"})
	a := fixtures.MakeImage(fixtures.Config{}, base, fixtures.MakeLayer(fixtures.File{Name: "a"}))
	b := fixtures.MakeImage(fixtures.Config{}, base, fixtures.MakeLayer(fixtures.File{Name: "b"}))
	ctx := context.Background()
	var infos []img.ImageInfo
	for name, i := range map[string]fixtures.Image{"a": a, "b": b} {
		n.push(name, "1", i)
		n.sign(n.key, name, i.Digest())
		info, err := n.pull(name + ":1")
		must(t, err)
		infos = append(infos, info)
	}
	old, err := n.record(a.Digest())
	must(t, err)
	n.trust("# changed\n")
	if _, err := n.client.Reverify(ctx, a.Digest()); err != nil {
		t.Fatal(err)
	}
	if r, err := n.record(a.Digest()); err != nil || r.Epoch == old.Epoch {
		t.Errorf("the record is still of the old epoch: %v", err)
	}
	n.trust("[revoked]\ndigests = [\"" + a.Digest() + "\"]\n")
	if _, err := n.client.Reverify(ctx, a.Digest()); err == nil || !strings.Contains(err.Error(), "REVOKED") {
		t.Errorf("%v", err)
	}
	h, _ := record.Hex(base.DiffID)
	for k, info := range infos {
		must(t, n.client.Remove(ctx, info.ID))
		_, err := os.Stat(filepath.Join(n.l.Layers(), h+".erofs"))
		if k == 0 && err != nil || k == 1 && err == nil {
			t.Errorf("after %d removals the shared layer: %v", k+1, err)
		}
		if _, err := n.record(info.ManifestDigest); err == nil {
			t.Error("the record of a removed image is still there")
		}
	}
	if ents, _ := os.ReadDir(n.l.Layers()); len(ents) > 0 {
		t.Errorf("left: %v", ents)
	}
	if err := n.client.Remove(ctx, infos[0].ID); err == nil {
		t.Error("an image was removed twice")
	}
}

// TestTrustConfiguration: without a rule and with default = "accept" the record says
// that nobody vouched, and an unknown key in trust.toml is an error that names it.
func TestTrustConfiguration(t *testing.T) {
	n := newNode(t)
	i := small("any")
	n.push("any", "1", i)
	n.write(n.l.Trust(), "default = \"acept\"\n")
	n.refused("any:1", i, img.Internal, "acept")
	n.write(n.l.Trust(), "default = \"reject\"\n[[rules]]\nscope = [\"x/**\"]\ntreshold = 1\n")
	n.refused("any:1", i, img.Internal, "rules.treshold")
	n.write(n.l.Trust(), "default = \"accept\"\n")
	info, err := n.pull("any:1")
	if err != nil || info.Status != "accepted-unsigned" {
		t.Fatalf("%+v %v", info, err)
	}
}
