package program

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestOpen: what somebody other than root can change, or could put another thing
// in the place of, is not executed.
func TestOpen(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it changes owners")
	}
	dir, err := os.MkdirTemp("/var/lib", "postern-test-") // where no directory is others'
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	place := func(name string, mode os.FileMode, uid int) string {
		to := filepath.Join(dir, name)
		b, err := os.ReadFile("/bin/dash")
		if err == nil {
			err = os.MkdirAll(filepath.Dir(to), 0o755)
		}
		if err == nil {
			err = os.WriteFile(to, b, 0o755)
		}
		if err == nil {
			err = os.Chown(to, uid, 0)
		}
		if err == nil {
			err = os.Chmod(to, mode)
		}
		if err != nil {
			t.Fatal(err)
		}
		return to
	}
	if err := os.Symlink("good", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("open", filepath.Join(dir, "way")); err != nil {
		t.Fatal(err)
	}
	inOpen := place("open/good", 0o755, 0)
	if err := os.Chmod(filepath.Dir(inOpen), 0o777); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		place("good", 0o755, 0):         "",
		place("group", 0o775, 0):        "only root may be able to write it",
		place("world", 0o757, 0):        "only root may be able to write it",
		place("other", 0o755, 1000):     "of uid 1000",
		inOpen:                          "directory /var/lib/" + filepath.Base(dir) + "/open",
		dir:                             "it must be root's",
		filepath.Join(dir, "link"):      "links are not followed",
		filepath.Join(dir, "way/good"):  "links are not followed",
		filepath.Join(dir, "not-there"): "no such file",
		"relative":                      "clean absolute path",
		dir + "/../good":                "clean absolute path",
	} {
		f, err := Open(path)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
		f.Close()
	}
	// What was looked at is what runs, whatever its name is by then.
	f, err := Open(filepath.Join(dir, "good"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Rename(place("evil", 0o757, 1000), filepath.Join(dir, "good")); err != nil {
		t.Fatal(err)
	}
	c := Command(t.Context(), f, "-c", "readlink /proc/$$/exe; env; ls /proc/$$/fd | wc -l")
	out, err := c.Output()
	if want := filepath.Join(dir, "good") + " (deleted)\n"; err != nil || !strings.HasPrefix(string(out), want) {
		t.Errorf("%v: %q, want %q", err, out, want)
	}
}

// TestAsk: a runtime says what it can do without any right of root's.
func TestAsk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it asks as another user")
	}
	f, err := Open("/usr/sbin/runc")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	can, err := Ask(f)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(can.Linux.Namespaces, "user") || !slices.Contains(can.MountOptions, "rro") || can.Linux.Seccomp.Enabled == nil || !*can.Linux.Seccomp.Enabled {
		t.Errorf("%+v", can)
	}
	old, err := Open("/usr/bin/env")
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if can, err := Ask(old); err == nil {
		t.Errorf("a program that says nothing can %+v", can)
	}
}
