package redact

import (
	"encoding/json"
	"fmt"
	"math/rand"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

var r = New([]byte("0123456789abcdef0123456789abcdef"))

// Put together at run time, so that no scanner takes this file for a leak.
var canaries = map[string]string{
	"aws":     "AKIA" + "IOSFODNN7EXAMPLE",
	"github":  "ghp_" + "16C7e42F292c6912E7710c838347Ae178B4a",
	"jwt":     "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
	"pem":     "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA7bq\n-----END RSA PRIVATE KEY-----",
	"cut pem": "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIIr",
	"url":     "postgres://app:" + "hunter2hunter2@db.example.com/prod",
	"url@":    "postgres://app:" + "p@ss/w@rd@db.example.com/prod",
	"query":   "https://h.example.com/x?a=1&access_token=" + "opensesame&b=2",
	"pair":    "password=" + "opensesame",
	"yaml":    "password: " + "opensesame",
	"json":    `{"client_secret": "` + `opensesame"}`,
	"header":  "Authorization: Bearer " + "opensesame",
	"random":  "wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYzEXAMPLEKEY0+x",
	"base62":  "q9Zt4LmX0aVb7" + "KcR2sWn8YdE",
	"base36":  "k3j9x0q7m2v5b8n1" + "z4c6l0p9w2e7",
	"slack":   "xoxb-" + "1234567890-abcdef",
	"stripe":  "sk_live_" + "4eC39HqLyjWDarjt",
	"vault":   "hvs." + "CAESIJ1mK8x7Qf0dF3",
}

var leak = []string{
	"IOSFODNN7", "16C7e42F", "dozjgNry", "MIIEow", "MHcCAQ", "hunter2", "p@ss", "w@rd", "opensesame", "bPxRfi", "7MDENG",
	"4LmX0a", "x0q7m2", "1234567890-a", "4eC39Hq", "CAESIJ1",
}

func clean(t *testing.T, what, s string) {
	t.Helper()
	for _, l := range leak {
		if strings.Contains(s, l) {
			t.Errorf("%s: %q is left in %s", what, l, s)
		}
	}
}

// TestCanaries puts every secret in every string field of a document, as a value,
// inside a sentence and as a key, and greps the output.
func TestCanaries(t *testing.T) {
	fields := []string{
		`{"pod":{"name":%s}}`, `{"pod":{"annotations":{"a":%s}}}`, `{"container":{"argv":["sh","-c",%s]}}`, `{"container":{"env":{"A":%s}}}`,
		`{"env":[{"name":"A","value":%s}]}`, `{"decision":{"message":%s}}`, `{"id":%s}`, `{"image":{"digest":%s}}`,
		`{"list":[[%s]]}`, `{"labels":{%s:"x"}}`, `{"x":[{"y":[{"z":%s}]}]}`,
	}
	for name, secret := range canaries {
		for _, frame := range []string{"%s", "failed with %s here", "--flag=%s", "a %s"} {
			quoted, _ := json.Marshal(fmt.Sprintf(frame, secret))
			for _, f := range fields {
				in := fmt.Sprintf(f, quoted)
				out, taken, err := r.JSON([]byte(in))
				if err != nil {
					t.Fatalf("%s: %v", in, err)
				}
				clean(t, name+" "+in, string(out))
				if len(taken) == 0 {
					t.Errorf("%s: nothing is listed for %s -> %s", name, in, out)
				}
			}
		}
	}
}

func TestArgv(t *testing.T) {
	for _, tc := range []struct{ in, out string }{
		{"app|--password|opensesame|--port|80", "app|--password|[redacted]|--port|80"},
		{"app|--password=opensesame", "app|--password=[redacted]"},
		{"app|-token|opensesame", "app|-token|[redacted]"},
		{"app|--token|--verbose", "app|--token|--verbose"},
		{"app|--token-file=/run/token|--secret-name|db", "app|--token-file=/run/token|--secret-name|db"},
		{"app|-p|8080", "app|-p|8080"},
		{"sshpass|-p|opensesame|ssh|h", "sshpass|-p|[redacted]|ssh|h"},
		{"/usr/bin/mysql|-popensesame|-p|db", "/usr/bin/mysql|-p[redacted]|-p|db"},
		{"curl|-u|me:opensesame|http://h/", "curl|-u|[redacted]|http://h/"},
		{"sh|-c|exec app --password 'open sesame' -v", "sh|-c|exec app --password [redacted] [redacted] -v"},
		{"sh|-c|PGPASSWORD=opensesame psql -h db", "sh|-c|PGPASSWORD=[redacted] psql -h db"},
		{"env|PATH=/bin:/usr/bin|sleep|3600", "env|PATH=/bin:/usr/bin|sleep|3600"},
		{"/bin/app|--config=/etc/app/config.yaml|--log-level=info", "/bin/app|--config=/etc/app/config.yaml|--log-level=info"},
	} {
		in := strings.Split(tc.in, "|")
		got, changed := r.Argv(in)
		if s := strings.Join(got, "|"); s != tc.out {
			t.Errorf("%s\n got %s\nwant %s", tc.in, s, tc.out)
		}
		for i := range in {
			if (got[i] != in[i]) != slices.Contains(changed, i) {
				t.Errorf("%s: changed %v is wrong at %d", tc.in, changed, i)
			}
		}
	}
}

// TestKeeps are strings an operator searches an audit trail by.
func TestKeeps(t *testing.T) {
	for _, s := range []string{
		"registry.example.com:5000/team/web-frontend:v1.2.3-rc.1", "sha256:" + strings.Repeat("0f1e2d3c", 8), strings.Repeat("a1b2", 16),
		"6ba7b810-9dad-11d1-80b4-00c04fd430c8", "web-frontend-7d4b9c6f5d-x2k9p", "/var/lib/kubelet/pods/6ba7b810-9dad-11d1-80b4-00c04fd430c8/volumes",
		"kubernetes.io/config.seen", "PSS-B-PRIV privileged containers are not allowed (container.security.privileged)",
		"requiredDuringSchedulingIgnoredDuringExecution", "net.ipv4.ip_unprivileged_port_start", "https://h.example.com/a?b=c", "ssh://git@h.example.com/x.git",
		"CAP_NET_BIND_SERVICE", "2026-11-23T20:17:40.123456789Z", "-----BEGIN CERTIFICATE-----\nMIIB",
	} {
		if got, cut := r.String(s); cut || got != s {
			t.Errorf("%q became %q", s, got)
		}
	}
	for _, kv := range [][2]string{{"id", "01J8ZQ3T5XK2M9N4P6R7S8V0WY"}, {"automountToken", "true"}, {"token-path", "/run/x"}, {"author", "me"}} {
		if got, cut := r.Value(kv[0], kv[1]); cut {
			t.Errorf("%v became %q", kv, got)
		}
	}
}

func TestEnvDigest(t *testing.T) {
	a, b := r.EnvDigest("A", "x"), r.EnvDigest("A", "x")
	if a != b || a == r.EnvDigest("B", "x") || a == New([]byte("other")).EnvDigest("A", "x") || r.EnvDigest("A", a) != a {
		t.Error("a digest must depend on key, name and value alone, and stay")
	}
	if New(nil).EnvDigest("A", "x") != Mark {
		t.Error("without a key there must be no digest")
	}
}

// TestRandomTokens measures the heuristics: of tokens drawn at random nearly all must go.
func TestRandomTokens(t *testing.T) {
	const abc = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	rng := rand.New(rand.NewSource(1))
	missed := 0
	for range 2000 {
		b := make([]byte, 24)
		for i := range b {
			b[i] = abc[rng.Intn(len(abc))]
		}
		if _, cut := r.String(string(b)); !cut {
			missed++
		}
	}
	if missed > 20 {
		t.Errorf("%d of 2000 random tokens were kept", missed)
	}
}

func TestLoadKey(t *testing.T) {
	p := filepath.Join(t.TempDir(), "key")
	a, err := LoadKey(p)
	if err != nil || len(a) != 32 {
		t.Fatal(err)
	}
	if b, err := LoadKey(p); err != nil || string(b) != string(a) {
		t.Fatalf("second read differs: %v", err)
	}
}

// FuzzRedact: any JSON comes out as valid UTF-8 and a second pass changes nothing.
func FuzzRedact(f *testing.F) {
	for _, s := range canaries {
		q, _ := json.Marshal(s)
		f.Add([]byte(fmt.Sprintf(`{"argv":["a","--password",%s],"env":["A=%s"],"m":%s}`, q, "b", q)), s)
	}
	f.Add([]byte(`{"password":{"a":1},"token":3,"env":{"a":1},"a~/":"x"}`), "mysql -p'a b' --token \"c")
	f.Fuzz(func(t *testing.T, doc []byte, s string) {
		once, _ := r.String(s)
		if twice, cut := r.String(once); cut || !utf8.ValidString(once) {
			t.Fatalf("%q -> %q -> %q", s, once, twice)
		}
		argv := strings.Split(s, " ")
		a, _ := r.Argv(argv)
		if b, changed := r.Argv(a); len(changed) > 0 || len(a) != len(argv) {
			t.Fatalf("argv %q -> %q -> %q", argv, a, b)
		}
		out, _, err := r.JSON(doc)
		if err != nil {
			return
		}
		again, taken, err := r.JSON(out)
		if err != nil || string(again) != string(out) || len(taken) > 0 || !utf8.Valid(out) {
			t.Fatalf("%s\n-> %s\n-> %s %v %v", doc, out, again, taken, err)
		}
	})
}

// FuzzHints: where a hint says no, its expression finds nothing.
func FuzzHints(f *testing.F) {
	for _, s := range canaries {
		f.Add(s)
	}
	f.Add("a glrt-0123456789abcdefgh abcdef.0123456789abcdef password : x")
	f.Fuzz(func(t *testing.T, s string) {
		s = strings.ToValidUTF8(s, "")
		if !maybeShaped(s) && shaped.MatchString(s) {
			t.Errorf("shape in %q", s)
		}
		if !maybeHeader(s) && header.MatchString(s) {
			t.Errorf("header in %q", s)
		}
		if !maybePair(s) && pairs(s) != s {
			t.Errorf("pair in %q: %q", s, pairs(s))
		}
	})
}

func BenchmarkString(b *testing.B) {
	in := []string{"web-frontend-7d4b9c6f5d-x2k9p", "/var/lib/kubelet/pods/6ba7b810-9dad-11d1-80b4-00c04fd430c8/volumes", "app=web", "nginx:1.27"}
	for i := 0; b.Loop(); i++ {
		r.String(in[i%len(in)])
	}
}
