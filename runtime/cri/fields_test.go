package cri

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The walk of the fields: every field of every message of both services is claimed
// in testdata/fields.txt, and the claim is tried. A field that CRI gains, or one that
// the code stops to look at, fails here.
//
// A line is: < or >, a path, a claim, and its proof.
//
//	<  a field of a request, by method and path. A claim holds for all beneath it;
//	   the longest path counts.
//	   honoured TEST   setting it alone changes what is asked of the privileged
//	                   side, of policy or of the image store, what is stored, or
//	                   the answer; TEST shows what it does.
//	   refused WORD    setting it makes the call fail, with WORD in the message.
//	   ignored REASON  setting it changes nothing at all. CRI leaves it to the runtime.
//	>  a field of an answer, from any message on its way; the longest path counts,
//	   and among equals that of the innermost message.
//	   filled TEST     each call that has it gives a value that is not zero; TEST
//	                   shows that it is right.
//	   empty REASON    none does.

type claim struct {
	line       int
	path, kind string
	proof      string
	used       bool
}

type claims struct{ request, response []*claim }

func readClaims(t *testing.T) *claims {
	t.Helper()
	b, err := os.ReadFile("testdata/fields.txt")
	if err != nil {
		t.Fatal(err)
	}
	c := &claims{}
	for i, l := range strings.Split(string(b), "\n") {
		if l = strings.TrimSpace(l); l == "" || strings.HasPrefix(l, "#") {
			continue
		}
		f := strings.SplitN(l, " ", 2)
		rest := strings.Fields(f[1])
		if len(rest) < 3 {
			t.Fatalf("fields.txt:%d: want a direction, a path, a claim and its proof", i+1)
		}
		n := &claim{line: i + 1, path: rest[0], kind: rest[1], proof: strings.Join(rest[2:], " ")}
		into, kinds := &c.request, []string{"honoured", "refused", "ignored"}
		if f[0] == ">" {
			into, kinds = &c.response, []string{"filled", "empty"}
		}
		if f[0] != "<" && f[0] != ">" || !slices.Contains(kinds, n.kind) {
			t.Fatalf("fields.txt:%d: %q is no claim of a %q line", i+1, n.kind, f[0])
		}
		if slices.ContainsFunc(*into, func(o *claim) bool { return o.path == n.path }) {
			t.Fatalf("fields.txt:%d: %s is claimed twice", i+1, n.path)
		}
		*into = append(*into, n)
	}
	return c
}

// find returns the claim that covers one of paths with the most words; the last
// among equals.
func find(list []*claim, paths ...string) *claim {
	var best *claim
	most := 0
	for _, p := range paths {
		for _, c := range list {
			if n := strings.Count(c.path, ".") + 1; (p == c.path || strings.HasPrefix(p, c.path+".")) && n >= most {
				best, most = c, n
			}
		}
	}
	return best
}

// leaf is one field that holds a value, and the fields that lead to it.
type leaf struct {
	method string
	path   string   // Method.field.field
	names  []string // Message.field.field, from each message on the way
	via    []protoreflect.FieldDescriptor
}

// response finds the claim of a field of an answer.
func (l *leaf) response(c *claims) *claim {
	return find(c.response, l.names...)
}

type method struct {
	desc          protoreflect.MethodDescriptor
	full          string // as gRPC calls it
	input, output []leaf
}

func (m *method) name() string { return string(m.desc.Name()) }

// methods walks the descriptors of both services.
func methods() []*method {
	var out []*method
	services := cri.File_staging_src_k8s_io_cri_api_pkg_apis_runtime_v1_api_proto.Services()
	for i := range services.Len() {
		for j := range services.Get(i).Methods().Len() {
			d := services.Get(i).Methods().Get(j)
			m := &method{desc: d, full: fmt.Sprintf("/%s/%s", services.Get(i).FullName(), d.Name())}
			m.input = leaves(d.Input(), leaf{method: m.name(), path: m.name()})
			m.output = leaves(d.Output(), leaf{method: m.name(), path: m.name()})
			out = append(out, m)
		}
	}
	return out
}

func leaves(d protoreflect.MessageDescriptor, at leaf) []leaf {
	var out []leaf
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		l := leaf{method: at.method, path: at.path + "." + string(f.Name()), via: append(slices.Clone(at.via), f)}
		for _, n := range append(slices.Clone(at.names), string(d.Name())) {
			l.names = append(l.names, n+"."+string(f.Name()))
		}
		if f.Message() != nil && !f.IsMap() {
			out = append(out, leaves(f.Message(), l)...)
		} else {
			out = append(out, l)
		}
	}
	return out
}

// TestEveryFieldIsClaimed is the walk itself: no field without a claim, no claim
// without a field, and every test that a claim names is there.
func TestEveryFieldIsClaimed(t *testing.T) {
	c := readClaims(t)
	counts := map[string]int{}
	calls := 0
	for _, m := range methods() {
		calls++
		for _, l := range m.input {
			if n := find(c.request, l.path); n == nil {
				t.Errorf("request field %s: nobody has claimed it", l.path)
			} else {
				n.used = true
				counts[n.kind]++
			}
		}
		for _, l := range m.output {
			if n := l.response(c); n == nil {
				t.Errorf("answer field %s: nobody has claimed it", l.path)
			} else {
				n.used = true
				counts[n.kind]++
			}
		}
	}
	if calls != len(rules) {
		t.Errorf("%d calls in CRI, %d in the table of rules", calls, len(rules))
	}
	tests := testNames(t)
	for _, n := range c.request {
		// What a container is must be shown where there are containers.
		if n.kind == "honoured" && made(n.path) && !slices.ContainsFunc(tests[n.proof], onKernel) {
			t.Errorf("fields.txt:%d: %s: %s is no test that runs a container", n.line, n.path, n.proof)
		}
	}
	for _, n := range slices.Concat(c.request, c.response) {
		if !n.used {
			t.Errorf("fields.txt:%d: there is no field %s, or longer claims cover all of it", n.line, n.path)
		}
		if (n.kind == "honoured" || n.kind == "filled") && tests[n.proof] == nil {
			t.Errorf("fields.txt:%d: %s: there is no test %s", n.line, n.path, n.proof)
		}
	}
	t.Logf("%d calls; fields, by the path from the call: %v", calls, counts)
}

// made reports whether a field says what a pod or a container is made like.
func made(path string) bool {
	method, field, _ := strings.Cut(path, ".")
	switch method {
	case "RunPodSandbox", "CreateContainer", "UpdateContainerResources":
		return !strings.HasPrefix(field, "config.labels") // they are given back, and that is all
	}
	return false
}

func onKernel(dir string) bool {
	for _, d := range []string{"privsep/machine", "runtime/launch", "runtime/log", "test"} {
		if dir == d || strings.HasPrefix(dir, d+"/") {
			return true
		}
	}
	return false
}

// testNames lists the tests of the repository, and the directories that they are in.
func testNames(t *testing.T) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	re := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	err := filepath.WalkDir("../..", func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() && (d.Name() == ".git" || d.Name() == "bin") {
			if err == nil {
				err = filepath.SkipDir
			}
			return err
		}
		if strings.HasSuffix(p, "_test.go") {
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			for _, m := range re.FindAllSubmatch(b, -1) {
				out[string(m[1])] = append(out[string(m[1])], strings.TrimPrefix(filepath.Dir(p), "../../"))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
