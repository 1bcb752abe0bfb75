package admit

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/layout"
	"github.com/postern-cri/postern/privsep/record"
	"github.com/postern-cri/postern/privsep/seqpacket"
	"github.com/postern-cri/postern/runtime/image/convert"
	"github.com/postern-cri/postern/runtime/image/erofs"
	"github.com/postern-cri/postern/runtime/ipc"
	"github.com/postern-cri/postern/test/fixtures"
	"github.com/postern-cri/postern/verify/evidence"
)

// rig is a verifier on one end of a socket pair, with a converter of the test's.
type rig struct {
	t    *testing.T
	l    layout.Layout
	conn *ipc.Conn
	img  fixtures.Image
}

// testImage is what the tests pull.
var testImage = fixtures.MakeImage(fixtures.Config{}, fixtures.MakeLayer(fixtures.File{Name: "a", Body: "b"}))

func newRig(t *testing.T, converter func(r convert.Request, blob, out *os.File) convert.Answer) *rig {
	t.Helper()
	l := layout.New(t.TempDir())
	for _, d := range []string{l.TrustDir(), filepath.Dir(l.ConvertSocket()), l.Records(), l.Layers()} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	os.WriteFile(l.Trust(), []byte("default = \"accept\"\n"), 0o644)
	fd, err := seqpacket.Listen(l.ConvertSocket())
	if err != nil {
		t.Fatal(err)
	}
	ln, _ := seqpacket.NewListener(fd)
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				conn := ipc.New(c)
				defer conn.Close()
				for {
					var r convert.Request
					fds, err := conn.Recv(&r, 2)
					if err != nil {
						return
					}
					conn.Send(converter(r, os.NewFile(uintptr(fds[0]), "blob"), os.NewFile(uintptr(fds[1]), "out")))
				}
			}()
		}
	}()
	a, b, err := seqpacket.Pair()
	if err != nil {
		t.Fatal(err)
	}
	server, _ := seqpacket.NewConn(a)
	mine, _ := seqpacket.NewConn(b)
	done := make(chan error, 1)
	go func() { done <- Serve(ipc.New(server), l) }()
	t.Cleanup(func() {
		mine.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
		server.Close()
	})
	r := &rig{t, l, ipc.New(mine), testImage}
	job := &evidence.Job{Repository: "r.example/a", Manifest: r.img.Manifest, Config: r.img.Config}
	enc, _ := job.Encode()
	f, err := ipc.MakeBlob(enc)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if ans := r.call(Request{Op: "verify"}, int(f.Fd())); ans.Error != nil || len(ans.Missing) != 1 {
		t.Fatalf("%+v", ans)
	}
	return r
}

func (r *rig) call(q Request, fds ...int) (a Answer) {
	r.t.Helper()
	if _, err := r.conn.Call(convert.Timeout, q, &a, 0, fds...); err != nil {
		r.t.Fatal(err)
	}
	return a
}

func (r *rig) admit(manifest string, layer int) Answer {
	r.t.Helper()
	f, err := os.CreateTemp(r.t.TempDir(), "")
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	f.Write(r.img.Layers[0].Blob)
	return r.call(Request{Op: "admit", Manifest: manifest, Layer: layer}, int(f.Fd()))
}

// honest is what the real converter does.
func honest(blob, out *os.File) convert.Answer {
	defer blob.Close()
	defer out.Close()
	res, err := convert.Layer(out, io.NewSectionReader(blob, 0, 1<<20), convert.DefaultLimits)
	if err != nil {
		return convert.Answer{Error: err.Error()}
	}
	return convert.Answer{Result: &res}
}

// write makes the converter write another image and claim that it is the layer's.
func write(make func(w *erofs.Writer) *erofs.Dir) func(blob, out *os.File, img fixtures.Image) convert.Answer {
	return func(blob, out *os.File, img fixtures.Image) convert.Answer {
		defer blob.Close()
		defer out.Close()
		w := erofs.NewWriter(out)
		w.Finish(make(w))
		return convert.Answer{Result: &convert.Result{Digest: fixtures.Digest(img.Layers[0].Blob), DiffID: img.Layers[0].DiffID}}
	}
}

// TestHostileConverter: the process that parses layers may be an attacker's.
func TestHostileConverter(t *testing.T) {
	root := erofs.Attr{Mode: erofs.ModeDir | 0o755}
	var kept []*os.File
	defer func() {
		for _, f := range kept {
			f.Close()
		}
	}()
	for name, tt := range map[string]struct {
		do   func(blob, out *os.File, img fixtures.Image) convert.Answer
		want string
	}{
		"honest": {func(b, o *os.File, _ fixtures.Image) convert.Answer { return honest(b, o) }, ""},
		"another digest": {func(b, o *os.File, _ fixtures.Image) convert.Answer {
			a := honest(b, o)
			a.Result.Digest = fixtures.Digest(nil)
			return a
		}, "the registry sent"},
		"another diffID": {func(b, o *os.File, _ fixtures.Image) convert.Answer {
			a := honest(b, o)
			a.Result.DiffID = fixtures.Digest(nil)
			return a
		}, "configuration says"},
		"no image": {func(b, o *os.File, img fixtures.Image) convert.Answer {
			b.Close()
			o.Close()
			return convert.Answer{Result: &convert.Result{Digest: fixtures.Digest(img.Layers[0].Blob), DiffID: img.Layers[0].DiffID}}
		}, "superblock"},
		"a device": {write(func(w *erofs.Writer) *erofs.Dir {
			i, _ := w.Add(erofs.Attr{Mode: erofs.ModeBlock | 0o666, Rdev: 0x800}, 0, nil)
			return &erofs.Dir{Attr: root, Entries: []erofs.Entry{{Name: "sda", Inode: i}}}
		}), "device"},
		"an overlay redirect": {write(func(w *erofs.Writer) *erofs.Dir {
			a := root
			a.Xattrs = []erofs.Xattr{{Name: "trusted.overlay.redirect", Value: []byte("/etc")}}
			return &erofs.Dir{Attr: a}
		}), "redirect"},
		"data behind the end": {func(b, o *os.File, _ fixtures.Image) convert.Answer {
			dup, _ := unix.Dup(int(o.Fd()))
			a := honest(b, o)
			unix.Pwrite(dup, []byte("x"), a.Result.Image+100)
			unix.Close(dup)
			return a
		}, "size"},
		"keeps the file open": {func(b, o *os.File, _ fixtures.Image) convert.Answer {
			dup, _ := unix.Dup(int(o.Fd()))
			kept = append(kept, os.NewFile(uintptr(dup), "kept"))
			return honest(b, o)
		}, "keeps its layer open"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, func(_ convert.Request, blob, out *os.File) convert.Answer { return tt.do(blob, out, testImage) })
			a := r.admit(r.img.Digest(), 0)
			ents, _ := os.ReadDir(r.l.Layers())
			if tt.want == "" {
				if a.Error != nil || len(ents) != 1 {
					t.Errorf("%v %v", a.Error, ents)
				}
				return
			}
			if a.Error == nil || !strings.Contains(a.Error.Message, tt.want) || len(ents) > 0 {
				t.Errorf("got %v with %v, want %q", a.Error, ents, tt.want)
			}
		})
	}
}

// TestOnlyWhatWasVerified: the fetching process may be an attacker's, too.
func TestOnlyWhatWasVerified(t *testing.T) {
	r := newRig(t, func(_ convert.Request, blob, out *os.File) convert.Answer { return honest(blob, out) })
	if a := r.admit("sha256:"+strings.Repeat("0", 64), 0); a.Error == nil {
		t.Error("a layer of another image was admitted")
	}
	for _, k := range []int{-1, 1, 1 << 30} {
		if a := r.admit(r.img.Digest(), k); a.Error == nil {
			t.Errorf("layer %d was admitted", k)
		}
	}
	for _, op := range []string{"verify", "admit", "", "exec"} {
		if a := r.call(Request{Op: op}); a.Error == nil {
			t.Errorf("%q without an fd was accepted", op)
		}
	}
	if a := r.call(Request{Op: "remove", Manifest: "../../etc"}); a.Error == nil {
		t.Error("a path was taken for a digest")
	}
	p := pipe(t)
	if a := r.call(Request{Op: "admit", Manifest: r.img.Digest()}, p); a.Error == nil {
		t.Error("a pipe was taken for a blob")
	}
	unix.Close(p)
	// The record is there, read-only, and says that nobody vouched.
	d, _ := os.Open(r.l.Records())
	defer d.Close()
	if rec, _, err := record.Read(int(d.Fd()), r.img.Digest(), uint32(os.Geteuid())); err != nil || rec.Status != record.AcceptedUnsigned {
		t.Errorf("%+v %v", rec, err)
	}
}

func pipe(t *testing.T) int {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	unix.Close(p[1])
	return p[0]
}

// A layer that is here is shared by every image that names it: no later
// conversion, by a converter that an image took over, replaces it.
func TestLayerIsNotReplaced(t *testing.T) {
	r := newRig(t, func(_ convert.Request, blob, out *os.File) convert.Answer { return honest(blob, out) })
	if a := r.admit(r.img.Digest(), 0); a.Error != nil {
		t.Fatal(a.Error)
	}
	name := filepath.Join(r.l.Layers(), strings.TrimPrefix(r.img.Layers[0].DiffID, "sha256:")+".erofs")
	var before, after unix.Stat_t
	if err := unix.Stat(name, &before); err != nil {
		t.Fatal(err)
	}
	if a := r.admit(r.img.Digest(), 0); a.Error != nil {
		t.Fatal(a.Error)
	}
	if err := unix.Stat(name, &after); err != nil || before.Ino != after.Ino {
		t.Errorf("the layer was replaced: inode %d, then %d, %v", before.Ino, after.Ino, err)
	}
	if left, _ := filepath.Glob(r.l.Layers() + "/" + tempPrefix + "*"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
