package machine

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// A container can make a tree deeper than this process has fds: it is removed
// all the same, and nothing behind its links is.
func TestRemoveAllDeep(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tree")
	kept := filepath.Join(t.TempDir(), "kept")
	for _, d := range []string{dir, kept, dir + "/full", dir + "/.moved-1"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 2000 { // more than one reading of a directory
		if err := os.WriteFile(filepath.Join(dir, "full", strconv.Itoa(i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(kept+"/file", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(kept, dir+"/full/link"); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3000 {
		for _, name := range []string{"d", ".moved-" + strconv.Itoa(i)} {
			if err := unix.Mkdirat(fd, name, 0o755); err != nil && err != unix.EEXIST {
				t.Fatal(err)
			}
		}
		next, err := unix.Openat(fd, "d", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		unix.Close(fd)
		if err != nil {
			t.Fatal(err)
		}
		fd = next
	}
	unix.Close(fd)
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 64, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	err = removeAll(dir)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(dir); !os.IsNotExist(err) {
		t.Errorf("the tree is still there: %v", err)
	}
	if _, err := os.Lstat(kept + "/file"); err != nil {
		t.Errorf("a file behind a link: %v", err)
	}
	if err := removeAll(dir); err != nil {
		t.Errorf("a tree that is gone: %v", err)
	}
}
