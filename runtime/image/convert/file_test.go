package convert

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-cri/postern/runtime/image/erofs"
	"github.com/postern-cri/postern/test/fixtures"
)

// TestFile: all bytes, beneath the directories of its name, and nothing else.
func TestFile(t *testing.T) {
	for _, size := range []int{0, 1, 4095, 4096, 3<<20 + 5} {
		body := bytes.Repeat([]byte("x"), size)
		for _, name := range []string{"a", "dir/sub/a"} {
			out, err := os.Create(filepath.Join(t.TempDir(), "image"))
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			res, err := File(out, bytes.NewReader(body), int64(size), name, DefaultLimits)
			if err != nil || res.Digest != fixtures.Digest(body) {
				t.Fatalf("%s of %d bytes: %+v %v", name, size, res, err)
			}
			img, err := erofs.Open(out)
			if err != nil {
				t.Fatal(err)
			}
			if n, err := img.Check(100); err != nil || int(n.Inodes) != 2+strings.Count(name, "/") {
				t.Errorf("%s of %d bytes: %+v, %v", name, size, n, err)
			}
			got, err := erofs.Union{img}.ReadFile(name, 4<<20)
			if err != nil || !bytes.Equal(got, body) {
				t.Errorf("%s of %d bytes: read %d bytes, %v", name, size, len(got), err)
			}
			a, err := erofs.Union{img}.Stat(name)
			if err != nil || a.Mode != erofs.ModeRegular|0o444 {
				t.Errorf("%s: %+v %v", name, a, err)
			}
		}
	}
	// It is longer or shorter than was said.
	for _, size := range []int64{2, 4} {
		out, _ := os.Create(filepath.Join(t.TempDir(), "image"))
		defer out.Close()
		if _, err := File(out, strings.NewReader("abc"), size, "a", DefaultLimits); err == nil {
			t.Errorf("3 bytes were taken for %d", size)
		}
	}
	for _, name := range []string{"", "..", "../a", "/a", "a/../../b", "a\x00"} {
		out, _ := os.Create(filepath.Join(t.TempDir(), "image"))
		defer out.Close()
		if _, err := File(out, strings.NewReader("abc"), 3, name, DefaultLimits); err == nil {
			t.Errorf("the name %q was accepted", name)
		}
	}
}
