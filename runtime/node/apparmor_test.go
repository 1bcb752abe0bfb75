package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-cri/postern/profiles/apparmor"
)

// TestCheckAppArmor: the operator reads what to do, before a container fails.
func TestCheckAppArmor(t *testing.T) {
	saved := parsers
	defer func() { parsers = saved }()
	sys := t.TempDir()
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
		got := checkAppArmor(sys)
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
	if err := loadProfile(sys); err != nil {
		t.Errorf("securityfs not there: %v", err)
	}
	put(list, "")
	look(true, getParser)
	if err := loadProfile(sys); err == nil {
		t.Error("the profile was loaded by nobody")
	}
	put(list, apparmor.Default+" (complain)\n")
	look(true, getParser)
	put(list, apparmor.Default+" (enforce)\n")
	look(false, getParser)
	if err := loadProfile(sys); err != nil {
		t.Errorf("it is loaded: %v", err)
	}
	// A parser that fails, one that loads nothing, and one that is given our text.
	put(list, "")
	parsers = []string{filepath.Join(sys, "parser")}
	put("parser", "#!/bin/sh\necho no policy admin privileges >&2; exit 3\n")
	look(false, "")
	if err := loadProfile(sys); err == nil || !strings.Contains(err.Error(), "no policy admin privileges") {
		t.Errorf("a parser that fails: %v", err)
	}
	put("parser", "#!/bin/sh\nexit 0\n")
	if err := loadProfile(sys); err == nil || !strings.Contains(err.Error(), "not loaded") {
		t.Errorf("a parser that loads nothing: %v", err)
	}
	put("parser", "#!/bin/sh\nset -e\n[ \"$*\" = '--replace --skip-cache --quiet' ]\ngrep -q '^profile "+apparmor.Default+"'\necho '"+apparmor.Default+" (enforce)' > "+filepath.Join(sys, list)+"\n")
	if err := loadProfile(sys); err != nil {
		t.Error(err)
	}
}
