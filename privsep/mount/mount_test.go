package mount

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func box(t *testing.T) string {
	if os.Getuid() != 0 {
		t.Skip("needs root: mounts")
	}
	dir := filepath.Join(t.TempDir(), "box")
	if err := Box(dir); err != nil {
		t.Fatal(err)
	}
	if err := Box(dir); err != nil { // a second time changes nothing
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := UnmountBeneath(dir); err != nil {
			t.Error(err)
		}
		if left, _ := Beneath(dir); len(left) != 0 {
			t.Errorf("mounts left: %v", left)
		}
	})
	return dir
}

func mkdirs(t *testing.T, parts ...string) {
	for _, p := range parts {
		if err := os.MkdirAll(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func TestResolve(t *testing.T) {
	root := t.TempDir()
	mkdirs(t, root+"/a/b", root+"/etc")
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Symlink("b", root+"/a/inside"))
	must(os.Symlink("/etc", root+"/a/absolute"))
	must(os.Symlink("../../../../../../etc/passwd", root+"/a/climbs"))
	must(os.Symlink("/proc/self/root", root+"/a/magic"))
	fd, err := OpenRoot(root)
	must(err)
	defer unix.Close(fd)
	same := func(got int, path string) {
		t.Helper()
		var a, b unix.Stat_t
		must(unix.Fstat(got, &a))
		must(unix.Stat(path, &b))
		if a.Ino != b.Ino || a.Dev != b.Dev {
			t.Errorf("resolved to another file than %s", path)
		}
		unix.Close(got)
	}
	for _, c := range []struct {
		rel      string
		symlinks bool
		want     string // "" is an error
	}{
		{"a/b", false, root + "/a/b"}, {"", false, root}, {"a/inside", false, ""}, {"a/inside", true, root + "/a/b"},
		{"a/absolute", true, root + "/etc"}, // beneath the root, not the host's
		{"a/climbs", true, ""}, {"../x", false, ""}, {"a/magic", true, ""}, {"missing", true, ""},
	} {
		got, err := Resolve(fd, c.rel, c.symlinks)
		if c.want == "" {
			if err == nil {
				unix.Close(got)
				t.Errorf("%q (symlinks %v) was resolved", c.rel, c.symlinks)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", c.rel, err)
			continue
		}
		same(got, c.want)
	}
	d, err := MakeDirs(fd, "new/deep/dir", false)
	must(err)
	same(d, root+"/new/deep/dir")
	if _, err := MakeDirs(fd, "a/inside/x", false); err == nil {
		t.Error("a directory was made through a symlink")
	}
}

func TestStageAttributes(t *testing.T) {
	dir := box(t)
	src := t.TempDir()
	mkdirs(t, src+"/sub")
	if err := unix.Mount("tmpfs", src+"/sub", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(src+"/sub", unix.MNT_DETACH)
	fd, err := OpenRoot(src)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for name, a := range map[string]Attr{"rw": {}, "ro": {ReadOnly: true}, "rro": {ReadOnly: true, Recursive: true, NoExec: true, NoDev: true, NoSuid: true, Private: true}} {
		at := filepath.Join(dir, name)
		if err := Stage(fd, at, a); err != nil {
			t.Fatal(err)
		}
		top := errors.Is(os.WriteFile(at+"/x", nil, 0o644), unix.EROFS)
		sub := errors.Is(os.WriteFile(at+"/sub/x", nil, 0o644), unix.EROFS)
		if top != a.ReadOnly || sub != (a.ReadOnly && a.Recursive) {
			t.Errorf("%s: read-only top %v, below %v", name, top, sub)
		}
		if err := os.WriteFile(src+"/y", nil, 0o644); err != nil {
			t.Errorf("the source itself became read-only: %v", err)
		}
	}
	f := filepath.Join(src, "file")
	if err := os.WriteFile(f, []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	ffd, err := Resolve(fd, "file", false)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ffd)
	if err := Stage(ffd, dir+"/file", Attr{ReadOnly: true}); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(dir + "/file"); err != nil || string(b) != "content" {
		t.Errorf("staged file: %q, %v", b, err)
	}
}

func TestOverlay(t *testing.T) {
	dir := box(t)
	mkdirs(t, dir+"/t", dir+"/root")
	if err := Tmpfs(dir+"/t", 1<<20, 0o755, ""); err != nil {
		t.Fatal(err)
	}
	mkdirs(t, dir+"/t/low", dir+"/t/high", dir+"/t/up", dir+"/t/work", dir+"/old")
	for p, s := range map[string]string{"/t/low/a": "low", "/t/high/a": "high", "/t/low/b": "low"} {
		if err := os.WriteFile(dir+p, []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	lower := []string{dir + "/t/low", dir + "/t/high"}
	for _, m := range []struct {
		at string
		do func([]string, string, string, string, string) error
	}{{dir + "/root", Overlay}, {dir + "/old", overlayOld}} {
		if err := m.do(lower, dir+"/t/up", dir+"/t/work", m.at, ""); err != nil {
			t.Fatal(err)
		}
		for f, want := range map[string]string{"a": "high", "b": "low"} {
			if b, err := os.ReadFile(m.at + "/" + f); err != nil || string(b) != want {
				t.Errorf("%s/%s: %q, %v", m.at, f, b, err)
			}
		}
		if err := os.WriteFile(m.at+"/new", nil, 0o644); err != nil {
			t.Error(err)
		}
		if err := Unmount(m.at); err != nil {
			t.Error(err)
		}
	}
}
