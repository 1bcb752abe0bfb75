package manifest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func artifact(titles ...string) *Manifest {
	m := &Manifest{Config: Descriptor{MediaType: "application/vnd.oci.empty.v1+json", Digest: d1}}
	for k, t := range titles {
		d := Descriptor{Digest: fmt.Sprintf("sha256:%064x", k)}
		if t != "-" {
			d.Annotations = map[string]string{TitleAnnotation: t}
		}
		m.Layers = append(m.Layers, d)
	}
	return m
}

// TestFiles: names that lead out of the volume, hide one another or look like
// something else are refused.
func TestFiles(t *testing.T) {
	got, err := artifact("model.bin", "conf/a b.json", "conf/ü", "-", ".hidden", "a..b", ".wh.x", strings.Repeat("n", 255)).Files()
	want := []string{"model.bin", "conf/a b.json", "conf/ü", fmt.Sprintf("sha256-%064x", 3), ".hidden", "a..b", ".wh.x", strings.Repeat("n", 255)}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%q %v", got, err)
	}
	if err := artifact("x").Check(); err != nil {
		t.Error(err)
	}
	for name, titles := range map[string][]string{
		"empty": {""}, "dotdot": {".."}, "leads up": {"a/../../b"}, "leads up and back": {"a/../b"}, "absolute": {"/etc/passwd"}, "here": {"."}, "here, in it": {"a/./b"},
		"slash at the end": {"a/"}, "two slashes": {"a//b"}, "backslash": {`..\x`}, "zero": {"a\x00b"}, "newline": {"a\nb"}, "escape": {"a\x1b[2J"},
		"written backwards": {"a\u202etxt.exe"}, "no UTF-8": {"a\xff"}, "long": {strings.Repeat("n", 256)}, "long path": {strings.Repeat("n/", 600) + "n"},
		"twice": {"a", "a"}, "file and directory": {"a", "a/b"}, "directory and file": {"a/b/c", "a/b"}, "none": {},
	} {
		if err := artifact(titles...).Check(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	m := artifact("x")
	m.Layers[0].URLs = []string{"http://elsewhere.test/x"}
	if m.Check() == nil {
		t.Error("a file that lies elsewhere was accepted")
	}
	if FileID(d1, "ab") == FileID(d1, "a") || FileID(d1, "a") == FileID(d2, "a") {
		t.Error("two files with one id")
	}
}
