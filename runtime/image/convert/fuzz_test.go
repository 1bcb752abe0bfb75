package convert

import (
	"bytes"
	"os"
	"testing"

	"github.com/postern-cri/postern/runtime/image/erofs"
)

// FuzzLayer: whatever the archive, either an error or an image that the checker
// accepts.
func FuzzLayer(f *testing.F) {
	f.Add(archive(f, directory("a"), reg("a/b", "x"), link("c", "a/b"), symlink("d", "a"), reg(".wh.e", ""), reg("a/.wh..wh..opq", "")))
	f.Add(gz(archive(f, reg("a", "1"), reg("a", "2"))))
	f.Add(archive(f, symlink("a", "/etc"), reg("a/passwd", "x")))
	out, err := os.CreateTemp(f.TempDir(), "")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { out.Close() })
	limits := Limits{Entries: 1000, Bytes: 1 << 20, Blob: 1 << 20, Trailer: 1 << 16}
	f.Fuzz(func(t *testing.T, blob []byte) {
		out.Truncate(0)
		res, err := Layer(out, bytes.NewReader(blob), limits)
		if err != nil {
			return
		}
		fs, err := erofs.Open(out)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fs.Check(2000); err != nil {
			t.Fatalf("%+v: %v", res, err)
		}
	})
}
