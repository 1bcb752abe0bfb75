package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/postern-cri/postern/audit/redact"
	"github.com/postern-cri/postern/policy/decision"
	"github.com/postern-cri/postern/policy/lint"
	"github.com/postern-cri/postern/policy/rego"
	"github.com/postern-cri/postern/privsep/gate"
)

var redactor = redact.New([]byte("0123456789abcdef0123456789abcdef"))

const meta = `
# METADATA
# custom:
#   id: SITE-%s
#   severity: high
#   message: a message
#   field: a.field
#   remediation: a remedy
`

// site is a pack of one deny rule with this body.
func site(body string) Files {
	return Files{"site.rego": []byte("package postern.packs.site\n\nimport data.postern.lib\n" + fmt.Sprintf(meta, "A") +
		"deny contains lib.violation(rego.metadata.rule()) if {\n" + body + "\n}\n")}
}

func compile(t testing.TB, f Files) *Policy {
	t.Helper()
	p, err := Compile(context.Background(), f)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func profile(t testing.TB, name string) Files {
	f, ok := rego.Pack(name)
	if !ok {
		t.Fatalf("no profile %s", name)
	}
	return f
}

func TestCapabilitiesAreAList(t *testing.T) {
	caps, err := Capabilities()
	if err != nil {
		t.Fatal(err)
	}
	if caps.AllowNet == nil || len(caps.AllowNet) != 0 {
		t.Errorf("AllowNet is %#v: nil means every host", caps.AllowNet)
	}
	have := map[string]bool{}
	for _, b := range caps.Builtins {
		have[b.Name] = true
		if b.Nondeterministic {
			t.Errorf("%s is not deterministic", b.Name)
		}
	}
	for _, n := range strings.Fields(`http.send net.lookup_ip_addr opa.runtime time.now_ns rand.intn uuid.rfc4122
		json.match_schema json.verify_schema rego.parse_module trace io.jwt.decode_verify crypto.x509.parse_certificates
		graph.reachable graph.reachable_paths strings.render_template bits.lsh net.cidr_expand numbers.range numbers.range_step
		graphql.parse providers.aws.sign_req yaml.unmarshal print internal.print walk regex.globs_match`) {
		if have[n] {
			t.Errorf("%s is allowed", n)
		}
	}
	if got := len(caps.Builtins); got != len(strings.Fields(builtinNames)) {
		t.Errorf("%d built-ins, the list has %d", got, len(strings.Fields(builtinNames)))
	}
}

func TestConfigKeys(t *testing.T) {
	keys := lint.ConfigKeys()
	ty := reflect.TypeFor[Config]()
	for i := range ty.NumField() {
		n := ty.Field(i).Tag.Get("json")
		if !keys[n] {
			t.Errorf("the lint does not know postern_config.%s", n)
		}
	}
	if len(keys) != ty.NumField() {
		t.Errorf("the lint knows %d keys, there are %d", len(keys), ty.NumField())
	}
}

func TestWrongPolicies(t *testing.T) {
	bad := func(body string) Files { return site(body) }
	data := func(s string) Files {
		f := site("input.derived.container.privileged")
		f[dataFile] = []byte(s)
		return f
	}
	raw := func(s string) Files { return Files{"x.rego": []byte(s)} }
	head := "package postern.packs.site\nimport data.postern.lib\n"
	for name, c := range map[string]struct {
		files Files
		want  string
	}{
		"empty":             {Files{}, "no pack"},
		"syntax":            {bad("input. ="), "site.rego:13"},
		"typo":              {bad("input.derived.container.priviliged"), "undefined ref: input.derived.container.priviliged"},
		"http.send":         {bad(`http.send({"method": "get", "url": "http://x"})`), "http.send"},
		"print":             {bad(`print("x")`), "print"},
		"clock":             {bad(`time.now_ns() > 0`), "time.now_ns"},
		"whole input":       {bad("x := input\nx.request.method == \"Exec\""), "input as a whole"},
		"computed":          {bad("some k\ninput[k].method == \"Exec\""), "computed name"},
		"other pack":        {bad("count(data.postern.packs.image.deny) == 0"), "a pack may read"},
		"config typo":       {bad("data.postern_config.require_signatures"), "no such configuration"},
		"config null":       {data(`{"postern_config":{"allowed_registries":null}}`), "null"},
		"config unknown":    {data(`{"postern_config":{"allowed_registrys":[]}}`), "unknown field"},
		"data unknown":      {data(`{"x":1}`), "unknown field"},
		"with":              {bad("lib.violation(1) with input as {}"), "with:"},
		"main":              {raw("package postern.main\nviolations := set()"), "a pack is package postern.packs"},
		"lib":               {raw("package postern.lib\nx := 1"), "a pack is package postern.packs"},
		"no metadata":       {raw(head + "deny contains lib.violation(rego.metadata.rule()) if input.derived.container.privileged"), "without `# METADATA`"},
		"no id":             {raw(head + strings.Replace(meta, "id: SITE-%s", "docs: x", 1) + "deny contains lib.violation(rego.metadata.rule()) if input.derived.container.privileged"), "without custom.id"},
		"bad severity":      {raw(head + fmt.Sprintf(strings.Replace(meta, "high", "bad", 1), "A") + "deny contains lib.violation(rego.metadata.rule()) if input.derived.container.privileged"), `severity "bad"`},
		"own violation":     {raw(head + fmt.Sprintf(meta, "A") + `deny contains {"id": "X"} if input.derived.container.privileged`), "deny must yield"},
		"deny is a boolean": {raw(head + fmt.Sprintf(meta, "A") + "deny if input.derived.container.privileged"), "deny must be a set"},
		"duplicate id": {raw(head + strings.Repeat(fmt.Sprintf(meta, "A")+
			"deny contains lib.violation(rego.metadata.rule()) if input.derived.container.privileged\n", 2)), "used already"},
		"empty file": {raw("# nothing"), "x.rego"},
	} {
		_, err := Compile(context.Background(), c.files)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// TestClaimsMayOnlyDeny holds the lint: every way to loosen on a claim is refused.
func TestClaimsMayOnlyDeny(t *testing.T) {
	for _, good := range []string{
		`input.claimed.pod.namespace == "prod"`,
		`startswith(input.claimed.pod.namespace, "kube-")`,
		`input.claimed.pod.labels.tier in {"a", "b"}`,
		`input.derived.container.privileged` + "\n" + `input.claimed.pod.namespace == "prod"`,
		`ns := input.claimed.pod.namespace` + "\n" + `ns == "prod"`,
		`some v in input.claimed.pod.labels` + "\n" + `v == "x"`,
		`data.site.banned[input.claimed.pod.namespace]`,
		`input.claimed.container.privileged`,
	} {
		if _, err := Compile(context.Background(), site(good)); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{
		`input.derived.container.privileged` + "\n" + `input.claimed.pod.namespace != "kube-system"`,
		`not input.claimed.pod.labels.team`,
		`not input.claimed.pod.namespace == "x"`,
		`ns := input.claimed.pod.namespace` + "\n" + `not ns == "x"`,
		`ns := input.claimed.pod.namespace` + "\n" + `x := ns` + "\n" + `x != "y"`,
		`startswith(input.claimed.pod.namespace, "kube-") == false`,
		`x := startswith(input.claimed.pod.namespace, "kube-")` + "\n" + `x == false`,
		`count([1 | input.claimed.pod.namespace == "x"]) == 0`,
		`count({v | some v in input.claimed.pod.labels}) == 0`,
		`every l in input.claimed.pod.labels { l != "x" }`,
		`input.claimed.container.privileged == false`,
		`[x] := [input.claimed.pod.namespace]` + "\n" + `x == "y"`,
		`lib.violation(input.claimed)`,
		`some k, v in input.claimed.pod.labels` + "\n" + `not k == v`,
		`not data.site.trusted[input.claimed.pod.namespace]`,
		`to_number(input.claimed.pod.name) == 0`,
	} {
		if _, err := Compile(context.Background(), site(bad)); err == nil {
			t.Errorf("a rule that loosens on a claim compiles: %s", bad)
		}
	}
	for _, bad := range []string{
		"trusted if input.claimed.pod.namespace == \"kube-system\"",
		"ns := input.claimed.pod.namespace",
		"f(x) if x == input.claimed.pod.namespace",
		"default trusted := false\ntrusted := input.claimed.container.privileged",
	} {
		f := site("input.derived.container.privileged")
		f["site.rego"] = append(f["site.rego"], []byte("\n"+bad+"\n")...)
		if _, err := Compile(context.Background(), f); err == nil || !strings.Contains(err.Error(), "claimed") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func question(method string) gate.Question { return gate.Question{Method: method} }

func TestFailureClosesAllButTeardown(t *testing.T) {
	for name, rule := range map[string]string{
		"built-in error": `to_number(input.request.id) > 0`,
		"runaway": `some a in numbers
	some b in numbers
	some c in numbers
	some d in numbers
	a + b + c + d < 0`,
	} {
		f := site(rule)
		f["site.rego"] = append(f["site.rego"], []byte("\nnumbers := {"+ints(200)+"}\n")...)
		e := New(redactor)
		e.Use(compile(t, f))
		for method, allow := range map[string]bool{"CreateContainer": false, "Exec": false, "Version": false, "PullImage": false, "StopContainer": true, "RemovePodSandbox": true} {
			start := time.Now()
			j := e.Decide(context.Background(), "helper", question(method))
			if j.Decision.Allow != allow || j.Decision.Rule != decision.RuleError || j.Err == nil {
				t.Errorf("%s: %s: %+v", name, method, j)
			}
			if took := time.Since(start); took > time.Minute {
				t.Errorf("%s: %s took %s", name, method, took)
			}
			if len(j.Decision.ID) != 26 || len(j.Decision.InputSHA256) != 64 || j.Decision.Revision == "" {
				t.Errorf("%s: %+v", name, j.Decision)
			}
		}
	}
}

func ints(n int) string {
	s := make([]string, n)
	for i := range s {
		s[i] = fmt.Sprint(i)
	}
	return strings.Join(s, ",")
}

func TestNoPolicyAndBadQuestions(t *testing.T) {
	e := New(redactor)
	if j := e.Decide(context.Background(), "helper", question("CreateContainer")); j.Decision.Allow || j.Decision.Rule != decision.RuleError {
		t.Errorf("no policy: %+v", j.Decision)
	}
	if j := e.Decide(context.Background(), "helper", question("StopContainer")); !j.Decision.Allow {
		t.Errorf("no policy, teardown: %+v", j.Decision)
	}
	e.Use(compile(t, profile(t, "allow-all")))
	if j := e.Decide(context.Background(), "helper", question("CreateContainer")); !j.Decision.Allow {
		t.Errorf("allow-all: %+v", j.Decision)
	}
	// The asker's class is not believed.
	if j := e.Decide(context.Background(), "front", gate.Question{Method: "Nothing", Class: gate.ClassTeardown}); j.Decision.Allow || j.Decision.Rule != decision.RuleInvalid {
		t.Errorf("unknown method: %+v", j.Decision)
	}
	big := gate.Question{Method: "Attach", Sections: []gate.Section{{
		Kind: gate.SectionFacts, Data: []byte(`{"exec":{"args":["` + strings.Repeat(`a","`, 20000) + `"]}}`),
	}}}
	if j := e.Decide(context.Background(), "front", big); j.Decision.Allow || j.Decision.Rule != decision.RuleTooLarge {
		t.Errorf("too large: %+v", j.Decision)
	}
}

func TestObligationsOnlyTighten(t *testing.T) {
	pack := func(s string) Files { return Files{"s.rego": []byte("package postern.packs.site\n" + s)} }
	e := New(redactor)
	e.Use(compile(t, pack(`obligation contains {"type": "drop_capabilities", "args": ["NET_RAW"]}
obligation contains {"type": "no_new_privs"}`)))
	j := e.Decide(context.Background(), "helper", question("CreateContainer"))
	want := gate.Obligations{DropCaps: 1 << 13, NoNewPrivs: true}
	if !j.Decision.Allow || j.Decision.Obligations != want {
		t.Errorf("%+v", j)
	}
	for _, bad := range []string{`{"type": "add_capabilities", "args": ["NET_RAW"]}`, `{"type": "drop_capabilities", "args": ["X"]}`,
		`{"type": "no_new_privs", "value": false}`, `{"type": 1}`, `"no_new_privs"`, `{"type": "no_new_privs", "args": [1]}`} {
		e.Use(compile(t, pack("obligation contains "+bad)))
		if j := e.Decide(context.Background(), "helper", question("CreateContainer")); j.Decision.Allow || j.Decision.Rule != decision.RuleError {
			t.Errorf("%s: %+v", bad, j.Decision)
		}
	}
}

func TestDenyOverridesAndOrder(t *testing.T) {
	f := profile(t, "allow-all")
	f["site.rego"] = []byte("package postern.packs.site\nimport data.postern.lib\n" + fmt.Sprintf(meta, "B") +
		"deny contains lib.violation(rego.metadata.rule()) if input.request.method == \"Exec\"\n" +
		fmt.Sprintf(strings.Replace(meta, "high", "critical", 1), "Z") +
		"deny contains lib.violation_at(rego.metadata.rule(), \"what\", \"b.c\") if input.request.method == \"Exec\"\n")
	e := New(redactor)
	e.Use(compile(t, f))
	d := e.Decide(context.Background(), "helper", question("Exec")).Decision
	if d.Allow || d.Rule != "SITE-Z" || d.More != 1 || d.Field != "b.c" {
		t.Errorf("%+v", d)
	}
}

func TestReload(t *testing.T) {
	dir := t.TempDir()
	write := func(name, s string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("a.rego", "package postern.packs.a\nx := 1\n")
	e := New(redactor)
	events := make(chan Event, 8)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { e.Watch(ctx, dir, 10*time.Millisecond, func(ev Event) { events <- ev }); close(done) }()
	defer func() { cancel(); <-done }()
	first := <-events
	if first.Kind != "policy.activate" || first.Err != nil {
		t.Fatalf("%+v", first)
	}
	write("a.rego", "package postern.packs.a\nx := \n")
	bad := <-events
	var problems Problems
	if bad.Kind != "policy.reject" || bad.Revision != first.Revision || !errors.As(bad.Err, &problems) {
		t.Fatalf("%+v", bad)
	}
	if e.Policy().Revision != first.Revision {
		t.Error("a bad policy took the place of the good one")
	}
	write("a.rego", "package postern.packs.a\nx := 2\n")
	next := <-events
	if next.Kind != "policy.activate" || next.Revision == first.Revision || next.Previous != first.Revision {
		t.Fatalf("%+v", next)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "b.rego")); err != nil {
		t.Fatal(err)
	}
	if ev := <-events; ev.Kind != "policy.reject" {
		t.Errorf("a link was read: %+v", ev)
	}
}

func TestRevision(t *testing.T) {
	a := Files{"a.rego": []byte("x"), "a_test.rego": []byte("t")}
	b := Files{"a.rego": []byte("x"), "a_test.rego": []byte("other")}
	if a.revision() != b.revision() {
		t.Error("a test changes the revision")
	}
	b["data.json"] = []byte("{}")
	if a.revision() == b.revision() {
		t.Error("data does not change the revision")
	}
}
