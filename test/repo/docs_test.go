package repo

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	namedTest = regexp.MustCompile(`\b(Test|Fuzz|Benchmark)[A-Z]\w+`)
	testFunc  = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w+)\(`)
	namedPath = regexp.MustCompile("`((?:audit|cmd|docs|fuzz|policy|privsep|profiles|runtime|test|verify)/[\\w./-]+)`")
	fileLink  = regexp.MustCompile(`\]\(([\w./-]+)(?:#[\w-]*)?\)`)
)

// TestDocs: a test, a path or a file that a document names is there.
func TestDocs(t *testing.T) {
	tests := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		src, err := os.ReadFile(path)
		for _, m := range testFunc.FindAllStringSubmatch(string(src), -1) {
			tests[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	docs, err := filepath.Glob(root + "/docs/*.md")
	if err != nil || len(docs) < 5 {
		t.Fatalf("documents: %v, %v", docs, err)
	}
	for _, doc := range append(docs, root+"/README.md") {
		b, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		text := string(b)
		for _, name := range namedTest.FindAllString(text, -1) {
			if !tests[name] {
				t.Errorf("%s names the test %s, which is not there", doc, name)
			}
		}
		for _, m := range namedPath.FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join(root, m[1])); err != nil {
				t.Errorf("%s names %s, which is not there", doc, m[1])
			}
		}
		for _, m := range fileLink.FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(doc), m[1])); err != nil {
				t.Errorf("%s links to %s, which is not there", doc, m[1])
			}
		}
	}
}
