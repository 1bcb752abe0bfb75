package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-cri/postern/privsep/layout"
	"github.com/postern-cri/postern/profiles/apparmor"
	shipped "github.com/postern-cri/postern/profiles/ceiling"
	"github.com/postern-cri/postern/runtime/config"
)

// TestCheckAppArmor: the operator reads what to do, before a container fails.
func TestCheckAppArmor(t *testing.T) {
	saved := parsers
	defer func() { parsers = saved }()
	sys := t.TempDir()
	n := &Node{Root: "/r", Bin: "/bin", Layout: layout.New(t.TempDir()), Config: config.Default()}
	if err := os.MkdirAll(n.Layout.Etc, 0o755); err != nil {
		t.Fatal(err)
	}
	text, _ := shipped.Shipped("baseline")
	if err := os.WriteFile(n.Layout.Ceiling(), text, 0o644); err != nil {
		t.Fatal(err)
	}
	all := apparmor.Default + " (enforce)\n"
	for _, p := range apparmor.Programs() {
		all += apparmor.Installation{Root: n.Root}.Name(p) + " (enforce)\n"
	}
	put := func(name, text string) {
		t.Helper()
		path := filepath.Join(sys, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	look := func(error bool, want string) {
		t.Helper()
		got := n.checkAppArmor(sys)
		if want == "" && len(got) == 0 {
			return
		}
		if len(got) != 1 || got[0].Error != error || want == "" || !strings.Contains(got[0].String(), want) {
			t.Errorf("%v, want %q", got, want)
		}
	}
	const list = "kernel/security/apparmor/profiles"
	parsers = nil
	look(false, "")
	put("module/apparmor/parameters/enabled", "N\n")
	look(false, "")
	put("module/apparmor/parameters/enabled", "Y\n")
	look(false, "mount -t securityfs")
	if err := n.loadProfiles(sys); err != nil {
		t.Errorf("securityfs not there: %v", err)
	}
	put(list, "")
	look(true, getParser)
	if err := n.loadProfiles(sys); err == nil {
		t.Error("the profile was loaded by nobody")
	}
	put(list, apparmor.Default+" (complain)\n")
	look(true, getParser)
	put(list, apparmor.Default+" (enforce)\n") // our own processes' are missing
	look(true, getParser)
	put(list, all)
	look(false, getParser)
	if err := n.loadProfiles(sys); err != nil {
		t.Errorf("it is loaded: %v", err)
	}
	// A parser that fails, one that loads nothing, and one that is given our text.
	put(list, "")
	parsers = []string{filepath.Join(sys, "parser")}
	put("parser", "#!/bin/sh\necho no policy admin privileges >&2; exit 3\n")
	look(false, "")
	if err := n.loadProfiles(sys); err == nil || !strings.Contains(err.Error(), "no policy admin privileges") {
		t.Errorf("a parser that fails: %v", err)
	}
	put("parser", "#!/bin/sh\nexit 0\n")
	if err := n.loadProfiles(sys); err == nil || !strings.Contains(err.Error(), "not loaded") {
		t.Errorf("a parser that loads nothing: %v", err)
	}
	put("loaded", all)
	put("parser", "#!/bin/sh\nset -e\n[ \"$*\" = '--replace --skip-cache --quiet' ]\ntee "+filepath.Join(sys, "text")+" | grep -q '^profile "+apparmor.Default+"'\n"+
		"cp "+filepath.Join(sys, "loaded")+" "+filepath.Join(sys, list)+"\n")
	if err := n.loadProfiles(sys); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(filepath.Join(sys, "text")); err != nil || !strings.Contains(string(b), "profile "+apparmor.Installation{Root: n.Root}.Name("posternd")+" ") {
		t.Errorf("the parser was not given the front end's profile: %v", err)
	}
}
