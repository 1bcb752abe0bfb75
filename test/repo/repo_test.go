// Package repo holds the repository's rules as tests: what each binary links,
// how large the privileged ones are, and how the code is laid out.
package repo

import (
	"bufio"
	"bytes"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the dependency closures anew")

const (
	module = "github.com/postern-cri/postern"
	root   = "../.."
)

// tags are the build tags that the Makefile builds cmd with.
func tags(t *testing.T, cmd string) string {
	t.Helper()
	name := "TAGS"
	if cmd == "postern-launch" {
		name = "LAUNCH_TAGS"
	}
	b, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, name+" := "); ok {
			return strings.TrimSpace(v)
		}
	}
	t.Fatalf("the Makefile has no line %s", name)
	return ""
}

func goList(t *testing.T, tags string, args ...string) []string {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-tags", tags}, args...)...)
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %v: %v\n%s", args, err, stderr.String())
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

func binaries(t *testing.T) []string {
	t.Helper()
	ents, err := os.ReadDir(filepath.Join(root, "cmd"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range ents {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	if len(names) < 11 {
		t.Fatalf("cmd/ holds %v: want one directory a process, eleven of them", names)
	}
	return names
}

// closure returns the packages outside the standard library that cmd links.
func closure(t *testing.T, cmd string) []string {
	var out []string
	for _, line := range goList(t, tags(t, cmd), "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", "./cmd/"+cmd) {
		if line != "" {
			out = append(out, line)
		}
	}
	sort.Strings(out)
	return out
}

// TestDependencyClosures holds each binary's closure against the checked-in
// list: a new dependency is a reviewed line.
func TestDependencyClosures(t *testing.T) {
	for _, b := range binaries(t) {
		t.Run(b, func(t *testing.T) {
			got := strings.Join(closure(t, b), "\n") + "\n"
			file := filepath.Join("deps", b+".txt")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("%s links other packages than %s says; look at the difference, then run go test ./test/repo -update:\n%s", b, file, diff(string(want), got))
			}
		})
	}
}

func diff(want, got string) string {
	w, g := map[string]bool{}, map[string]bool{}
	for _, s := range strings.Fields(want) {
		w[s] = true
	}
	for _, s := range strings.Fields(got) {
		g[s] = true
	}
	var b strings.Builder
	for s := range g {
		if !w[s] {
			b.WriteString("+ " + s + "\n")
		}
	}
	for s := range w {
		if !g[s] {
			b.WriteString("- " + s + "\n")
		}
	}
	return b.String()
}

// TestForbiddenDependencies states the closures' rules with their reasons.
func TestForbiddenDependencies(t *testing.T) {
	rules := []struct {
		bin    string
		allow  []string // nil: anything but deny
		deny   []string
		reason string
	}{
		{"postern-helper", []string{module + "/privsep/", module + "/cmd/postern-helper", "golang.org/x/sys/"}, nil, "the privileged helper is standard library and x/sys"},
		{"postern-init", []string{module + "/privsep/", module + "/cmd/postern-init", "golang.org/x/sys/"}, nil, "init is standard library and x/sys"},
		{"posternd", nil, []string{"open-policy-agent", "sigstore", "golang.org/x/net/trace", "containers/image", "go-containerregistry", "opencontainers/", "containernetworking",
			module + "/privsep/helper", module + "/runtime/launch", module + "/runtime/image/fetch", module + "/policy/engine", module + "/verify"}, "the front end links no policy engine, no signature, image or container library, and of the privileged side only what asks it"},
		{"postern-streamd", nil, []string{"open-policy-agent", "sigstore", "containers/image", "libcontainer"}, "streamd copies bytes"},
		{"postern-logd", nil, []string{"grpc", "open-policy-agent", "sigstore", "net/http"}, "logd copies bytes"},
		{"postern-auditd", nil, []string{"grpc", "open-policy-agent", "sigstore", "libcontainer"}, "auditd writes a log"},
		{"postern-policyd", nil, []string{"google.golang.org/grpc", "sigstore", "containers/image", "libcontainer"}, "policyd evaluates"},
		{"postern-launch", nil, []string{"google.golang.org/", "open-policy-agent", "sigstore", "containers/image", "checkpoint-restore", "protobuf", "net/http"}, "launch creates containers, and reads no protocol of anybody"},
		{"postern-cni", nil, []string{"google.golang.org/grpc", "open-policy-agent", "sigstore", "libcontainer"}, "cni runs plugins"},
	}
	for _, r := range rules {
		for _, p := range closure(t, r.bin) {
			ok := r.allow == nil
			for _, a := range r.allow {
				ok = ok || strings.HasPrefix(p, a)
			}
			for _, d := range r.deny {
				ok = ok && !strings.Contains(p, d)
			}
			if !ok {
				t.Errorf("%s links %s, but %s", r.bin, p, r.reason)
			}
		}
	}
	for _, b := range binaries(t) {
		if b == "postern-launch" {
			continue
		}
		for _, p := range closure(t, b) {
			if strings.Contains(p, "runc/libcontainer") {
				t.Errorf("%s links %s: only postern-launch may", b, p)
			}
		}
	}
}

// TestNoNetworkLinked: who has no business with a network links neither sockets
// of it nor a resolver, which would read the node's files and other servers'
// answers.
func TestNoNetworkLinked(t *testing.T) {
	for _, b := range []string{"postern-helper", "postern-init", "postern-logd", "postern-auditd"} {
		for _, p := range goList(t, tags(t, b), "-deps", "./cmd/"+b) {
			switch p {
			case "net", "net/http", "os/user", "plugin", "text/template", "encoding/gob":
				t.Errorf("%s links %s", b, p)
			}
		}
	}
}

// TestPrivsepImportsNothingOfOurs: dependencies point inwards.
func TestPrivsepImportsNothingOfOurs(t *testing.T) {
	for _, line := range goList(t, "", "-f", "{{.ImportPath}} {{join .Imports \" \"}}", "./privsep/...") {
		f := strings.Fields(line)
		for _, imp := range f[1:] {
			if strings.HasPrefix(imp, module+"/") && !strings.HasPrefix(imp, module+"/privsep/") {
				t.Errorf("%s imports %s: privsep imports nothing of runtime, policy, verify, audit or profiles", f[0], imp)
			}
		}
	}
}

// TestLineBudgets counts the lines of this repository that are linked into the
// privileged processes and holds them against docs/BUDGETS.md.
func TestLineBudgets(t *testing.T) {
	for _, b := range []string{"postern-helper", "postern-init"} {
		lines := 0
		for _, l := range goList(t, tags(t, b), "-deps", "-f", "{{if .Module}}{{if .Module.Main}}{{$d := .Dir}}{{range .GoFiles}}{{$d}}/{{.}} {{end}}{{end}}{{end}}", "./cmd/"+b) {
			for _, f := range strings.Fields(l) {
				lines += codeLines(t, f)
			}
		}
		limit := budget(t, "lines linked into `"+b+"`")
		t.Logf("%s: %d lines of code, budget %d", b, lines, limit)
		if lines > limit {
			t.Errorf("%s: %d lines of code are linked, budget %d", b, lines, limit)
		}
	}
}

// codeLines counts lines that are not blank and not only a comment.
func codeLines(t *testing.T, file string) int {
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, l := range strings.Split(string(b), "\n") {
		l = strings.TrimSpace(l)
		if l != "" && !strings.HasPrefix(l, "//") {
			n++
		}
	}
	return n
}

// budget reads the limit of a row of docs/BUDGETS.md: the row's first cell
// starts with what, the second is the limit.
func budget(t *testing.T, what string) int {
	f, err := os.Open(filepath.Join(root, "docs/BUDGETS.md"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		cells := strings.Split(s.Text(), "|")
		if len(cells) < 4 || !strings.HasPrefix(strings.TrimSpace(cells[1]), what) {
			continue
		}
		n, err := strconv.Atoi(strings.ReplaceAll(strings.Fields(cells[2])[0], ",", ""))
		if err != nil {
			t.Fatalf("docs/BUDGETS.md: row %q: limit %q is not a number", what, cells[2])
		}
		return n
	}
	t.Fatalf("docs/BUDGETS.md has no row %q", what)
	return 0
}

// TestVerbBudget counts the verbs of the boundary.
func TestVerbBudget(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, "privsep/wire/message.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	verbs := 0
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			continue
		}
		if s := g.Specs[0].(*ast.ValueSpec); s.Type != nil {
			if id, ok := s.Type.(*ast.Ident); ok && id.Name == "Verb" {
				verbs += len(g.Specs)
			}
		}
	}
	if limit := budget(t, "verbs at the boundary"); verbs == 0 || verbs > limit {
		t.Errorf("%d verbs at the boundary, budget %d", verbs, limit)
	}
}

func eachGoFile(t *testing.T, do func(path string, src []byte, f *ast.File)) {
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if n := d.Name(); n == "bin" || n == "testdata" || (strings.HasPrefix(n, ".") && n != ".." && n != ".") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(p, ".go") {
			return nil
		}
		src, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, src, parser.ParseComments)
		if err != nil {
			return err
		}
		do(strings.TrimPrefix(p, root+"/"), src, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestFiles holds every Go file against the layout rules.
func TestFiles(t *testing.T) {
	documented := map[string]bool{}
	all := map[string]bool{}
	// Words that only make sense on one machine or to one organisation.
	banned := regexp.MustCompile(`(?i)/work/|/root/|helper-\d|contract\.md`)
	eachGoFile(t, func(path string, src []byte, f *ast.File) {
		dir := filepath.Dir(path)
		test := strings.HasSuffix(path, "_test.go")
		if !test {
			all[dir] = true
			if f.Doc != nil {
				documented[dir] = true
			}
		} else if f.Doc != nil {
			documented[dir] = true
		}
		lines := bytes.Count(src, []byte("\n"))
		if lines > 500 && !test {
			t.Errorf("%s has %d lines: a file is one idea, about 400 lines", path, lines)
		}
		if strings.HasPrefix(path, "cmd/") && filepath.Base(path) == "main.go" && lines > 150 {
			t.Errorf("%s has %d lines: a main is wiring, at most 150", path, lines)
		}
		for _, imp := range f.Imports {
			switch v := imp.Path.Value; v {
			case `"unsafe"`:
				if !strings.Contains(filepath.Base(path), "unsafe") {
					t.Errorf("%s imports unsafe: only files named for it may", path)
				}
			case `"C"`:
				if !strings.Contains(filepath.Base(path), "cgo") {
					t.Errorf("%s imports C: only files named for it may", path)
				}
			}
		}
		if strings.HasPrefix(path, "privsep/") && !test {
			ast.Inspect(f, func(n ast.Node) bool {
				if c, ok := n.(*ast.CallExpr); ok {
					if id, ok := c.Fun.(*ast.Ident); ok && id.Name == "recover" {
						t.Errorf("%s calls recover: on the privileged side a panic is an alarm", path)
					}
				}
				return true
			})
		}
		if !strings.HasPrefix(path, "test/repo/") {
			if m := banned.FindString(string(src)); m != "" {
				t.Errorf("%s says %q: the repository speaks of Postern alone", path, m)
			}
		}
	})
	for d := range all {
		if !documented[d] {
			t.Errorf("package %s has no package comment", d)
		}
	}
}

// TestTopLevel holds the repository's top level against the design's list.
func TestTopLevel(t *testing.T) {
	want := map[string]bool{}
	for _, n := range strings.Fields("cmd privsep policy profiles verify runtime audit fuzz test docs SECURITY.md LICENSE go.mod go.sum Makefile README.md .ci .gitignore .git bin") {
		want[n] = true
	}
	ents, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range ents {
		if !want[e.Name()] {
			t.Errorf("%s stands at the top level: the design does not have it", e.Name())
		}
	}
}
