package image

import (
	"archive/tar"
	"os"
	"strings"
	"testing"
	"time"

	img "github.com/postern-cri/postern/runtime/image"
	"github.com/postern-cri/postern/test/fixtures"
)

// TestConcurrentPulls: many pulls of one image fetch each layer once.
func TestConcurrentPulls(t *testing.T) {
	n := newNode(t)
	i := fixtures.MakeImage(fixtures.Config{}, fixtures.RandomLayer(1, 3<<20), fixtures.RandomLayer(2, 3<<20))
	n.push("app", "1", i)
	n.sign(n.key, "app", i.Digest())
	errs := make(chan error)
	for range 3 {
		go func() {
			_, err := n.pull("app:1")
			errs <- err
		}()
	}
	for range 3 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	for _, l := range i.Layers {
		if k := n.reg.Asked(fixtures.Digest(l.Blob)); k > 2 {
			t.Errorf("a layer was fetched %d times", k)
		}
	}
}

// TestNotALayer: what is no archive is refused, and nothing of it stays.
func TestNotALayer(t *testing.T) {
	n := newNode(t)
	bad := fixtures.Compress([]byte("this is not an archive, but long enough to be taken for one" + strings.Repeat("x", 2000)))
	i := fixtures.MakeImage(fixtures.Config{}, bad)
	n.push("bad", "1", i)
	n.sign(n.key, "bad", i.Digest())
	if _, err := n.pull("bad:1"); err == nil || err.(*img.Error).Code != img.Invalid {
		t.Errorf("%v", err)
	}
	deadline := time.Now().Add(time.Minute)
	for {
		ents, _ := os.ReadDir(n.l.Layers())
		if len(ents) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("left: %v", ents)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestHostileLayerIsNotAdmitted: signed or not, a layer that would lead out of
// itself is refused, and so is the image.
func TestHostileLayerIsNotAdmitted(t *testing.T) {
	n := newNode(t)
	for name, files := range map[string][]fixtures.File{
		"symlink": {{Name: "a", Type: tar.TypeSymlink, Link: "/etc"}, {Name: "a/passwd", Body: "x"}},
		"dotdot":  {{Name: "../../etc/passwd", Body: "x"}},
		"link":    {{Name: "x", Type: tar.TypeLink, Link: "/etc/shadow"}},
		"overlay": {{Name: "d", Type: tar.TypeDir, Mode: 0o755, Xattrs: map[string]string{"trusted.overlay.redirect": "/"}}},
	} {
		i := fixtures.MakeImage(fixtures.Config{}, fixtures.MakeLayer(files...))
		n.push(name, "1", i)
		n.sign(n.key, name, i.Digest())
		_, err := n.pull(name + ":1")
		if e, ok := err.(*img.Error); !ok || e.Code != img.Invalid || !strings.Contains(e.Message, "refused") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if ents, _ := os.ReadDir(n.l.Layers()); len(ents) > 0 {
		t.Errorf("left: %v", ents)
	}
}
