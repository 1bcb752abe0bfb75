package image

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	img "github.com/postern-cri/postern/runtime/image"
	"github.com/postern-cri/postern/test/fixtures"
)

// another starts one more registry.
func (n *node) another() *fixtures.Registry {
	n.t.Helper()
	r, err := fixtures.StartRegistry("127.0.0.1:0", nil)
	must(n.t, err)
	n.t.Cleanup(r.Close)
	return r
}

// trustName has trust.toml cover a registry by the name that images have.
func (n *node) trustName(names ...string) {
	more := ""
	for _, s := range names {
		more += fmt.Sprintf("[[rules]]\nscope = [\"%s/**\"]\nthreshold = { of = [\"demo\"], need = 1 }\n", s)
	}
	n.trust(more)
}

// signAs signs what has this digest as an image of the repository, on r.
func (n *node) signAs(r *fixtures.Registry, name, repo, digest string) {
	n.t.Helper()
	p := fixtures.Payload(name, digest)
	must(n.t, r.PushSignatures(repo, digest, fixtures.Signature{Payload: p, Base64: n.key.Sign(p)}))
}

// answers counts what a registry was asked for about a repository.
func answers(r *fixtures.Registry, repo string) int { return len(r.Seen("/v2/" + repo + "/")) }

// TestMirrors: in order, each for what the one before does not have, be it the
// image, a layer or the signature; the image keeps the name that it was asked by,
// and the signature must be for that name.
func TestMirrors(t *testing.T) {
	n := newNode(t)
	origin, first, second := n.reg, n.another(), n.another()
	n.registries(fmt.Sprintf(`
[[registry]]
prefix = "registry.test/team"
location = "%s/moved/team"
insecure = true
[[registry.mirror]]
location = "%s/cache"
insecure = true
[[registry.mirror]]
location = "%s"
insecure = true
`, origin.Addr, first.Addr, second.Addr))
	n.trustName("registry.test")
	const name = "registry.test/team/app"
	put := func(tag string, i fixtures.Image, signed *fixtures.Registry, repo string) {
		n.signAs(signed, name, repo, i.Digest())
	}
	check := func(tag string, i fixtures.Image) {
		t.Helper()
		info, err := n.pullAs(name+":"+tag, nil)
		if err != nil {
			t.Fatalf("%s: %v", tag, err)
		}
		if info.ManifestDigest != i.Digest() || info.RepoTags[0] != name+":"+tag || info.RepoDigests[0] != name+"@"+i.Digest() {
			t.Errorf("%s: %+v", tag, info)
		}
	}

	// The first has all of it, and nobody else is asked.
	a := small("a")
	must(t, first.PushImage("cache/app", "a", a))
	put("a", a, first, "cache/app")
	check("a", a)
	if k := answers(second, "app") + answers(origin, "moved/team/app"); k > 0 {
		t.Errorf("the others were asked %d times", k)
	}
	// Only the second has it, and only the origin has the signature.
	b := small("b")
	must(t, second.PushImage("app", "b", b))
	put("b", b, origin, "moved/team/app")
	check("b", b)
	if answers(origin, "moved/team/app") == 0 {
		t.Error("nobody looked for the signature where the image's name leads")
	}
	// The first answers, but it has lost one layer and changed another one.
	c := small("c")
	must(t, first.PushImage("cache/app", "c", c))
	must(t, origin.PushImage("moved/team/app", "c", c))
	put("c", c, first, "cache/app")
	lost, changed := fixtures.Digest(c.Layers[0].Blob), append([]byte(nil), c.Layers[1].Blob...)
	changed[len(changed)-5] ^= 1
	first.Intercept(fixtures.Any(fixtures.On(lost, fixtures.Answer(404, "")),
		fixtures.On(fixtures.Digest(c.Layers[1].Blob), fixtures.Answer(200, string(changed)))))
	check("c", c)
	// The first is broken and the second is not there at all.
	d := small("d")
	must(t, origin.PushImage("moved/team/app", "d", d))
	put("d", d, origin, "moved/team/app")
	first.Intercept(fixtures.Answer(503, ""))
	second.Close()
	check("d", d)
	// Nobody has it: each is named.
	_, err := n.pullAs(name+":e", nil)
	if e, ok := err.(*img.Error); !ok || e.Code != img.NotFound || !strings.Contains(e.Message, first.Addr) || !strings.Contains(e.Message, second.Addr) {
		t.Errorf("%v", err)
	}
	// A mirror decides nothing: its signature is for its own name.
	f := small("f")
	first.Intercept(nil)
	must(t, first.PushImage("cache/app", "f", f))
	n.signAs(first, first.Addr+"/cache/app", "cache/app", f.Digest())
	if _, err := n.pullAs(name+":f", nil); err == nil || !strings.Contains(err.Error(), "IDENTITY_MISMATCH") {
		t.Errorf("%v", err)
	}
}

// TestRegistriesConf: what is blocked, what is not insecure, and what is no
// configuration at all.
func TestRegistriesConf(t *testing.T) {
	n := newNode(t)
	i := small("app")
	n.push("app", "1", i)
	n.sign(n.key, "app", i.Digest())
	plain := fmt.Sprintf("[[registry]]\nlocation = %q\ninsecure = true\n", n.reg.Addr)
	for name, tt := range map[string]struct {
		conf  string
		ref   string
		code  img.Code
		words string
	}{
		"blocked":            {fmt.Sprintf("[[registry]]\nlocation = %q\nblocked = true\n", n.reg.Addr), "", img.Policy, "registries.conf blocks"},
		"blocked by pattern": {"[[registry]]\nprefix = \"*.evil.test\"\nblocked = true\n", "a.evil.test/app:1", img.Policy, "registries.conf blocks"},
		"mirror is blocked": {fmt.Sprintf("[[registry]]\nlocation = %q\nblocked = true\n[[registry]]\nlocation = \"good.test\"\n[[registry.mirror]]\nlocation = %q\ninsecure = true\n",
			n.reg.Addr, n.reg.Addr), "good.test/app:1", img.Policy, "registries.conf blocks"},
		"plain http":   {"", "", img.Unavailable, "HTTP response to HTTPS client"},
		"no TOML":      {"[[registry\n", "", img.Internal, "registries.conf"},
		"a short name": {"unqualified-search-registries = [\"" + n.reg.Addr + "\"]\n[aliases]\n\"app\" = \"" + n.reg.Addr + "/app\"\n" + plain, "app:1", img.Invalid, "has no registry: write docker.io/library/app:1"},
	} {
		n.registries(tt.conf)
		n.restart()
		ref := tt.ref
		if ref == "" {
			ref = n.reg.Addr + "/app:1"
		}
		n.reg.Log()
		_, err := n.pullAs(ref, nil)
		e, ok := err.(*img.Error)
		if !ok || e.Code != tt.code || !strings.Contains(e.Message, tt.words) {
			t.Errorf("%s: %v", name, err)
		}
		if log := n.reg.Log(); len(log) > 0 {
			t.Errorf("%s: asked for %q", name, log)
		}
	}
	// Completed, where the node's configuration says so, and never by a search.
	n.registries(fmt.Sprintf("unqualified-search-registries = [\"nowhere.test\"]\n[[registry]]\nprefix = \"docker.io/library\"\nlocation = %q\ninsecure = true\n", n.reg.Addr))
	n.image("short_names = \"docker.io\"\n")
	n.trustName("docker.io")
	n.signAs(n.reg, "docker.io/library/app", "app", i.Digest())
	n.restart()
	if info, err := n.pullAs("app:1", nil); err != nil || info.RepoTags[0] != "docker.io/library/app:1" {
		t.Errorf("%+v %v", info, err)
	}
}

// TestCredentials: from the request in each of its forms, from the auth file by
// repository, and to nobody but the registry that they are for.
func TestCredentials(t *testing.T) {
	n := newNode(t)
	basic := func(u, p string) string { return base64.StdEncoding.EncodeToString([]byte(u + ":" + p)) }
	mirror := n.another()
	n.registries(fmt.Sprintf("[[registry]]\nlocation = %q\ninsecure = true\n[[registry.mirror]]\nlocation = %q\ninsecure = true\n", n.reg.Addr, mirror.Addr+"/cache"))
	auth := filepath.Join(n.l.Etc, "auth.json")
	n.write(auth, fmt.Sprintf(`{"auths":{%q:{"auth":%q},%q:{"auth":%q},%q:{"auth":%q}}}`,
		n.reg.Addr, basic("wide", "pw"), n.reg.Addr+"/team", basic("team", "pw"), mirror.Addr+"/cache", basic("mirror", "pw")))
	n.image(fmt.Sprintf("auth_file = %q\n", auth))
	n.restart()
	next := 0
	// pull makes an image that nobody has yet and pulls it.
	pull := func(repo string, a *img.Auth) error {
		next++
		i := small(fmt.Sprint(next))
		tag := fmt.Sprint(next)
		n.push(repo, tag, i)
		n.sign(n.key, repo, i.Digest())
		_, err := n.pullAs(n.reg.Addr+"/"+repo+":"+tag, a)
		return err
	}
	refused := func(err error) bool { e, ok := err.(*img.Error); return ok && e.Code == img.AuthFailed }

	for name, tt := range map[string]struct {
		user, repo string
		auth       *img.Auth
	}{
		"auth file":                   {"wide", "other", nil},
		"auth file, repository":       {"team", "team/app", nil},
		"user and password":           {"me", "a", &img.Auth{Username: "me", Password: "pw"}},
		"auth":                        {"me", "b", &img.Auth{Auth: basic("me", "pw")}},
		"auth with a colon":           {"me", "b2", &img.Auth{Auth: basic("me", "p:w")}},
		"server address":              {"me", "c", &img.Auth{Username: "me", Password: "pw", ServerAddress: "https://" + n.reg.Addr + "/v2/"}},
		"server address of another":   {"wide", "d", &img.Auth{Username: "me", Password: "pw", ServerAddress: "elsewhere.test"}},
		"server address with a trick": {"wide", "e", &img.Auth{Username: "me", Password: "pw", ServerAddress: "https://" + n.reg.Addr + "@elsewhere.test"}},
	} {
		password := "pw"
		if strings.Contains(name, "colon") {
			password = "p:w"
		}
		n.reg.Intercept(fixtures.Basic(tt.user, password))
		if err := pull(tt.repo, tt.auth); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	n.reg.Intercept(fixtures.Basic("me", "pw"))
	if err := pull("x", &img.Auth{Username: "me", Password: "wrong"}); !refused(err) {
		t.Errorf("a wrong password: %v", err)
	}
	if err := pull("x", &img.Auth{Auth: "%"}); !refused(err) {
		t.Errorf("what is not base64: %v", err)
	}

	// Tokens: by a password, by a refresh token, and one that the kubelet has.
	ts, err := fixtures.StartTokenServer("me", "pw", "refresh-me")
	must(t, err)
	defer ts.Close()
	ts.Accept("given")
	n.reg.Intercept(ts.Bearer())
	for name, a := range map[string]*img.Auth{
		"password": {Username: "me", Password: "pw"}, "identity token": {IdentityToken: "refresh-me"}, "registry token": {RegistryToken: "given"},
	} {
		if err := pull("t", a); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !strings.Contains(strings.Join(ts.Scopes(), " "), "repository:t:pull") {
		t.Errorf("tokens were given out for %q", ts.Scopes())
	}
	if err := pull("t", &img.Auth{Username: "me", Password: "wrong"}); !refused(err) {
		t.Errorf("a wrong password for a token: %v", err)
	}
	if err := pull("t", &img.Auth{RegistryToken: "forged"}); !refused(err) {
		t.Errorf("a forged token: %v", err)
	}

	// The mirror was asked before the registry, each time, and saw its own
	// credentials at most.
	n.reg.Intercept(nil)
	seen := mirror.Seen("/v2/")
	if len(seen) == 0 {
		t.Error("the mirror was not asked")
	}
	for _, s := range seen {
		if s.Auth != "" {
			t.Errorf("the mirror was sent %q", s.Auth)
		}
	}
	mirror.Intercept(fixtures.Basic("mirror", "pw"))
	i := small("cached")
	must(t, mirror.PushImage("cache/app", "m", i))
	n.signAs(mirror, n.reg.Addr+"/app", "cache/app", i.Digest())
	n.reg.Log()
	if _, err := n.pullAs(n.reg.Addr+"/app:m", &img.Auth{RegistryToken: "given"}); err != nil {
		t.Error(err)
	}
	for _, s := range mirror.Seen("/v2/") {
		if s.Auth != "" && s.Auth != "Basic "+basic("mirror", "pw") {
			t.Errorf("the mirror was sent %q", s.Auth)
		}
	}
	if log := n.reg.Log(); len(log) > 0 {
		t.Errorf("the registry was asked for %q", log)
	}
}

// TestElsewhere: neither a redirect nor the urls of a layer send credentials to
// another host (CVE-2020-15157).
func TestElsewhere(t *testing.T) {
	n := newNode(t)
	evil, err := fixtures.StartRegistry("127.0.0.2:0", nil)
	must(t, err)
	defer evil.Close()
	auth := &img.Auth{Username: "me", Password: "pw"}
	clean := func(what string, asked bool) {
		t.Helper()
		seen := evil.Seen("/")
		if asked != (len(seen) > 0) {
			t.Errorf("%s: the other host was asked %d times", what, len(seen))
		}
		for _, s := range seen {
			if s.Auth != "" {
				t.Errorf("%s: the other host was sent %q", what, s.Auth)
			}
		}
	}
	i := small("app")
	n.push("app", "1", i)
	n.sign(n.key, "app", i.Digest())
	// The urls of a layer are not looked at; the image is refused.
	for k, u := range []string{"http://%s/v2/app/blobs/%s", "http://me:pw@%s/v2/app/blobs/%s", "HTTP://%s:80/%s", "//%s/%s"} {
		u = fmt.Sprintf(u, evil.Addr, fixtures.Digest(i.Layers[1].Blob))
		foreign := strings.Replace(string(i.Manifest), `"layers":[{`, fmt.Sprintf(`"layers":[{"urls":[%q],`, u), 1)
		tag := fmt.Sprint("foreign", k)
		must(t, n.reg.PushManifest("app", tag, fixtures.ManifestType, []byte(foreign)))
		must(t, n.reg.SignImage(n.key, "app", fixtures.Digest([]byte(foreign))))
		if _, err := n.pullAs(n.reg.Addr+"/app:"+tag, auth); err == nil || !strings.Contains(err.Error(), "urls") {
			t.Errorf("%s: %v", u, err)
		}
	}
	clean("urls", false)
	// A redirect is followed, without them; whatever is asked there.
	for _, l := range i.Layers {
		must(t, evil.PushBlob("app", l.Blob))
	}
	basic := fixtures.Basic("me", "pw")
	n.reg.Intercept(fixtures.Any(basic, fixtures.On(fixtures.Digest(i.Layers[0].Blob), fixtures.Redirect("http://"+evil.Addr))))
	if _, err := n.pullAs(n.reg.Addr+"/app:1", auth); err != nil {
		t.Error(err)
	}
	clean("redirect", true)
	j := small("other")
	n.push("app", "2", j)
	n.sign(n.key, "app", j.Digest())
	evil.Intercept(fixtures.Basic("me", "pw"))
	n.reg.Intercept(fixtures.Any(basic, fixtures.On(fixtures.Digest(j.Layers[0].Blob), fixtures.Redirect("http://"+evil.Addr))))
	if _, err := n.pullAs(n.reg.Addr+"/app:2", auth); err == nil {
		t.Error("a layer came from a host that did not give it")
	}
	clean("redirect to who wants credentials", true)
	n.reg.Intercept(fixtures.Any(basic, fixtures.On("/manifests/2", fixtures.Redirect("http://"+evil.Addr))))
	if _, err := n.pullAs(n.reg.Addr+"/app:2", auth); err == nil {
		t.Error("a manifest came from a host that did not give it")
	}
	clean("redirect of a manifest", true)
}

// TestCertificates: a registry whose certificate only certs.d explains, and one
// that wants a client's.
func TestCertificates(t *testing.T) {
	n := newNode(t)
	ca, clients := fixtures.NewCA(), fixtures.NewCA()
	certs := filepath.Join(n.l.Etc, "certs.d")
	n.mkdir(certs, 0o700, n.users.Front) // not for the fetching process
	n.image(fmt.Sprintf("certs_dir = %q\n", certs))
	i := small("app")
	start := func(clients *fixtures.CA) *fixtures.Registry {
		r, err := fixtures.StartTLSRegistry("127.0.0.1:0", ca, clients)
		must(t, err)
		t.Cleanup(r.Close)
		must(t, r.PushImage("app", "1", i))
		n.signAs(r, r.Addr+"/app", "app", i.Digest())
		return r
	}
	one, two := start(nil), start(clients)
	n.trustName(one.Addr, two.Addr)
	n.restart()
	for _, r := range []*fixtures.Registry{one, two} {
		if _, err := n.pullAs(r.Addr+"/app:1", nil); err == nil || !strings.Contains(err.Error(), "certificate signed by unknown authority") {
			t.Errorf("%v", err)
		}
		must(t, os.MkdirAll(filepath.Join(certs, r.Addr), 0o700))
		must(t, os.WriteFile(filepath.Join(certs, r.Addr, "ca.crt"), ca.PEM, 0o600))
	}
	n.restart()
	if _, err := n.pullAs(one.Addr+"/app:1", nil); err != nil {
		t.Error(err)
	}
	if _, err := n.pullAs(two.Addr+"/app:1", nil); err == nil || !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("%v", err)
	}
	cert, key := clients.IssuePEM("node")
	must(t, os.WriteFile(filepath.Join(certs, two.Addr, "client.cert"), cert, 0o600))
	must(t, os.WriteFile(filepath.Join(certs, two.Addr, "client.key"), key, 0o600))
	n.restart()
	if _, err := n.pullAs(two.Addr+"/app:1", nil); err != nil {
		t.Error(err)
	}
	kept := filepath.Join(n.l.FetchState(), "certs.d")
	if st, err := os.Stat(kept); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("%v %v", st, err)
	}
	must(t, os.RemoveAll(filepath.Join(certs, two.Addr)))
	n.restart()
	if _, err := n.pullAs(one.Addr+"/app:1", nil); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(kept, two.Addr)); err == nil {
		t.Error("a key that was taken away is still there")
	}
}
