package image

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	img "github.com/postern-cri/postern/runtime/image"
	"github.com/postern-cri/postern/test/fixtures"
)

func (n *node) spool() string { return filepath.Join(n.l.FetchState(), "spool") }

// spooled is how many bytes of unfinished blobs are here.
func (n *node) spooled() (total int64) {
	ents, _ := os.ReadDir(n.spool())
	for _, e := range ents {
		if st, err := e.Info(); err == nil {
			total += st.Size()
		}
	}
	return total
}

func (n *node) clearSpool() {
	ents, _ := os.ReadDir(n.spool())
	for _, e := range ents {
		must(n.t, os.Remove(filepath.Join(n.spool(), e.Name())))
	}
}

// large is a signed image whose layer takes a while.
func (n *node) large(repo string, seed int64) (fixtures.Image, []byte, string) {
	i := fixtures.MakeImage(fixtures.Config{}, fixtures.RandomLayer(seed, 3<<20))
	n.push(repo, "1", i)
	n.sign(n.key, repo, i.Digest())
	blob := i.Layers[0].Blob
	return i, blob, fixtures.Digest(blob)
}

// ranges are the ranges by which a blob was asked for.
func (n *node) ranges(digest string) (out []string) {
	for _, s := range n.reg.Seen(digest) {
		out = append(out, s.Range)
	}
	return out
}

// TestCutConnection: a download that breaks goes on where it stopped, in the
// same pull.
func TestCutConnection(t *testing.T) {
	n := newNode(t)
	i, blob, digest := n.large("app", 1)
	n.reg.Intercept(fixtures.On(digest, fixtures.Times(1, fixtures.Cut(blob, 1<<20))))
	info, err := n.pull("app:1")
	if err != nil || info.ManifestDigest != i.Digest() {
		t.Fatalf("%+v %v", info, err)
	}
	if got := n.ranges(digest); len(got) < 2 || got[0] != "" || !strings.HasPrefix(got[len(got)-1], "bytes=") || strings.HasPrefix(got[len(got)-1], "bytes=0-") {
		t.Errorf("asked for by the ranges %q", got)
	}
	if left := n.spooled(); left != 0 {
		t.Errorf("%d bytes stay in the spool", left)
	}
}

// TestKilledFetch: a pull whose process dies half-way is gone on with by the next
// one, which believes nothing of what is there.
func TestKilledFetch(t *testing.T) {
	n := newNode(t)
	i, blob, digest := n.large("app", 1)
	n.reg.Intercept(fixtures.On(digest, fixtures.Times(1, fixtures.Stall(blob, 1<<20, func() {
		for n.spooled() < 1<<19 {
			time.Sleep(time.Millisecond)
		}
		n.kill()
	}))))
	if _, err := n.pull("app:1"); err == nil {
		t.Fatal("the pull did not notice")
	}
	have := n.spooled()
	n.start()
	if info, err := n.pull("app:1"); err != nil || info.ManifestDigest != i.Digest() {
		t.Fatalf("%+v %v", info, err)
	}
	if got, want := n.ranges(digest), fmt.Sprintf("bytes=%d-%d", have, len(blob)-1); len(got) != 2 || got[1] != want {
		t.Errorf("asked for by the ranges %q, want %q", got, want)
	}

	// Somebody changed what is there, or the disk did.
	i, _, digest = n.large("changed", 2)
	must(t, os.WriteFile(filepath.Join(n.spool(), strings.TrimPrefix(digest, "sha256:")), bytes.Repeat([]byte("x"), 1<<20), 0o600))
	must(t, os.Chown(filepath.Join(n.spool(), strings.TrimPrefix(digest, "sha256:")), int(n.users.Fetch.UID), int(n.users.Fetch.GID)))
	if info, err := n.pull("changed:1"); err != nil || info.ManifestDigest != i.Digest() {
		t.Fatalf("%+v %v", info, err)
	}
	if got := n.ranges(digest); len(got) != 2 || got[0] == "" || got[1] != "" {
		t.Errorf("asked for by the ranges %q, want the rest and then all of it", got)
	}
}

// TestNoRanges: a registry that knows no ranges sends everything again.
func TestNoRanges(t *testing.T) {
	n := newNode(t)
	_, blob, digest := n.large("app", 1)
	n.reg.Intercept(fixtures.On(digest, fixtures.Any(fixtures.Times(1, fixtures.Cut(blob, 1<<20)), fixtures.Answer(200, string(blob)))))
	if _, err := n.pull("app:1"); err != nil {
		t.Fatal(err)
	}
}

// TestStalledDownload ends with an error that says why, and the next pull goes on
// from there.
func TestStalledDownload(t *testing.T) {
	n := newNode(t)
	n.image("stall_timeout = \"2s\"\n")
	n.restart()
	_, blob, digest := n.large("app", 1)
	n.reg.Intercept(fixtures.On(digest, fixtures.Stall(blob, 1<<20, nil)))
	_, err := n.pull("app:1")
	if e, ok := err.(*img.Error); !ok || e.Code != img.Unavailable || !strings.Contains(e.Message, "did not answer for 2s") {
		t.Errorf("%v", err)
	}
	if k := n.spooled(); k != 1<<20 {
		t.Errorf("%d bytes of the layer are here", k)
	}
	// One that does not even begin to answer: for the layer, and for the manifest.
	n.reg.Intercept(fixtures.On(digest, fixtures.Stall(nil, -1, nil)))
	if _, err := n.pull("app:1"); err == nil || !strings.Contains(err.Error(), "did not answer for 2s") {
		t.Errorf("%v", err)
	}
	n.reg.Intercept(fixtures.On("/manifests/1", fixtures.Stall(nil, -1, nil)))
	if _, err := n.pull("app:1"); err == nil || !strings.Contains(err.Error(), "did not answer for 2s") {
		t.Errorf("%v", err)
	}
	// One that sends a byte now and then.
	n.clearSpool()
	n.reg.Intercept(fixtures.On(digest, fixtures.Slow(blob[:200], 200, 100*time.Millisecond)))
	if _, err := n.pull("app:1"); err == nil || !strings.Contains(err.Error(), "did not answer for 2s") {
		t.Errorf("%v", err)
	}
	// One that is slow, but goes on, is waited for.
	n.reg.Intercept(fixtures.On(digest, fixtures.Slow(blob, 8, 400*time.Millisecond)))
	n.clearSpool()
	if _, err := n.pull("app:1"); err != nil {
		t.Error(err)
	}
}

// TestServerErrors: a registry that fails for a moment is asked again; one that
// goes on failing is named.
func TestServerErrors(t *testing.T) {
	n := newNode(t)
	_, _, digest := n.large("app", 1)
	broken := fixtures.Answer(http.StatusBadGateway, "<html>")
	n.reg.Intercept(fixtures.Any(fixtures.On("/manifests/1", fixtures.Times(2, broken)), fixtures.On(digest, fixtures.Times(2, broken)),
		fixtures.On("/v2/", fixtures.Times(1, broken))))
	if _, err := n.pull("app:1"); err != nil {
		t.Fatal(err)
	}
	n.large("other", 2)
	n.reg.Intercept(fixtures.On("/manifests/1", broken))
	_, err := n.pull("other:1")
	if e, ok := err.(*img.Error); !ok || e.Code != img.Unavailable || !strings.HasPrefix(e.Message, "RegistryUnavailable: ") || !strings.Contains(e.Message, "502") {
		t.Errorf("%v", err)
	}
}

// TestClientGoes: a pull that nobody waits for any more ends at once, wherever it
// is, and what it leaves is removed when somebody wants space.
func TestClientGoes(t *testing.T) {
	n := newNode(t)
	_, blob, digest := n.large("app", 1)
	small := small("small")
	n.push("small", "1", small)
	n.sign(n.key, "small", small.Digest())
	kept, err := n.pull("small:1")
	must(t, err)
	for name, tt := range map[string]struct {
		path string
		have int
	}{"layer": {digest, 1 << 20}, "manifest": {"/manifests/1", -1}} {
		ctx, cancel := context.WithCancel(context.Background())
		left := make(chan struct{})
		n.reg.Intercept(fixtures.On(tt.path, func(w http.ResponseWriter, r *http.Request) bool {
			defer close(left)
			return fixtures.Stall(blob, tt.have, func() {
				for tt.have > 0 && n.spooled() == 0 {
					time.Sleep(time.Millisecond)
				}
				cancel()
			})(w, r)
		}))
		if _, err := n.client.Pull(ctx, "r", n.reg.Addr+"/app:1", nil, nil, nil); err != context.Canceled {
			t.Errorf("%s: %v", name, err)
		}
		select {
		case <-left:
		case <-time.After(time.Minute):
			t.Fatalf("%s: the registry still has its client", name)
		}
	}
	n.reg.Intercept(nil)
	if n.spooled() == 0 {
		t.Error("nothing is kept of the layer")
	}
	must(t, n.client.Remove(context.Background(), kept.ID))
	if k := n.spooled(); k != 0 {
		t.Errorf("%d bytes stay in the spool", k)
	}
	if ents, _ := os.ReadDir(n.l.Records()); len(ents) != 1 { // the lock
		t.Errorf("records: %v", ents)
	}
}

// TestManyPulls: six images at a time, all of them on their way, while a seventh
// whose registry does not answer waits beside them.
func TestManyPulls(t *testing.T) {
	const many = 6
	n := newNode(t)
	var mu sync.Mutex
	under := map[string]bool{}
	all := make(chan struct{})
	var faults []fixtures.Fault
	for k := range many {
		_, _, digest := n.large(fmt.Sprint("app", k), int64(k))
		faults = append(faults, fixtures.On(digest, func(http.ResponseWriter, *http.Request) bool {
			mu.Lock()
			if under[digest] = true; len(under) == many {
				close(all)
			}
			mu.Unlock()
			<-all // nobody is served before everybody is there
			return false
		}))
	}
	_, _, dead := n.large("dead", 99)
	faults = append(faults, fixtures.On(dead, fixtures.Stall(nil, -1, nil)))
	n.reg.Intercept(fixtures.Any(faults...))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		n.client.Pull(ctx, "r", n.reg.Addr+"/dead:1", nil, nil, nil)
	}()
	errs := make(chan error)
	for k := range many {
		go func() {
			_, err := n.pull(fmt.Sprint("app", k, ":1"))
			errs <- err
		}()
	}
	for range many {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	cancel()
	<-gone
}

// TestParallelLayers: as many layers of an image at a time as the configuration says.
func TestParallelLayers(t *testing.T) {
	n := newNode(t)
	n.image("max_parallel_layers = 4\n")
	n.restart()
	var layers []fixtures.Layer
	for k := range 6 {
		layers = append(layers, fixtures.RandomLayer(int64(k), 1<<16))
	}
	i := fixtures.MakeImage(fixtures.Config{}, layers...)
	n.push("app", "1", i)
	n.sign(n.key, "app", i.Digest())
	var mu sync.Mutex
	now, most := 0, 0
	four := make(chan struct{})
	n.reg.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		for _, l := range i.Layers {
			if strings.HasSuffix(r.URL.Path, fixtures.Digest(l.Blob)) {
				mu.Lock()
				if now++; now > most {
					if most = now; most == 4 {
						close(four)
					}
				}
				mu.Unlock()
				<-four // nobody is served before four are there
				mu.Lock()
				now--
				mu.Unlock()
			}
		}
		return false
	})
	if _, err := n.pull("app:1"); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if most != 4 {
		t.Errorf("%d layers at a time", most)
	}
}

// TestProgress tells how much of all layers is here.
func TestProgress(t *testing.T) {
	n := newNode(t)
	_, blob, digest := n.large("app", 1)
	n.reg.Intercept(fixtures.On(digest, fixtures.Slow(blob, 6, 150*time.Millisecond)))
	var seen []img.Progress
	if _, err := n.client.Pull(context.Background(), "r", n.reg.Addr+"/app:1", nil, nil, func(p img.Progress) { seen = append(seen, p) }); err != nil {
		t.Fatal(err)
	}
	stages, last, moved := map[string]bool{}, int64(0), 0
	for _, p := range seen {
		stages[p.Stage] = true
		if p.Stage != "download" {
			continue
		}
		if p.Total != int64(len(blob)) || p.Done < last || p.Done > p.Total {
			t.Errorf("%+v after %d of %d bytes", p, last, len(blob))
		}
		if p.Done > last {
			moved++
		}
		last = p.Done
	}
	if !stages["resolve"] || !stages["verify"] || moved < 2 {
		t.Errorf("%+v", seen)
	}
}

// TestEndlessAnswers: what a registry sends for something small is read up to a
// bound, whatever it is (CVE-2020-1702).
func TestEndlessAnswers(t *testing.T) {
	n := newNode(t)
	i := small("app")
	n.push("app", "1", i)
	n.sign(n.key, "app", i.Digest())
	tag := strings.Replace(i.Digest(), ":", "-", 1) + ".sig"
	payload := fixtures.Digest(fixtures.Payload(n.reg.Addr+"/app", i.Digest()))
	endless := func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "manifests") {
			w.Header().Set("Content-Type", fixtures.ManifestType)
		}
		for spaces := bytes.Repeat([]byte(" "), 1<<20); ; {
			if _, err := w.Write(spaces); err != nil {
				return true
			}
		}
	}
	for name, f := range map[string]fixtures.Fault{
		"manifest": fixtures.On("/manifests/1", endless), "configuration": fixtures.On(fixtures.Digest(i.Config), endless),
		"signatures": fixtures.On("/manifests/"+tag, endless), "payload": fixtures.On(payload, endless), "layer": fixtures.On(fixtures.Digest(i.Layers[0].Blob), endless),
		"ping": func(w http.ResponseWriter, r *http.Request) bool { return r.URL.Path == "/v2/" && endless(w, r) },
		"error": func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, "/manifests/1") {
				return false
			}
			w.WriteHeader(http.StatusForbidden)
			return endless(w, r)
		},
	} {
		n.reg.Intercept(f)
		info, err := n.pull("app:1")
		switch {
		case name == "ping" && err == nil: // what it says is not looked at
			must(t, n.client.Remove(context.Background(), info.ID))
		case err == nil:
			t.Errorf("%s: pulled", name)
		}
		t.Logf("%s: %.300v", name, err)
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.fetch.Process.Pid))
	must(t, err)
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	var peak int
	if _, err := fmt.Sscan(rest, &peak); err != nil || peak > 1<<20 {
		t.Errorf("the fetching process needed %d KiB, %v", peak, err)
	}
	t.Logf("peak: %d KiB", peak)
}
