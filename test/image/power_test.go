package image

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/test/fixtures"
)

// kept is what the image roles have on the disk, by name beneath lib.
type kept map[string]keptFile

type keptFile struct {
	body []byte
	mode fs.FileMode
	uid  uint32
	gid  uint32
}

// keep copies it, while others write.
func (n *node) keep() kept {
	k := kept{}
	filepath.WalkDir(n.l.Lib, func(p string, d fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err != nil || d.IsDir() || unix.Lstat(p, &st) != nil {
			return nil
		}
		if b, err := os.ReadFile(p); err == nil {
			k[strings.TrimPrefix(p, n.l.Lib+"/")] = keptFile{b, fs.FileMode(st.Mode & 0o777), st.Uid, st.Gid}
		}
		return nil
	})
	return k
}

// resume puts back what was kept and starts the fetching process on it.
func (n *node) resume(k kept) {
	n.t.Helper()
	n.mu.Lock()
	for _, p := range n.procs {
		p.Process.Kill()
	}
	n.mu.Unlock()
	n.kill()
	for now := range n.keep() {
		must(n.t, os.Remove(filepath.Join(n.l.Lib, now)))
	}
	for name, f := range k {
		p := filepath.Join(n.l.Lib, name)
		if err := os.WriteFile(p, f.body, 0o600); err != nil {
			n.t.Fatal(err)
		}
		must(n.t, os.Chown(p, int(f.uid), int(f.gid)))
		must(n.t, os.Chmod(p, f.mode))
	}
	n.start()
}

// TestPowerLoss goes on from what a power cut may have left at any moment of a
// pull, with files emptied that nothing waited for: the image is here or not, is
// pulled the next time, and then nothing else is.
func TestPowerLoss(t *testing.T) {
	if os.Getenv("POSTERN_CHURN") == "" {
		t.Skip("copies files as fast as it can: make test-churn")
	}
	n := newNode(t)
	i := fixtures.MakeImage(fixtures.Config{}, fixtures.RandomLayer(1, 1<<20), fixtures.RandomLayer(2, 1<<20), fixtures.RandomLayer(3, 1<<20))
	n.push("app", "1", i)
	n.sign(n.key, "app", i.Digest())
	stop, taken := make(chan bool), make(chan []kept)
	go func() {
		var all []kept
		for {
			select {
			case <-stop:
				taken <- all
				return
			default:
				all = append(all, n.keep())
				if len(all) == 200 { // a slow machine: every second one will do
					for k := range 100 {
						all[k] = all[2*k]
					}
					all = all[:100]
				}
				time.Sleep(time.Millisecond)
			}
		}
	}()
	_, err := n.pull("app:1")
	close(stop)
	moments := <-taken
	must(t, err)
	whole := n.keep()
	t.Logf("%d moments of one pull", len(moments))

	var states []kept
	for k := range 8 {
		states = append(states, moments[k*(len(moments)-1)/7])
	}
	edit := func(change func(name string, f *keptFile) (stays bool)) {
		k := kept{}
		for name, f := range whole {
			if change(name, &f) {
				k[name] = f
			}
		}
		states = append(states, k)
	}
	layer := 0
	edit(func(name string, f *keptFile) bool { // a directory that the disk does not know yet
		if strings.HasSuffix(name, ".erofs") {
			layer++
		}
		return layer != 2 || !strings.HasSuffix(name, ".erofs")
	})
	edit(func(name string, f *keptFile) bool { return !strings.HasSuffix(name, ".erofs") })
	for _, empty := range []string{"images.json", "fetch/evidence/"} { // a layer has its name once its bytes are on the disk
		edit(func(name string, f *keptFile) bool {
			if strings.Contains(name, empty) {
				f.body = nil
			}
			return true
		})
	}
	k := kept{}
	for name, f := range whole {
		k[name] = f
		if strings.HasPrefix(name, "records/") {
			f.body, f.mode = f.body[:10], 0o400
			k["records/.tmp-"+strings.Repeat("0", 64)] = f
		}
	}
	states = append(states, k)

	for at, k := range states {
		n.resume(k)
		for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
			if _, err = n.pull("app:1"); err == nil || time.Now().After(end) {
				break
			}
		}
		if err != nil {
			t.Fatalf("state %d (%v): %v", at, k.names(), err)
		}
		list, err := n.client.List(context.Background())
		if err != nil || len(list) != 1 || list[0].ManifestDigest != i.Digest() {
			t.Errorf("state %d (%v): %v, %v", at, k.names(), list, err)
		}
		now := n.keep()
		for name, f := range whole {
			if strings.HasSuffix(name, ".erofs") && string(now[name].body) != string(f.body) {
				t.Errorf("state %d (%v): layer %s is another one", at, k.names(), name)
			}
		}
		// What was left is cleared beside the first requests, not before them.
		half := filepath.Join(n.l.Records(), ".tmp-"+strings.Repeat("0", 64))
		for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
			if _, err := os.Lstat(half); errors.Is(err, fs.ErrNotExist) {
				break
			} else if time.Now().After(end) {
				t.Errorf("state %d: half a record is left, %v", at, err)
				break
			}
		}
	}
}

func (k kept) names() (all []string) {
	for name, f := range k {
		if len(f.body) == 0 {
			name += " (empty)"
		}
		all = append(all, name)
	}
	return all
}
