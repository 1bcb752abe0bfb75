package erofs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"strings"
	"testing"
)

// memory is an io.WriterAt that grows.
type memory struct{ b []byte }

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if n := int(off) + len(p); n > len(m.b) {
		m.b = append(m.b, make([]byte, n-len(m.b))...)
	}
	return copy(m.b[off:], p), nil
}

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(m.b).ReadAt(p, off)
}

type files map[string]string // path -> content; ">x" is a symlink, "!" a whiteout, "/" a directory, "/!" an opaque one

func image(t testing.TB, in files) *memory {
	t.Helper()
	m := &memory{}
	w := NewWriter(m)
	root := &Dir{Attr: Attr{Mode: ModeDir | 0o755}}
	var enter func(d *Dir, path string) (*Dir, string)
	enter = func(d *Dir, path string) (*Dir, string) {
		name, rest, more := strings.Cut(path, "/")
		if !more {
			return d, name
		}
		for _, e := range d.Entries {
			if e.Name == name {
				return enter(e.Dir, rest)
			}
		}
		sub := &Dir{Attr: Attr{Mode: ModeDir | 0o755}}
		d.Entries = append(d.Entries, Entry{Name: name, Dir: sub})
		return enter(sub, rest)
	}
	for path, content := range in {
		a := Attr{Mode: ModeRegular | 0o644, Mtime: 7}
		switch {
		case strings.HasPrefix(content, ">"):
			a.Mode, content = ModeSymlink|0o777, content[1:]
		case content == "!":
			a, content = Attr{Mode: ModeChar}, ""
		case strings.HasPrefix(content, "/"):
			d, _ := enter(root, path+"/")
			if content == "/!" {
				d.Attr.Xattrs = []Xattr{{Opaque, []byte("y")}}
			}
			continue
		}
		d, name := enter(root, path)
		i, err := w.Add(a, int64(len(content)), strings.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		d.Entries = append(d.Entries, Entry{Name: name, Inode: i})
	}
	if err := w.Finish(root); err != nil {
		t.Fatal(err)
	}
	return m
}

func open(t testing.TB, in files) *FS {
	f, err := Open(image(t, in))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Check(1000); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestUnion(t *testing.T) {
	big := strings.Repeat("z", 10000)
	u := Union{
		open(t, files{"etc/passwd": "low", "etc/big": big, "opq/x": "low", "dir/a": "a", "was": "w", "lib": ">usr/lib", "usr/lib/f": "f"}),
		open(t, files{"etc/passwd": "high", "opq": "/!", "opq/y": "y", "dir/b": "b", "was": "!", "abs": ">/etc/passwd", "rel": ">../../../../etc/passwd", "loop": ">loop", "via": ">lib/f"}),
	}
	for path, want := range map[string]string{
		"/etc/passwd": "high", "etc/big": big, "/dir/a": "a", "/dir/b": "b", "/opq/y": "y", "/abs": "high", "/rel": "high",
		"/../../etc/./passwd": "high", "/lib/f": "f", "/via": "f",
	} {
		if b, err := u.ReadFile(path, 1<<20); err != nil || string(b) != want {
			t.Errorf("%s: %.20q %v", path, b, err)
		}
	}
	for _, path := range []string{"/opq/x", "/was", "/nothing", "/etc/passwd/x"} {
		if _, err := u.ReadFile(path, 1<<20); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, path := range []string{"/loop", "/dir", "/"} {
		if _, err := u.ReadFile(path, 1<<20); err == nil {
			t.Errorf("%s was read", path)
		}
	}
	if _, err := u.ReadFile("/etc/big", 9999); err == nil {
		t.Error("a file larger than the limit was read")
	}
}

func TestCheckRefuses(t *testing.T) {
	for name, do := range map[string]func(w *Writer, root *Dir) error{
		"device": func(w *Writer, d *Dir) error {
			i, err := w.Add(Attr{Mode: ModeChar | 0o666, Rdev: 0x103}, 0, nil)
			d.Entries = []Entry{{Name: "null", Inode: i}}
			return err
		},
		"block device": func(w *Writer, d *Dir) error {
			i, err := w.Add(Attr{Mode: ModeBlock | 0o666}, 0, nil)
			d.Entries = []Entry{{Name: "sda", Inode: i}}
			return err
		},
		"redirect": func(w *Writer, d *Dir) error {
			d.Attr.Xattrs = []Xattr{{"trusted.overlay.redirect", []byte("/")}}
			return nil
		},
		"label": func(w *Writer, d *Dir) error {
			d.Attr.Xattrs = []Xattr{{"security.selinux", []byte("x")}}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := &memory{}
			w, root := NewWriter(m), &Dir{Attr: Attr{Mode: ModeDir | 0o755}}
			if err := do(w, root); err != nil {
				t.Fatal(err)
			}
			if err := w.Finish(root); err != nil {
				t.Fatal(err)
			}
			f, err := Open(m)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.Check(10); !errors.Is(err, ErrCorrupt) {
				t.Errorf("accepted: %v", err)
			}
		})
	}
}

// TestLargeFile: sizes above 4 GiB keep all their bits.
func TestLargeFile(t *testing.T) {
	const size = 5<<30 + 3
	sparse := &holes{}
	w := NewWriter(sparse)
	i, err := w.Add(Attr{Mode: ModeRegular}, size, io.LimitReader(zeros{}, size))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Finish(&Dir{Attr: Attr{Mode: ModeDir}, Entries: []Entry{{Name: "f", Inode: i}}}); err != nil {
		t.Fatal(err)
	}
	f, err := Open(sparse)
	if err != nil {
		t.Fatal(err)
	}
	if a, err := (Union{f}).Stat("/f"); err != nil || a.Size != size {
		t.Errorf("%+v %v", a, err)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// holes keeps only blocks that are not zero.
type holes struct {
	m   map[int64][]byte
	end int64
}

func (h *holes) WriteAt(p []byte, off int64) (int, error) {
	if h.m == nil {
		h.m = map[int64][]byte{}
	}
	h.end = max(h.end, off+int64(len(p)))
	for k := 0; k < len(p); k += BlockSize {
		if b := p[k:min(k+BlockSize, len(p))]; len(bytes.Trim(b[:64], "\x00"))+len(bytes.Trim(b, "\x00")) > 0 {
			h.m[(off+int64(k))/BlockSize] = append([]byte(nil), b...)
		}
	}
	return len(p), nil
}

func (h *holes) ReadAt(p []byte, off int64) (int, error) {
	for k := range p {
		if off+int64(k) >= h.end {
			return k, io.EOF
		}
		p[k] = 0
		if b := h.m[(off+int64(k))/BlockSize]; b != nil {
			p[k] = b[(off+int64(k))%BlockSize]
		}
	}
	return len(p), nil
}

// FuzzReader: no image makes the reader panic, hang or read out of bounds. The
// input is a list of edits, three bytes each, to a good image: what is broken is
// then what somebody would break, and not the magic number.
func FuzzReader(f *testing.F) {
	m := image(f, files{"etc/passwd": "root:x:0:0", "a/b/c": "x", "l": ">a", "w": "!", "o": "/!", "big": strings.Repeat("q", 9000)})
	f.Add([]byte{0, 0, 0})
	f.Add([]byte{0x80, 4, 5, 0x88, 4, 1})
	for k := superOffset; k < superOffset+200; k += 7 {
		f.Add([]byte{byte(k), byte(k >> 8), 0xff})
	}
	f.Fuzz(func(t *testing.T, edits []byte) {
		img := bytes.Clone(m.b)
		for ; len(edits) >= 3; edits = edits[3:] {
			at := (int(edits[0]) | int(edits[1])<<8) % (len(img) - superOffset)
			img[superOffset+at] = edits[2]
		}
		binary.LittleEndian.PutUint32(img[superOffset+4:], checksum(img[superOffset:BlockSize]))
		fs, err := Open(bytes.NewReader(img))
		if err != nil {
			return
		}
		fs.Check(10000)
		for _, p := range []string{"/etc/passwd", "/l/b/c", "/w", "/big"} {
			Union{fs, fs}.ReadFile(p, 1<<20)
		}
	})
}
