package apparmor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// sysfs makes a /sys with what is given.
func sysfs(t *testing.T, enabled, profiles string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"module/apparmor/parameters/enabled": enabled, "kernel/security/apparmor/profiles": profiles} {
		if text == "" {
			continue
		}
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestEnabled(t *testing.T) {
	for _, tt := range []struct {
		enabled, profiles  string
		present, reachable bool
	}{
		{"", "", false, false}, {"N\n", "x (enforce)\n", false, false}, {"Y\n", "", true, false}, {"Y\n", "x (enforce)\n", true, true},
	} {
		if p, r := Enabled(sysfs(t, tt.enabled, tt.profiles)); p != tt.present || r != tt.reachable {
			t.Errorf("%q %q: %v %v", tt.enabled, tt.profiles, p, r)
		}
	}
}

// TestConfines: a profile is had by its whole name, and only one that enforces.
func TestConfines(t *testing.T) {
	sys := sysfs(t, "Y\n", "a (enforce)\nb (complain)\nc (unconfined)\nd (kill)\ne (x) (enforce)\na//child (complain)\n")
	for name, want := range map[string]string{
		"a": "", "d": "", "e (x)": "", "b": "complain", "c": "unconfined", "a//child": "complain", "e": "not loaded", "": "not loaded",
		"unconfined": "not loaded", "a (enforce)": "not loaded", Default: "postern up",
	} {
		err := Confines(sys, name)
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", name, err, want)
		}
	}
	if Confines(sysfs(t, "Y\n", ""), "a") == nil {
		t.Error("a profile was found without a list")
	}
}

// TestText: the profile has the name that it is asked for by, needs no file of
// the machine, and grants no way out.
func TestText(t *testing.T) {
	rules := ""
	for line := range strings.Lines(string(Text)) {
		line, _, _ = strings.Cut(strings.TrimSpace(line), "#")
		rules += line + "\n"
	}
	if !strings.Contains(rules, "profile "+Default+" ") {
		t.Error("the profile has another name")
	}
	for _, bad := range []string{"include", "change_profile", "complain", "unconfined)", " ux", " Ux", "@{"} {
		if strings.Contains(rules, bad) {
			t.Errorf("the profile has %q", bad)
		}
	}
	for _, must := range []string{"deny mount,", "deny umount,", "deny capability mac_admin,", "deny /sys/kernel/security/**", "signal (receive) peer=unconfined,"} {
		if !strings.Contains(rules, must) {
			t.Errorf("the profile lacks %q", must)
		}
	}
	if strings.Contains(rules, "ptrace (trace, read, tracedby, readby) peer=unconfined") {
		t.Error("a container may trace the node's processes")
	}
}
