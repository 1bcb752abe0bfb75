package image

import (
	"archive/tar"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-cri/postern/privsep/record"
	img "github.com/postern-cri/postern/runtime/image"
	"github.com/postern-cri/postern/runtime/image/erofs"
	"github.com/postern-cri/postern/test/fixtures"
)

// union opens the layers of an image as overlayfs shows them.
func (n *node) union(info img.ImageInfo) erofs.Union {
	n.t.Helper()
	var u erofs.Union
	for _, id := range info.Layers {
		h, err := record.Hex(id)
		must(n.t, err)
		f, err := os.Open(filepath.Join(n.l.Layers(), h+".erofs"))
		must(n.t, err)
		n.t.Cleanup(func() { f.Close() })
		fs, err := erofs.Open(f)
		must(n.t, err)
		u = append(u, fs)
	}
	return u
}

// TestArtifact: verified as images are, and its blobs are files by their titles.
func TestArtifact(t *testing.T) {
	n := newNode(t)
	weights := strings.Repeat("0123456789", 200_000)
	notTar := string(fixtures.MakeLayer(fixtures.File{Name: "inside", Body: "x"}).Blob)
	a := fixtures.MakeArtifact(fixtures.File{Name: "model/weights.bin", Body: weights}, fixtures.File{Name: "model/config.json", Body: "{\"a\":1}"},
		fixtures.File{Name: "archive.tar.gz", Body: notTar}, fixtures.File{Body: "no title"})
	n.push("model", "1", a)
	n.refused("model:1", a, img.Signature, "UNSIGNED")
	n.sign(n.key, "model", a.Digest())
	info, err := n.pull("model:1")
	if err != nil {
		t.Fatal(err)
	}
	if !info.Artifact || info.ID != a.Digest() || info.Status != "verified" || len(info.Layers) != 4 || info.Config.User != "" || info.Size < int64(len(weights)) {
		t.Errorf("%+v", info)
	}
	u := n.union(info)
	for name, body := range map[string]string{"model/weights.bin": weights, "model/config.json": "{\"a\":1}", "archive.tar.gz": notTar,
		strings.Replace(fixtures.Digest([]byte("no title")), ":", "-", 1): "no title"} {
		got, err := u.ReadFile(name, 4<<20)
		if err != nil || string(got) != body {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	// Another artifact has the same configuration, and one file of the same content
	// by another name: they do not become one.
	b := fixtures.MakeArtifact(fixtures.File{Name: "other", Body: "{\"a\":1}"})
	n.push("other", "1", b)
	n.sign(n.key, "other", b.Digest())
	if _, err := n.pull("other:1"); err != nil {
		t.Fatal(err)
	}
	list, err := n.client.List(context.Background())
	if err != nil || len(list) != 2 || list[0].ID == list[1].ID {
		t.Errorf("%+v %v", list, err)
	}
	must(t, n.client.Remove(context.Background(), info.ID))
	if ents, _ := os.ReadDir(n.l.Layers()); len(ents) != 1 {
		t.Errorf("left: %v", ents)
	}

	for name, files := range map[string][]fixtures.File{
		"leads up": {{Name: "../../etc/cron.d/x", Body: "x"}}, "absolute": {{Name: "/etc/passwd", Body: "x"}},
		"twice": {{Name: "a", Body: "1"}, {Name: "a", Body: "2"}}, "file and directory": {{Name: "a", Body: "1"}, {Name: "a/b", Body: "2"}},
	} {
		bad := fixtures.MakeArtifact(files...)
		repo := strings.ReplaceAll(name, " ", "")
		n.push(repo, "1", bad)
		n.sign(n.key, repo, bad.Digest())
		_, err := n.pull(repo + ":1")
		if e, ok := err.(*img.Error); !ok || e.Code != img.Invalid {
			t.Errorf("%s: %v", name, err)
		}
		for _, l := range bad.Layers {
			if k := n.reg.Asked(repo + "/blobs/" + fixtures.Digest(l.Blob)); k > 0 {
				t.Errorf("%s: a file was asked for", name)
			}
		}
	}
	// A file is not what its descriptor says.
	c := fixtures.MakeArtifact(fixtures.File{Name: "f", Body: "what was signed"})
	n.push("lie", "1", c)
	n.sign(n.key, "lie", c.Digest())
	n.reg.Intercept(fixtures.On(fixtures.Digest([]byte("what was signed")), fixtures.Answer(200, "what was served")))
	if _, err := n.pull("lie:1"); err == nil || !strings.Contains(err.Error(), "the registry sent") {
		t.Errorf("%v", err)
	}
}

// TestCompression: gzip, zstd and none are one layer, told apart by their bytes.
func TestCompression(t *testing.T) {
	n := newNode(t)
	base := fixtures.MakeLayer(fixtures.File{Name: "d", Type: tar.TypeDir, Mode: 0o755}, fixtures.File{Name: "d/f", Body: strings.Repeat("text ", 50_000)})
	for name, l := range map[string]fixtures.Layer{"gzip": base, "zstd": fixtures.Zstd(base), "plain": fixtures.Plain(base)} {
		i := fixtures.MakeImage(fixtures.Config{Cmd: []string{name}}, l)
		n.push(name, "1", i)
		n.sign(n.key, name, i.Digest())
		info, err := n.pull(name + ":1")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if b, err := n.union(info).ReadFile("d/f", 1<<20); err != nil || len(b) != 250_000 {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
		must(t, n.client.Remove(context.Background(), info.ID))
	}
}

// TestDockerTypes: images as older tools push them, a list of platforms included.
func TestDockerTypes(t *testing.T) {
	n := newNode(t)
	const list, manifest = "application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.docker.distribution.manifest.v2+json"
	old := strings.NewReplacer(fixtures.IndexType, list, fixtures.ManifestType, manifest, fixtures.ConfigType, "application/vnd.docker.container.image.v1+json",
		fixtures.LayerType, "application/vnd.docker.image.rootfs.diff.tar.gzip")
	i := small("docker")
	n.push("docker", "oci", i)
	i.Manifest = []byte(old.Replace(string(i.Manifest)))
	index := []byte(old.Replace(string(fixtures.MakeIndex(i))))
	must(t, n.reg.PushManifest("docker", i.Digest(), manifest, i.Manifest))
	must(t, n.reg.PushManifest("docker", fixtures.Digest([]byte("{}")), manifest, []byte("{}")))
	must(t, n.reg.PushManifest("docker", "1", list, index))
	n.sign(n.key, "docker", fixtures.Digest(index))
	info, err := n.pull("docker:1")
	if err != nil || info.ManifestDigest != i.Digest() || info.IndexDigest != fixtures.Digest(index) || info.Config.User != "app" {
		t.Errorf("%+v %v", info, err)
	}
	// The foreign layers of Windows images are refused by their type.
	foreign := []byte(strings.ReplaceAll(string(i.Manifest), "rootfs.diff", "rootfs.foreign.diff"))
	must(t, n.reg.PushManifest("docker", "foreign", manifest, foreign))
	must(t, n.reg.SignImage(n.key, "docker", fixtures.Digest(foreign)))
	if _, err := n.pull("docker:foreign"); err == nil || !strings.Contains(err.Error(), "foreign.diff") {
		t.Errorf("%v", err)
	}
}

// TestManyLayers: 127 are pulled; 128 are refused before one of them is.
func TestManyLayers(t *testing.T) {
	n := newNode(t)
	layers := make([]fixtures.Layer, 128)
	for k := range layers {
		layers[k] = fixtures.MakeLayer(fixtures.File{Name: fmt.Sprint("f", k), Body: fmt.Sprint(k)}, fixtures.File{Name: "last", Body: fmt.Sprint(k)})
	}
	many := fixtures.MakeImage(fixtures.Config{}, layers...)
	n.push("toomany", "1", many)
	n.sign(n.key, "toomany", many.Digest())
	n.refused("toomany:1", many, img.Invalid, "at most 127")
	i := fixtures.MakeImage(fixtures.Config{}, layers[:127]...)
	n.push("many", "1", i)
	n.sign(n.key, "many", i.Digest())
	info, err := n.pull("many:1")
	if err != nil {
		t.Fatal(err)
	}
	u := n.union(info)
	if b, err := u.ReadFile("last", 10); err != nil || string(b) != "126" {
		t.Errorf("%q %v", b, err)
	}
	if b, err := u.ReadFile("f0", 10); err != nil || string(b) != "0" {
		t.Errorf("%q %v", b, err)
	}
}

// TestPinned: by every name that the configuration may call it, and from the
// moment that it says so.
func TestPinned(t *testing.T) {
	n := newNode(t)
	for _, name := range []string{"a", "b", "c"} {
		i := small(name)
		n.push(name, "latest", i)
		n.sign(n.key, name, i.Digest())
		_, err := n.pull(name)
		must(t, err)
	}
	b := small("b")
	digest := b.Digest()
	n.image(fmt.Sprintf("pinned = [%q, %q]\n", n.reg.Addr+"/a", n.reg.Addr+"/b@"+digest))
	n.restart()
	list, err := n.client.List(context.Background())
	must(t, err)
	for _, i := range list {
		if want := !strings.Contains(i.RepoTags[0], "/c:"); i.Pinned != want {
			t.Errorf("%s: pinned %v", i.RepoTags, i.Pinned)
		}
	}
}
