package record

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/fuzz/fill"
)

func digest(n int) string { return fmt.Sprintf("sha256:%064x", n) }

func good() *Record {
	r := &Record{}
	d := func(n int) any { return digest(n) }
	fill.Fill(r, fill.Rules{"Schema": Schema, "Status": Verified, "Manifest": d, "Config": d, "Digest": d, "DiffID": d})
	return r
}

func TestRoundTrip(t *testing.T) {
	r := good()
	if z := fill.Zero(r); len(z) > 0 {
		t.Fatal(z)
	}
	b, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Decode(b); err != nil || !reflect.DeepEqual(got, r) {
		t.Errorf("%+v, %v", got, err)
	}
	// A newer writer may add fields.
	if _, err := Decode([]byte(strings.Replace(string(b), "{", `{"new":1,`, 1))); err != nil {
		t.Error(err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for name, change := range map[string]func(*Record){
		"schema":      func(r *Record) { r.Schema = "postern.record/v2" },
		"status":      func(r *Record) { r.Status = "unchecked" },
		"no status":   func(r *Record) { r.Status = "" },
		"no layers":   func(r *Record) { r.Layers = nil },
		"128 layers":  func(r *Record) { r.Layers = make([]Layer, 128) },
		"manifest":    func(r *Record) { r.Manifest = "sha256:short" },
		"config":      func(r *Record) { r.Config = strings.ToUpper(r.Config) },
		"diff id":     func(r *Record) { r.Layers[1].DiffID = "sha256:../../../../etc/shadow" + strings.Repeat("0", 43) },
		"digest":      func(r *Record) { r.Layers[0].Digest = "sha512:" + strings.Repeat("0", 64) },
		"empty layer": func(r *Record) { r.Layers[0] = Layer{} },
	} {
		r := good()
		change(r)
		b, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Decode(b); err == nil {
			t.Errorf("%s: decoded", name)
		}
	}
	for _, s := range []string{"", "{", "[]", "null", `{"layers":{}}`} {
		if _, err := Decode([]byte(s)); err == nil {
			t.Errorf("%q: decoded", s)
		}
	}
}

// The names of files come from digests.
func TestHex(t *testing.T) {
	if h, err := Hex(digest(255)); err != nil || h != strings.Repeat("0", 62)+"ff" {
		t.Errorf("%s, %v", h, err)
	}
	for _, d := range []string{"", "sha256:", strings.Repeat("0", 64), digest(1) + "0", digest(1)[:70], "sha256:" + strings.Repeat("A", 64),
		"sha256:" + strings.Repeat("/", 64), "sha256:../" + strings.Repeat("0", 61), " " + digest(1), digest(1) + "\n"} {
		if h, err := Hex(d); err == nil || h != "" {
			t.Errorf("%q: %q", d, h)
		}
	}
}

// store is a directory with the record of image 1 as uid 1000 would write it.
func store(t *testing.T) (dir string, dirfd int, name string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip(t.Name() + " needs root: it changes owners")
	}
	dir = t.TempDir()
	r := good()
	r.Manifest = digest(1)
	b, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	name = strings.TrimPrefix(digest(1), "sha256:") + ".json"
	p := filepath.Join(dir, name)
	if err := errors.Join(os.WriteFile(p, b, 0o600), os.Chown(p, 1000, 1000), os.Chmod(p, 0o444)); err != nil {
		t.Fatal(err)
	}
	if dirfd, err = unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(dirfd) })
	return dir, dirfd, name
}

func TestRead(t *testing.T) {
	dir, fd, name := store(t)
	r, b, err := Read(fd, digest(1), 1000)
	if err != nil || r.Manifest != digest(1) || len(b) == 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	if _, _, err := Read(fd, digest(2), 1000); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no record: %v", err)
	}
	if _, _, err := Read(fd, "../"+name, 1000); err == nil {
		t.Error("a path was a digest")
	}
	if _, _, err := Read(fd, digest(1), 1001); err == nil {
		t.Error("another uid's record was believed")
	}
	// A record under another image's name.
	if err := os.Rename(filepath.Join(dir, name), filepath.Join(dir, strings.TrimPrefix(digest(3), "sha256:")+".json")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Read(fd, digest(3), 1000); err == nil || !strings.Contains(err.Error(), "speaks of") {
		t.Errorf("%v", err)
	}
	p := filepath.Join(dir, strings.TrimPrefix(digest(4), "sha256:")+".json")
	if err := errors.Join(os.WriteFile(p, append(b, make([]byte, MaxSize)...), 0o600), os.Chown(p, 1000, 1000), os.Chmod(p, 0o444)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Read(fd, digest(4), 1000); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("%v", err)
	}
}

// File ownership is the signature: whatever anybody but the verifier could have
// had a hand in is refused.
func TestOpenOwned(t *testing.T) {
	for name, change := range map[string]func(dir, p string) error{
		"owner":     func(_, p string) error { return os.Chown(p, 1001, 1000) },
		"root's":    func(_, p string) error { return os.Chown(p, 0, 0) },
		"writable":  func(_, p string) error { return os.Chmod(p, 0o644) },
		"group":     func(_, p string) error { return os.Chmod(p, 0o464) },
		"world":     func(_, p string) error { return os.Chmod(p, 0o446) },
		"two links": func(dir, p string) error { return os.Link(p, filepath.Join(dir, "other")) },
		"symlink":   func(dir, p string) error { return errors.Join(os.Rename(p, p+"x"), os.Symlink(p+"x", p)) },
		"fifo": func(_, p string) error {
			return errors.Join(os.Remove(p), unix.Mkfifo(p, 0o444), os.Chown(p, 1000, 1000))
		},
		"directory":  func(_, p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o555), os.Chown(p, 1000, 1000)) },
		"not there":  func(_, p string) error { return os.Remove(p) },
		"unchanged":  func(string, string) error { return nil },
		"other gid":  func(_, p string) error { return os.Chown(p, 1000, 77) },
		"executable": func(_, p string) error { return os.Chmod(p, 0o555) },
	} {
		t.Run(name, func(t *testing.T) {
			dir, fd, file := store(t)
			if err := change(dir, filepath.Join(dir, file)); err != nil {
				t.Fatal(err)
			}
			f, err := OpenOwned(fd, file, 1000)
			if err == nil {
				f.Close()
			}
			if ok := name == "unchanged" || name == "other gid" || name == "executable"; ok != (err == nil) {
				t.Errorf("%v", err)
			}
		})
	}
	dir, fd, file := store(t)
	os.Mkdir(filepath.Join(dir, "sub"), 0o755)
	os.Symlink(".", filepath.Join(dir, "loop"))
	for _, n := range []string{"../" + filepath.Base(dir) + "/" + file, filepath.Join(dir, file), "loop/" + file, "/proc/self/exe", ""} {
		if f, err := OpenOwned(fd, n, 1000); err == nil {
			f.Close()
			t.Errorf("%q was opened", n)
		}
	}
}

// The epoch changes with every byte and name of the trust configuration.
func TestEpoch(t *testing.T) {
	dir := t.TempDir()
	file, sub := filepath.Join(dir, "trust.toml"), filepath.Join(dir, "trust.d")
	if _, err := Epoch(file, sub); err == nil {
		t.Error("an epoch of nothing")
	}
	seen := map[string]string{}
	step := func(what string, do error) {
		t.Helper()
		if do != nil {
			t.Fatal(do)
		}
		e, err := Epoch(file, sub)
		if err != nil || len(e) != 64 {
			t.Fatalf("%s: %q, %v", what, e, err)
		}
		if seen[e] != "" {
			t.Errorf("%s has the epoch of %s", what, seen[e])
		}
		if again, _ := Epoch(file, sub); again != e {
			t.Errorf("%s has two epochs", what)
		}
		seen[e] = what
	}
	w := func(p, s string) error { return os.WriteFile(p, []byte(s), 0o644) }
	step("a file", w(file, "a"))
	step("another", w(file, "b"))
	step("a key", errors.Join(os.Mkdir(sub, 0o755), w(filepath.Join(sub, "k1"), "x")))
	step("the key renamed", os.Rename(filepath.Join(sub, "k1"), filepath.Join(sub, "k2")))
	step("two keys", w(filepath.Join(sub, "k3"), "y"))
	step("swapped", errors.Join(w(filepath.Join(sub, "k2"), "y"), w(filepath.Join(sub, "k3"), "x")))
	away := filepath.Join(dir, "away")
	step("a linked key", errors.Join(w(away, "z"), os.Symlink(away, filepath.Join(sub, "k4"))))
	step("changed behind the link", w(away, "zz"))
	// What is no file is no key: directories and links that lead nowhere.
	before, _ := Epoch(file, sub)
	if err := errors.Join(os.Mkdir(filepath.Join(sub, "d"), 0o755), os.Symlink("nowhere", filepath.Join(sub, "n"))); err != nil {
		t.Fatal(err)
	}
	if after, err := Epoch(file, sub); err != nil || after != before {
		t.Errorf("%s became %s, %v", before, after, err)
	}
	step("the content moved", errors.Join(w(filepath.Join(sub, "k2"), "yx"), w(filepath.Join(sub, "k3"), "")))
}

func FuzzDecode(f *testing.F) {
	b, _ := good().Encode()
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Decode(b)
		if err != nil {
			return
		}
		for _, l := range r.Layers {
			if _, err := Hex(l.DiffID); err != nil {
				t.Fatal(err)
			}
		}
		again, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Decode(again); err != nil {
			t.Fatalf("does not decode again: %v", err)
		}
	})
}
