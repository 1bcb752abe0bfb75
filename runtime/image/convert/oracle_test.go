package convert

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	goerofs "github.com/erofs/go-erofs"
	"golang.org/x/sys/unix"
)

// layerFiles is a layer with everything that a layer may have.
func layerFiles() []file {
	big := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
	capability := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	files := []file{
		directory("./"), directory("bin/"), reg("bin/sh", big+"tail"), link("bin/ash", "bin/sh"), link("z", "bin/ash"),
		reg("exact", big[:8192]), reg("almost", big[:4095]), reg("one", "1"), reg("empty", ""), reg("tail", big[:4096+4050]),
		symlink("lib", "usr/lib"), symlink("abs", "/etc/passwd"), symlink("longlink", strings.Repeat("x/", 2000)+"y"),
		{tar.Header{Name: "fifo", Typeflag: tar.TypeFifo, Mode: 0o600}, ""},
		{tar.Header{Name: "suid", Typeflag: tar.TypeReg, Mode: 0o4755, Uid: 70000, Gid: 4294967294}, "#!"},
		{tar.Header{Name: "ns", Typeflag: tar.TypeReg, Mode: 0o644, ModTime: time.Unix(1234567890, 987654321), Format: tar.FormatPAX}, ""},
		{tar.Header{Name: "old", Typeflag: tar.TypeReg, Mode: 0o644, ModTime: time.Unix(-5, 0), Format: tar.FormatPAX}, ""},
		{tar.Header{Name: "ping", Typeflag: tar.TypeReg, Mode: 0o755, PAXRecords: map[string]string{
			"SCHILY.xattr.security.capability": capability, "SCHILY.xattr.user.note": "hello"}}, "ping"},
		{tar.Header{Name: "tmp", Typeflag: tar.TypeDir, Mode: 0o1777}, ""},
		reg("a/b/c/d/e", "implied parents"), reg("dup", "first"), reg("dup", "second"),
		directory("gone"), reg("gone/x", ""), reg("gone", "now a file"), reg("ünïcode €", "x"), reg(strings.Repeat("n", 255), "n"),
	}
	for i := range 3000 {
		files = append(files, reg(fmt.Sprintf("many/%04d-%s", i*7919%3000, strings.Repeat("f", i%200)), strings.Repeat("c", i%5000)))
	}
	return files
}

// tree describes every file beneath dir, as lines that compare.
func describe(t *testing.T, dir string) []string {
	t.Helper()
	var lines []string
	inodes := map[uint64]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		line := fmt.Sprintf("%q mode=%o uid=%d gid=%d", rel, st.Mode, st.Uid, st.Gid)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
		case unix.S_IFLNK:
			to, _ := os.Readlink(p)
			line += fmt.Sprintf(" to=%x mtime=%d", sha256.Sum256([]byte(to)), st.Mtim.Nano())
		case unix.S_IFREG:
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			first, ok := inodes[st.Ino]
			if !ok {
				inodes[st.Ino], first = rel, rel
			}
			line += fmt.Sprintf(" links=%d first=%q size=%d mtime=%d sum=%x", st.Nlink, first, st.Size, st.Mtim.Nano(), sha256.Sum256(b))
			for _, x := range []string{"security.capability", "user.note"} {
				v := make([]byte, 100)
				if n, err := unix.Lgetxattr(p, x, v); err == nil {
					line += fmt.Sprintf(" %s=%x", x, v[:n])
				}
			}
		default:
			line += fmt.Sprintf(" rdev=%d mtime=%d", st.Rdev, st.Mtim.Nano())
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(lines)
	return lines
}

// mount mounts an image with the running kernel.
func mount(t *testing.T, image string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to mount")
	}
	at := t.TempDir()
	if err := unix.Mount(image, at, "erofs", unix.MS_RDONLY|unix.MS_NODEV, ""); err != nil {
		if out, err := exec.Command("mount", "-t", "erofs", "-o", "loop,ro,nodev", image, at).CombinedOutput(); err != nil {
			t.Fatalf("the kernel does not mount it: %s", out)
		}
	}
	t.Cleanup(func() { unix.Unmount(at, unix.MNT_DETACH) })
	return at
}

// TestKernelSeesWhatTarExtracts holds the mounted image against GNU tar's
// extraction of the same archive.
func TestKernelSeesWhatTarExtracts(t *testing.T) {
	blob := archive(t, layerFiles()...)
	f, _, err := convertTo(t, gz(blob))
	if err != nil {
		t.Fatal(err)
	}
	got := describe(t, mount(t, f.Name()))
	dir := t.TempDir()
	cmd := exec.Command("tar", "-x", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-p", "-C", dir)
	// GNU tar does not put a file where a directory is not empty.
	cmd.Args = append(cmd.Args, "--recursive-unlink")
	cmd.Stdin = bytes.NewReader(blob)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	want := describe(t, dir)
	if len(got) != len(want) {
		t.Errorf("%d files, want %d", len(got), len(want))
	}
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			t.Fatalf("got  %s\nwant %s", got[i], want[i])
		}
	}
}

// TestSecondReader: go-erofs sees the same names and contents.
func TestSecondReader(t *testing.T) {
	f, _, err := convertTo(t, archive(t, layerFiles()...))
	if err != nil {
		t.Fatal(err)
	}
	at := mount(t, f.Name())
	g, err := goerofs.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	err = fs.WalkDir(g, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		n++
		if !d.Type().IsRegular() {
			return nil
		}
		a, err := fs.ReadFile(g, p)
		if err != nil {
			return err
		}
		if b, _ := os.ReadFile(filepath.Join(at, p)); !bytes.Equal(a, b) {
			return fmt.Errorf("%s: contents differ", p)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := len(describe(t, at)); n != want {
		t.Errorf("%d names, the kernel sees %d", n, want)
	}
}

// TestWhiteoutsInOverlay stacks two layers as the runtime does.
func TestWhiteoutsInOverlay(t *testing.T) {
	lower, _, err := convertTo(t, archive(t, directory("keep"), reg("keep/a", "1"), directory("opq"), reg("opq/old", ""),
		directory("wh"), reg("wh/x", ""), reg("file", "old"), directory("swap"), reg("swap/old", "")))
	if err != nil {
		t.Fatal(err)
	}
	upper, _, err := convertTo(t, archive(t, reg("keep/b", "2"), directory("opq"), reg("opq/.wh..wh..opq", ""), reg("opq/new", ""),
		reg(".wh.wh", ""), reg(".wh.file", ""), reg(".wh.swap", ""), directory("swap"), reg("swap/new", ""), reg(".wh..wh.plnk", "")))
	if err != nil {
		t.Fatal(err)
	}
	lo, up, at := mount(t, lower.Name()), mount(t, upper.Name()), t.TempDir()
	if err := unix.Mount("overlay", at, "overlay", unix.MS_RDONLY, "lowerdir="+up+":"+lo); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(at, unix.MNT_DETACH)
	var names []string
	filepath.WalkDir(at, func(p string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(at, p)
		names = append(names, rel)
		return err
	})
	if got, want := strings.Join(names, " "), ". keep keep/a keep/b opq opq/new swap swap/new"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
