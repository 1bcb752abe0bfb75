//go:build linux && cgo && seccomp

package launch

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

const testLabel = "system_u:object_r:container_file_t:s0:c1,c2"

func labelOf(t *testing.T, path string) string {
	t.Helper()
	b := make([]byte, 256)
	n, err := unix.Lgetxattr(path, selinuxAttr, b)
	if err != nil {
		return ""
	}
	return string(b[:n])
}

// TestRelabel: all of a volume, and nothing that it leads to. Without SELinux the
// kernel stores a label as it is.
func TestRelabel(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"vol/a/b", "vol/mnt", "secret"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"vol/file", "vol/a/b/file", "secret/file"} {
		if err := os.WriteFile(filepath.Join(dir, f), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"vol/link": "../secret/file", "vol/a/dir": "../../secret", "vol/none": "nowhere"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(dir+"/vol/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("t", dir+"/vol/mnt", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir+"/vol/mnt", unix.MNT_DETACH)
	// Staged read-only, as for a Secret.
	staged := dir + "/staged"
	if err := os.Mkdir(staged, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(dir+"/vol", staged, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(staged, unix.MNT_DETACH)
	if err := unix.Mount("", staged, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	untouched := []string{"secret", "secret/file", "vol/mnt"}
	before := map[string]string{}
	for _, f := range untouched {
		before[f] = labelOf(t, filepath.Join(dir, f))
	}
	if err := relabel(staged, testLabel); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"vol", "vol/a", "vol/a/b", "vol/file", "vol/a/b/file", "vol/link", "vol/a/dir", "vol/none", "vol/fifo"} {
		if got := labelOf(t, filepath.Join(dir, f)); got != testLabel {
			t.Errorf("%s has the label %q", f, got)
		}
	}
	for _, f := range untouched {
		if got := labelOf(t, filepath.Join(dir, f)); got != before[f] {
			t.Errorf("%s has the label %q", f, got)
		}
	}
	if err := os.WriteFile(staged+"/file", nil, 0o600); err == nil {
		t.Error("the staged mount can be written now")
	}
	// A single file, and one that is not there.
	if err := relabel(dir+"/vol/file", testLabel+",c3"); err != nil || labelOf(t, dir+"/vol/file") != testLabel+",c3" {
		t.Errorf("a file: %v", err)
	}
	if relabel(dir+"/missing", testLabel) == nil {
		t.Error("what is not there was relabelled")
	}
}

// TestRelabelRace: a container that swaps a directory for a link all the while
// does not get what the link leads to.
func TestRelabelRace(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"vol/a", "secret"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"vol/a/file", "secret/file"} {
		if err := os.WriteFile(filepath.Join(dir, f), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../secret", dir+"/vol/b"); err != nil {
		t.Fatal(err)
	}
	before := labelOf(t, dir+"/secret/file")
	stop := make(chan struct{})
	var swaps sync.WaitGroup
	swaps.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				unix.Renameat2(unix.AT_FDCWD, dir+"/vol/a", unix.AT_FDCWD, dir+"/vol/b", unix.RENAME_EXCHANGE)
			}
		}
	})
	for i := range 500 {
		if err := relabel(dir+"/vol", testLabel+string(rune('0'+i%2))); err != nil {
			t.Error(err)
			break
		}
	}
	close(stop)
	swaps.Wait()
	for _, f := range []string{"secret", "secret/file"} {
		if got := labelOf(t, filepath.Join(dir, f)); got != before {
			t.Errorf("%s has the label %q", f, got)
		}
	}
}
