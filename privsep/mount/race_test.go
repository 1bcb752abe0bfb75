package mount

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// A container that can write to a volume swaps a directory of it for a link while
// its clone is unmounted: no mount of the host's goes that the link leads to.
func TestUnmountFollowsNoLink(t *testing.T) {
	dir, src, victim := box(t), t.TempDir(), t.TempDir()
	mkdirs(t, src+"/a/sub", victim+"/sub")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Symlink(victim, src+"/b"))
	for _, at := range []string{src + "/a/sub", victim + "/sub"} {
		must(unix.Mount("x", at, "tmpfs", 0, "size=4k"))
	}
	defer UnmountBeneath(src)
	defer UnmountBeneath(victim)
	stop, done := make(chan bool), make(chan bool)
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				unix.Renameat2(unix.AT_FDCWD, src+"/a", unix.AT_FDCWD, src+"/b", unix.RENAME_EXCHANGE)
			}
		}
	}()
	defer func() { close(stop); <-done }()
	fd, err := OpenRoot(src)
	must(err)
	defer unix.Close(fd)
	for range 300 {
		at := filepath.Join(dir, "m")
		must(Stage(fd, at, Attr{}))
		must(UnmountBeneath(at))
		must(os.Remove(at))
		left, err := Beneath(victim)
		must(err)
		if !slices.Contains(left, victim+"/sub") {
			t.Fatal("a mount of the host's was unmounted through a link")
		}
	}
}
