package convert

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/postern-cri/postern/runtime/image/erofs"
)

// file is one tar entry of a test.
type file struct {
	tar.Header
	body string
}

func reg(name, body string) file {
	return file{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}, body}
}
func directory(name string) file {
	return file{tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}, ""}
}
func symlink(name, to string) file {
	return file{tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}, ""}
}
func link(name, to string) file {
	return file{tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to}, ""}
}

func archive(t testing.TB, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		f.Size = int64(len(f.body))
		if f.ModTime.IsZero() {
			f.ModTime = time.Unix(1700000000, 0)
		}
		if f.Xattrs == nil && len(f.PAXRecords) > 0 {
			f.Format = tar.FormatPAX
		}
		if err := w.WriteHeader(&f.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gz(b []byte) []byte {
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	w.Write(b)
	w.Close()
	return z.Bytes()
}

// convertTo converts to a file and checks it with the reader.
func convertTo(t testing.TB, blob []byte) (*os.File, Result, error) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "layer.erofs"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	res, err := Layer(f, bytes.NewReader(blob), DefaultLimits)
	if err != nil {
		return nil, res, err
	}
	fs, err := erofs.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fs.Check(1 << 20); err != nil {
		t.Fatal(err)
	}
	return f, res, nil
}

func digest(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

func TestDigestsAndFormats(t *testing.T) {
	plain := archive(t, directory("a"), reg("a/b", strings.Repeat("x", 10000)), reg("c", ""))
	enc, _ := zstd.NewWriter(nil)
	two := append(gz(plain[:700]), gz(plain[700:])...)
	for name, blob := range map[string][]byte{"tar": plain, "gzip": gz(plain), "two gzip members": two, "zstd": enc.EncodeAll(plain, nil)} {
		t.Run(name, func(t *testing.T) {
			f, res, err := convertTo(t, blob)
			if err != nil {
				t.Fatal(err)
			}
			if res.Digest != digest(blob) || res.DiffID != digest(plain) || res.Tar != int64(len(plain)) || res.Blob != int64(len(blob)) {
				t.Errorf("got %+v, want %s %s", res, digest(blob), digest(plain))
			}
			if st, _ := f.Stat(); st.Size() != res.Image {
				t.Errorf("image has %d bytes, said %d", st.Size(), res.Image)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	long := strings.Repeat("d/", 2100)
	pax := func(f file, k, v string) file {
		f.PAXRecords = map[string]string{k: v}
		return f
	}
	dev := file{tar.Header{Name: "x", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}, ""}
	for name, tt := range map[string]struct {
		files []file
		want  string
	}{
		"absolute":                {[]file{reg("/etc/passwd", "x")}, "absolute"},
		"dot dot":                 {[]file{reg("../x", "x")}, `".."`},
		"inner dot dot":           {[]file{reg("a/../b", "x")}, `".."`},
		"root symlink":            {[]file{symlink("./", "/")}, "root can only be"},
		"root symlink dot":        {[]file{symlink(".", "/etc")}, "root can only be"},
		"root hard link":          {[]file{reg("a", ""), link("./", "a")}, "root can only be"},
		"through symlink":         {[]file{symlink("a", "/etc"), reg("a/passwd", "x")}, "is a symlink"},
		"deep through symlink":    {[]file{symlink("a", "b"), directory("b"), reg("a/b/c", "x")}, "is a symlink"},
		"dir swapped for symlink": {[]file{directory("a"), reg("a/x", ""), symlink("a", "/"), reg("a/y", "")}, "is a symlink"},
		"whiteout via symlink":    {[]file{symlink("a", "/"), reg("a/.wh.b", "")}, "is a symlink"},
		"beneath a file":          {[]file{reg("a", ""), reg("a/b", "")}, "not a directory"},
		"link to nothing":         {[]file{link("a", "b")}, "not in this layer"},
		"link out":                {[]file{link("a", "../../etc/shadow")}, "not a name in this layer"},
		"link absolute":           {[]file{link("a", "/etc/shadow")}, "not a name in this layer"},
		"link via symlink":        {[]file{symlink("s", "d"), directory("d"), reg("d/f", ""), link("a", "s/f")}, "not in this layer"},
		"link to dir":             {[]file{directory("d"), link("a", "d")}, "directory"},
		"link to whiteout":        {[]file{reg(".wh.w", ""), link("a", "w")}, "not in this layer"},
		"whiteout of nothing":     {[]file{reg(".wh.", "")}, "whiteout of no name"},
		"whiteout of dot dot":     {[]file{reg(".wh...", "")}, "whiteout of no name"},
		"opaque root":             {[]file{reg(".wh..wh..opq", "")}, "root"},
		"device":                  {[]file{dev}, "device node"},
		"long name":               {[]file{reg(strings.Repeat("n", 256), "")}, "255"},
		"long path":               {[]file{reg(long+"x", "")}, "4096"},
		"overlay xattr":           {[]file{pax(reg("a", ""), "SCHILY.xattr.trusted.overlay.redirect", "/x")}, "trusted.overlay.redirect"},
		"negative uid":            {[]file{{tar.Header{Name: "a", Typeflag: tar.TypeReg, Uid: -1, Format: tar.FormatGNU}, ""}}, "out of range"},
		"uid 2^32-1":              {[]file{pax(reg("a", ""), "uid", "4294967295")}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.want == "" {
				tt.files[0].PAXRecords, tt.files[0].Uid, tt.want = nil, 1<<32-1, "out of range"
			}
			_, _, err := convertTo(t, archive(t, tt.files...))
			var e *EntryError
			if !errors.As(err, &e) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an entry error with %q", err, tt.want)
			}
		})
	}
}

// TestLeftOut: what a layer may bring and no container sees.
func TestLeftOut(t *testing.T) {
	null := file{tar.Header{Name: "dev/null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}, ""}
	labelled := reg("etc/x", "x")
	labelled.PAXRecords = map[string]string{"SCHILY.xattr.security.selinux": "system_u:object_r:etc_t:s0", "SCHILY.xattr.trusted.md5": "1", "SCHILY.xattr.user.a": "b"}
	f, _, err := convertTo(t, archive(t, directory("dev"), null, labelled))
	if err != nil {
		t.Fatal(err)
	}
	fs, err := erofs.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	u := erofs.Union{fs}
	if _, err := u.Stat("/dev/null"); err == nil {
		t.Error("a device is in the image")
	}
	if a, err := u.Stat("/etc/x"); err != nil || len(a.Xattrs) != 1 || a.Xattrs[0].Name != "user.a" {
		t.Errorf("%+v %v", a, err)
	}
}

func TestLimits(t *testing.T) {
	small := Limits{Entries: 3, Bytes: 1 << 20, Blob: 1 << 20, Trailer: 4096}
	ok := archive(t, reg("a", ""))
	for name, blob := range map[string][]byte{
		"entries":      archive(t, reg("a", ""), reg("b", ""), reg("c", ""), reg("d", "")),
		"implied":      archive(t, reg("a/b/c/d", "")),
		"gzip bomb":    gz(archive(t, reg("a", strings.Repeat("\x00", 2<<20)))),
		"blob":         archive(t, reg("a", strings.Repeat("x", 2<<20))),
		"zero trailer": append(append([]byte(nil), ok...), make([]byte, 9000)...),
		"junk trailer": append(append([]byte(nil), ok...), "junk"...),
		"gzip junk":    append(gz(ok), "junk"...),
		"truncated":    gz(ok)[:20],
		"cut tar":      archive(t, reg("a", "0123456789"))[:514],
		"xz":           []byte("\xfd7zXZ\x00 and more"),
	} {
		t.Run(name, func(t *testing.T) {
			f, _ := os.Create(filepath.Join(t.TempDir(), "x"))
			defer f.Close()
			if res, err := Layer(f, bytes.NewReader(blob), small); err == nil {
				t.Errorf("converted: %+v", res)
			} else {
				t.Log(err)
			}
			if _, err := erofs.Open(f); err == nil {
				t.Error("what was left is an image")
			}
		})
	}
}

func TestDeterministic(t *testing.T) {
	var files []file
	for i := range 300 {
		files = append(files, reg(fmt.Sprintf("d%d/f%d", i%7, i), strings.Repeat("y", i*40)), reg(fmt.Sprintf("e%d/.wh.x%d", i%5, i), ""))
	}
	rand.Shuffle(len(files), func(int, int) {})
	a, _, err := convertTo(t, archive(t, files...))
	if err != nil {
		t.Fatal(err)
	}
	b, _, _ := convertTo(t, archive(t, files...))
	x, _ := os.ReadFile(a.Name())
	y, _ := os.ReadFile(b.Name())
	if !bytes.Equal(x, y) {
		t.Error("two conversions of one layer differ")
	}
}
