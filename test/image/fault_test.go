package image

import (
	"archive/tar"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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

// TestKilledFetch: a pull that dies half-way leaves nothing that the next one
// would believe.
func TestKilledFetch(t *testing.T) {
	n := newNode(t)
	i := fixtures.MakeImage(fixtures.Config{}, fixtures.RandomLayer(1, 1<<20), fixtures.RandomLayer(2, 4<<20))
	n.push("app", "1", i)
	n.sign(n.key, "app", i.Digest())
	killed := make(chan bool)
	n.reg.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, fixtures.Digest(i.Layers[1].Blob)) {
			return false
		}
		w.Write(i.Layers[1].Blob[:1<<20])
		w.(http.Flusher).Flush()
		n.procs[0].Process.Kill()
		<-killed
		return true
	})
	if _, err := n.pull("app:1"); err == nil {
		t.Fatal("the pull did not notice")
	}
	close(killed)
	n.reg.Intercept(nil)
	n.procs[0].Wait()
	if ents, err := os.ReadDir(filepath.Join(n.l.FetchState(), "spool")); err != nil || len(ents) > 0 {
		t.Errorf("left in the spool: %v %v", ents, err)
	}
	must(t, os.Remove(n.l.FetchSocket()))
	fd := n.listenFD(n.l.FetchSocket(), 0o600, n.users.Front)
	n.spawn("fetch", fd)
	unix.Close(fd)
	if info, err := n.pull("app:1"); err != nil || info.ManifestDigest != i.Digest() {
		t.Errorf("%+v %v", info, err)
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
