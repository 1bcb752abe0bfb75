package input

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/postern-cri/postern/audit/redact"
	"github.com/postern-cri/postern/policy/facts"
	"github.com/postern-cri/postern/privsep/gate"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/record"
)

var redactor = redact.New([]byte("0123456789abcdef0123456789abcdef"))

func unmarshal(t *testing.T, b []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
}

// leaves calls f with every settable leaf of v, set to a value that is not zero.
// Lists get one element.
func leaves(v reflect.Value, path string, f func(path string)) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			leaves(v.Field(i), path+"."+v.Type().Field(i).Name, f)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		leaves(v.Index(0), path+"[]", f)
		v.SetZero()
	default:
		switch v.Kind() {
		case reflect.String:
			v.SetString("x")
		case reflect.Bool:
			v.SetBool(true)
		case reflect.Int32, reflect.Int64:
			v.SetInt(1)
		case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
			v.SetUint(1)
		default:
			panic(path + ": " + v.Kind().String())
		}
		f(path)
		v.SetZero()
	}
}

// TestEveryPlanFieldIsInTheDocument sets each field of the plans, the claims and
// the record, one by one, and demands that the document changes: a new field of
// the plan that policy cannot see fails here.
func TestEveryPlanFieldIsInTheDocument(t *testing.T) {
	sum := func(b *builder) string { return string(b.doc.Canonical()) }
	fresh := func() *builder { return &builder{&Document{}, redactor} }
	check := func(v reflect.Value, name string, build func() string) {
		zero := build()
		leaves(v, name, func(path string) {
			got := build()
			// One element more is seen by the list's length alone: compare with
			// the same list whose element is zero.
			if got == zero {
				t.Errorf("%s is not in the input document", path)
			}
		})
	}
	var pod plan.PodPlan
	check(reflect.ValueOf(&pod).Elem(), "PodPlan", func() string { b := fresh(); b.doc.Derived.Pod = podOf(&pod); return sum(b) })
	var ctr plan.Plan
	check(reflect.ValueOf(&ctr).Elem(), "Plan", func() string { b := fresh(); b.doc.Derived.Container = b.containerOf(&ctr); return sum(b) })
	var exec plan.ExecPlan
	check(reflect.ValueOf(&exec).Elem(), "ExecPlan", func() string { b := fresh(); b.doc.Derived.Exec = b.execOf(&exec); return sum(b) })
	var res plan.Resources
	check(reflect.ValueOf(&res).Elem(), "Resources", func() string { b := fresh(); r := resourcesOf(&res); b.doc.Derived.Update = &r; return sum(b) })
	var claims plan.Claims
	check(reflect.ValueOf(&claims).Elem(), "Claims", func() string { b := fresh(); b.claims(&claims); return sum(b) })
	var rec record.Record
	check(reflect.ValueOf(&rec).Elem(), "Record", func() string {
		b := fresh()
		b.doc.Derived.Image = imageOf(&rec)
		return sum(b) + rec.Schema // the schema is checked and then of no interest
	})
	// Elements of lists, against a list with a zero element.
	elem := func(name string, set func() reflect.Value, build func() string) {
		v := set()
		check(v, name, build)
	}
	elem("Mount", func() reflect.Value {
		ctr.Mounts = make([]plan.Mount, 1)
		return reflect.ValueOf(&ctr.Mounts[0]).Elem()
	},
		func() string { b := fresh(); b.doc.Derived.Container = b.containerOf(&ctr); return sum(b) })
	elem("Device", func() reflect.Value {
		ctr.Devices = make([]plan.Device, 1)
		return reflect.ValueOf(&ctr.Devices[0]).Elem()
	},
		func() string { b := fresh(); b.doc.Derived.Container = b.containerOf(&ctr); return sum(b) })
	elem("Rlimit", func() reflect.Value {
		ctr.Rlimits = make([]plan.Rlimit, 1)
		return reflect.ValueOf(&ctr.Rlimits[0]).Elem()
	},
		func() string { b := fresh(); b.doc.Derived.Container = b.containerOf(&ctr); return sum(b) })
	elem("PortMapping", func() reflect.Value {
		pod.Ports = make([]plan.PortMapping, 1)
		return reflect.ValueOf(&pod.Ports[0]).Elem()
	},
		func() string { b := fresh(); b.doc.Derived.Pod = podOf(&pod); return sum(b) })
}

func TestEveryFactIsInTheDocument(t *testing.T) {
	full := facts.Facts{
		RequestID: "r1", Caller: &facts.Caller{UID: 41, PID: 42},
		Pod: &facts.Pod{ID: "p1", Name: "p2", Namespace: "p3", UID: "p4", Attempt: 43,
			Labels: map[string]string{"l1": "l2"}, Annotations: map[string]string{"a1": "a2"}},
		Container: &facts.Container{ID: "c1", Name: "c2", Attempt: 44, Privileged: true,
			Labels: map[string]string{"l3": "l4"}, Annotations: map[string]string{"a3": "a4"}},
		Image: &facts.Image{Requested: "i1", Registry: "i2", Repository: "i3", Tag: "i4", Digest: "i5", Platform: "i6",
			Verification: &facts.Verification{Status: "v1", Authorities: []string{"v2"}, Epoch: "v3"}},
		Exec:        &facts.Exec{Args: []string{"e1"}, TTY: true},
		PortForward: &facts.PortForward{Ports: []int32{45}},
		PodResources: &facts.PodResources{Overhead: &plan.Resources{CPUShares: 46},
			Resources: &plan.Resources{Memory: 47, Hugepages: []plan.HugepageLimit{{PageSize: "h1", Bytes: 48}}}},
	}
	b, err := facts.Encode(full)
	if err != nil {
		t.Fatal(err)
	}
	d, err := Build(RoleFront, gate.Question{Method: "Attach", Sections: []gate.Section{{Kind: gate.SectionFacts, Data: b}}}, 1, redactor)
	if err != nil {
		t.Fatal(err)
	}
	got := string(d.Canonical())
	for _, want := range strings.Fields("r1 p1 p2 p3 p4 l1 l2 a1 a2 c1 c2 l3 l4 a3 a4 i1 i2 i3 i4 i5 i6 v1 v2 v3 e1 41 42 43 44 45 46 47 h1 48") {
		if !strings.Contains(got, want) {
			t.Errorf("%s is not in %s", want, got)
		}
	}
}

// TestManyAnnotations: as much as Kubernetes permits fits into a document, in one
// piece or in a thousand, and what is short is left as it was.
func TestManyAnnotations(t *testing.T) {
	for _, size := range []int{200, 1000, 100000} {
		c := plan.Claims{Method: "RunPodSandbox", Annotations: []plan.KV{{Key: "short", Value: "seen"}}}
		for i := range 256 << 10 / (size + 50) {
			c.Annotations = append(c.Annotations, plan.KV{Key: fmt.Sprintf("k%d", i), Value: strings.Repeat("v", min(size, 1<<16-1))})
		}
		b, err := plan.EncodeClaims(c)
		if err != nil {
			t.Fatal(err)
		}
		d, err := Build(RoleHelper, gate.Question{Method: "RunPodSandbox", Sections: []gate.Section{{Kind: gate.SectionClaims, Data: b}}}, 1, redactor)
		if err != nil {
			t.Fatal(err)
		}
		got := d.Canonical()
		if len(got) > MaxSize {
			t.Errorf("%d annotations of %d bytes make a document of %d", len(c.Annotations), size, len(got))
		}
		if !strings.Contains(string(got), `"seen"`) {
			t.Errorf("%d annotations of %d bytes: the short one is cut", len(c.Annotations), size)
		}
	}
}

func sample(t testing.TB) *Document {
	t.Helper()
	ctr := plan.Plan{
		Class: plan.Baseline, Image: "sha256:" + strings.Repeat("1", 64), Args: []string{"/web", "--password=hunter2hunter2", strings.Repeat("a b ", 2000)},
		Env: []string{"PATH=/bin", "DB_PASSWORD=correct horse", "EMPTY"}, Cwd: "/", User: plan.User{UID: 1000, GID: 1000, Groups: []uint32{7}},
		CapsBounding: 1<<10 | 1, NoNewPrivs: true, PID: plan.NamespaceContainer,
		Seccomp: plan.Profile{Kind: plan.ProfileRuntimeDefault}, AppArmor: plan.Profile{Kind: plan.ProfileLocalhost, Name: "p"},
		MaskedPaths: []string{"/proc/kcore"}, Mounts: []plan.Mount{{From: plan.Place{Root: plan.RootPodVolumes, Rel: "etc-hosts"}, To: "/etc/hosts", Propagation: plan.Private}},
		Resources: plan.Resources{Memory: -1, CPUShares: 1<<64 - 1},
	}
	c, err := plan.EncodeContainer(ctr)
	if err != nil {
		t.Fatal(err)
	}
	cl, err := plan.EncodeClaims(plan.Claims{
		RequestID: "01J", Method: "CreateContainer", PodName: "web \"\\\b\t\n\f\r\x01 é \U0001F980",
		Annotations: []plan.KV{{Key: "token", Value: "s3cr3t-value"}, {Key: "long", Value: strings.Repeat("x", 5000)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	d, err := Build(RoleHelper, gate.Question{Method: "CreateContainer", Class: gate.ClassTeardown, Sections: []gate.Section{
		{Kind: gate.SectionPlan, Data: c}, {Kind: gate.SectionClaims, Data: cl},
	}}, 1790000000000000001, redactor)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestSecretsAreOut(t *testing.T) {
	got := string(sample(t).Canonical())
	for _, secret := range []string{"hunter2", "correct horse", "s3cr3t", "xxxx"} {
		if strings.Contains(got, secret) {
			t.Errorf("%q is in the document: %s", secret, got)
		}
	}
	for _, want := range []string{`"DB_PASSWORD"`, `"[5000 bytes]"`, `[8000 bytes]"`, `"class":"create"`, `"cpu_shares":18446744073709551615`} {
		if !strings.Contains(got, want) {
			t.Errorf("%s is not in the document: %s", want, got)
		}
	}
}

// TestOneDocument demands that the JSON, the value that OPA sees and what
// encoding/json makes of the structs are the same document.
func TestOneDocument(t *testing.T) {
	d := sample(t)
	canonical := d.Canonical()
	var fromJSON any
	dec := json.NewDecoder(strings.NewReader(string(canonical)))
	dec.UseNumber()
	if err := dec.Decode(&fromJSON); err != nil {
		t.Fatal(err)
	}
	v, err := ast.InterfaceToValue(fromJSON)
	if err != nil {
		t.Fatal(err)
	}
	if v.Compare(d.Value()) != 0 {
		t.Errorf("the value and the JSON differ:\n%s\n%s", v, d.Value())
	}
	again, err := json.Marshal(fromJSON) // sorted by Go, with < > & escaped
	if err != nil {
		t.Fatal(err)
	}
	if string(again) != string(canonical) {
		t.Errorf("not canonical:\n%s\n%s", again, canonical)
	}
}

// TestAuditLeavesTheDocument: a record that is redacted again on its way to disk
// must still have the hash that was decided on.
func TestAuditLeavesTheDocument(t *testing.T) {
	canonical := sample(t).Canonical()
	again, taken, err := redactor.JSON(canonical)
	if err != nil {
		t.Fatal(err)
	}
	if string(again) != string(canonical) {
		t.Errorf("redacting again changed %v:\n%s\n%s", taken, again, canonical)
	}
}

func TestWhoMaySendWhat(t *testing.T) {
	for _, c := range []struct {
		role string
		kind gate.SectionKind
	}{
		{RoleFront, gate.SectionPlan}, {RoleFront, gate.SectionRecord}, {RoleFront, gate.SectionPodPlan},
		{RoleFetch, gate.SectionClaims}, {RoleStream, gate.SectionExecPlan}, {"", gate.SectionFacts}, {RoleHelper, 8},
	} {
		_, err := Build(c.role, gate.Question{Method: "CreateContainer", Sections: []gate.Section{{Kind: c.kind, Data: []byte("{}")}}}, 1, redactor)
		if err == nil || !strings.Contains(err.Error(), "may not send") {
			t.Errorf("%s sends section %d: %v", c.role, c.kind, err)
		}
	}
	f := gate.Section{Kind: gate.SectionFacts, Data: []byte("{}")}
	if _, err := Build(RoleFront, gate.Question{Method: "Attach", Sections: []gate.Section{f, f}}, 1, redactor); err == nil {
		t.Error("a section twice")
	}
	if _, err := Build(RoleFront, gate.Question{Method: "Attack"}, 1, redactor); err == nil {
		t.Error("an unknown method")
	}
	f.Data = []byte(`{"pod":{"nmae":"x"}}`)
	if _, err := Build(RoleFront, gate.Question{Method: "Attach", Sections: []gate.Section{f}}, 1, redactor); err == nil {
		t.Error("an unknown fact")
	}
}

func TestReferences(t *testing.T) {
	for ref, want := range map[string]Subject{
		"busybox":                       {"", "docker.io", "docker.io/library/busybox", "", ""},
		"team/app:1":                    {"", "docker.io", "docker.io/team/app", "1", ""},
		"localhost/app":                 {"", "localhost", "localhost/app", "", ""},
		"r.example:5000/a/b:1@sha256:0": {"", "r.example:5000", "r.example:5000/a/b", "1", "sha256:0"},
		"r.example/a@sha256:0":          {"", "r.example", "r.example/a", "", "sha256:0"},
		"":                              {},
	} {
		want.Reference = ref
		if got := parseReference(ref); got != want {
			t.Errorf("%s: %+v, want %+v", ref, got, want)
		}
	}
}

func TestPullPhases(t *testing.T) {
	for _, c := range []struct{ facts, phase string }{
		{`{"image":{"requested":"r.example/a:1"}}`, "resolve"},
		{`{"image":{"requested":"r.example/a:1","verification":{"status":"verified"}}}`, "verified"},
	} {
		d, err := Build(RoleFetch, gate.Question{Method: "PullImage", Sections: []gate.Section{{Kind: gate.SectionFacts, Data: []byte(c.facts)}}}, 1, redactor)
		if err != nil {
			t.Fatal(err)
		}
		if d.Request.Phase != c.phase || d.Request.Image.Repository != "r.example/a" {
			t.Errorf("%s: %+v", c.facts, d.Request)
		}
	}
}

func BenchmarkBuild(b *testing.B) {
	doc := sample(b)
	b.Run("value", func(b *testing.B) {
		for b.Loop() {
			_ = doc.Value()
		}
	})
	b.Run("canonical", func(b *testing.B) {
		for b.Loop() {
			_ = Sum(doc.Canonical())
		}
	})
}
