package userdb

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-cri/postern/runtime/image/convert"
	"github.com/postern-cri/postern/test/fixtures"
)

// open makes an image of layers in a directory.
func open(t *testing.T, layers ...fixtures.Layer) *DB {
	t.Helper()
	dir := t.TempDir()
	var ids []string
	for _, l := range layers {
		f, err := os.Create(filepath.Join(dir, strings.TrimPrefix(l.DiffID, "sha256:")+".erofs"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := convert.Layer(f, bytes.NewReader(l.Blob), convert.DefaultLimits); err != nil {
			t.Fatal(err)
		}
		f.Close()
		ids = append(ids, l.DiffID)
	}
	db, err := Open(dir, ids)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func files(passwd, group string) fixtures.Layer {
	return fixtures.MakeLayer(fixtures.File{Name: "etc/passwd", Body: passwd}, fixtures.File{Name: "etc/group", Body: group})
}

func TestLookups(t *testing.T) {
	db := open(t, files("old:x:1:1::/:\n", ""), files("# comment\nroot:x:0:0::/:\napp:x:1000:1001::/:\nbad:x:4294967296:0::/:\ntwin:x:1000:7::/:\nshort:x\n",
		"app:x:1001:\nextra:x:2000:app,other\nmore:x:2001: other , app\nhuge:x:4294967296:huge\n"))
	if uid, gid, ok, err := db.ByName("app"); uid != 1000 || gid != 1001 || !ok || err != nil {
		t.Error(uid, gid, ok, err)
	}
	for _, n := range []string{"old", "nobody", "", "short"} {
		if _, _, ok, err := db.ByName(n); ok || err != nil {
			t.Error(n, ok, err)
		}
	}
	if uid, _, ok, err := db.ByName("bad"); ok || err == nil || uid != 0 {
		t.Error("a uid of 2^32 was accepted", uid, ok)
	}
	if name, gid, ok, err := db.ByUID(1000); name != "app" || gid != 1001 || !ok || err != nil {
		t.Error(name, gid, ok, err)
	}
	if gid, ok, err := db.Group("extra"); gid != 2000 || !ok || err != nil {
		t.Error(gid, ok, err)
	}
	if g, err := db.Member("app"); len(g) != 2 || g[0] != 2000 || g[1] != 2001 || err != nil {
		t.Error(g, err)
	}
	if _, err := db.Member("huge"); err == nil {
		t.Error("a gid of 2^32 was accepted")
	}
}

// TestHostileFiles: what /etc/passwd may be in an image that means harm.
func TestHostileFiles(t *testing.T) {
	entry := func(f fixtures.File) fixtures.Layer {
		f.Name = "etc/passwd"
		return fixtures.MakeLayer(f)
	}
	for name, l := range map[string]fixtures.Layer{
		"too large": entry(fixtures.File{Body: strings.Repeat("root:x:0:0::/:\n", 100000)}),
		"fifo":      entry(fixtures.File{Type: tar.TypeFifo}),
		"directory": entry(fixtures.File{Type: tar.TypeDir, Mode: 0o755}),
		"loop":      entry(fixtures.File{Type: tar.TypeSymlink, Link: "passwd"}),
	} {
		if _, _, ok, err := open(t, l).ByName("root"); ok || err == nil {
			t.Errorf("%s: %v %v", name, ok, err)
		}
	}
	// A symlink out of the image leads to the image's own root.
	if _, _, ok, err := open(t, entry(fixtures.File{Type: tar.TypeSymlink, Link: "../../../../proc/self/environ"})).ByName("root"); ok || err != nil {
		t.Errorf("out: %v %v", ok, err)
	}
	if _, err := Open(t.TempDir(), []string{"sha256:../../../etc"}); err == nil {
		t.Error("a path was taken for a digest")
	}
}
