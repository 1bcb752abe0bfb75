package manifest

import (
	"fmt"
	"strings"
	"testing"
)

const (
	d1 = "sha256:1111111111111111111111111111111111111111111111111111111111111111"
	d2 = "sha256:2222222222222222222222222222222222222222222222222222222222222222"
)

var good = fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":2},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":%q,"size":3}]}`, OCIManifest, d1, d2)

func TestParse(t *testing.T) {
	m, i, err := Parse([]byte(good), OCIManifest)
	if err != nil || m == nil || i != nil || m.Check() != nil {
		t.Fatalf("%v %v %v", m, i, err)
	}
	for name, text := range map[string]string{
		"both":                  strings.Replace(good, "{", `{"manifests":[],`, 1),
		"neither":               `{"schemaVersion":2}`,
		"member twice":          strings.Replace(good, `"layers"`, `"layers":[],"layers"`, 1),
		"member twice by case":  strings.Replace(good, `"layers"`, `"LAYERS":[],"layers"`, 1),
		"member twice by fold":  strings.Replace(good, `"layers"`, `"layerſ":[],"layers"`, 1),
		"twice in a descriptor": strings.Replace(good, `"size":2`, `"size":2,"Size":3`, 1),
		"schema 1":              strings.Replace(good, ":2,", ":1,", 1),
		"trailing":              good + "{}",
		"digest":                strings.Replace(good, d1, "sha256:../../etc/passwd", 1),
		"digest of sha512":      strings.Replace(good, d1, "sha512:11", 1),
		"negative size":         strings.Replace(good, `"size":2`, `"size":-2`, 1),
		"index's type":          strings.Replace(good, OCIManifest, OCIIndex, 1),
		"deep":                  strings.Replace(good, "{", `{"x":`+strings.Repeat("[", 100)+strings.Repeat("]", 100)+",", 1),
		"large":                 good + strings.Repeat(" ", MaxSize),
	} {
		if m, i, err := Parse([]byte(text), ""); err == nil {
			t.Errorf("%s: accepted: %v %v", name, m, i)
		}
	}
	if _, _, err := Parse([]byte(good), OCIIndex); err == nil {
		t.Error("a manifest that was sent as an index was accepted")
	}
	// Keys of annotations are the author's.
	if _, _, err := Parse([]byte(strings.Replace(good, "{", `{"annotations":{"a":"1","A":"2"},`, 1)), ""); err != nil {
		t.Error(err)
	}
	for name, text := range map[string]string{
		"urls":  strings.Replace(good, `"size":3`, `"size":3,"urls":["https://elsewhere.example/x"]`, 1),
		"layer": strings.Replace(good, "tar+gzip", "tar+xz", 1),
	} {
		m, _, err := Parse([]byte(text), "")
		if err != nil || m.Check() == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestUserID: the values of USER that elsewhere became root.
func TestUser(t *testing.T) {
	for _, s := range []string{"", "0", "0:0", "1000", "1000:1000", "2147483647", "app", "app:app", "1000:users", "_x-1.2$"} {
		if err := CheckUser(s); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	}
	for _, s := range []string{"2147483648", "4294967295", "4294967296", "4294967296:1", "18446744073709551616", "-1", "0x0", "1e3", " 0", "0 ", "+0", "٠", "00", "007",
		"1:2:3", ":1", "1:", "a:", "a b", "a\nb", "1000:4294967296", "1:-1", "\x00"} {
		if err := CheckUser(s); err == nil {
			t.Errorf("%q was accepted", s)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good), OCIManifest)
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"digest":"`+d1+`","size":1,"platform":{"os":"linux","architecture":"amd64"}}]}`), "")
	f.Fuzz(func(t *testing.T, b []byte, ct string) {
		m, i, err := Parse(b, ct)
		if err == nil && (m == nil) == (i == nil) {
			t.Fatal("neither or both")
		}
		if m != nil && err == nil {
			m.Check()
			m.Files()
		}
		if i != nil && err == nil {
			i.Choose("amd64")
		}
		ParseConfig(b)
	})
}
