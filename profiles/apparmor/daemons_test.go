package apparmor

import (
	"os/exec"
	"strings"
	"testing"
)

var system = Installation{Bin: "/usr/lib/postern", Etc: "/etc/postern", Run: "/run/postern", Lib: "/var/lib/postern", Log: "/var/log/postern",
	Plugins: []string{"/opt/cni/bin"}, Logs: []string{"/var/log/pods"}, Pulls: []string{"/srv/auth.json"}}

// TestDaemons: nothing is left to fill in, no path can be a pattern, and only
// those leave their profile that must.
func TestDaemons(t *testing.T) {
	b, err := system.Text()
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for _, line := range strings.Split(text, "\n") {
		rule, _, _ := strings.Cut(line, "#")
		if strings.Contains(rule, "@{") {
			t.Errorf("not filled in: %s", line)
		}
		for _, bad := range []string{"change_profile", "complain", "unconfined)", "capability mac_admin", "capability sys_module", "capability sys_rawio", " Ux"} {
			if strings.Contains(rule, bad) {
				t.Errorf("%q in %s", bad, line)
			}
		}
		if strings.Contains(rule, " ux,") && !strings.Contains(rule, "/postern-launch ux,") {
			t.Errorf("a way out: %s", line)
		}
	}
	for _, p := range Programs() {
		if !strings.Contains(text, "profile "+p+" flags=") {
			t.Errorf("%s has no profile of its own name", p)
		}
	}
	if len(Programs()) != 10 {
		t.Errorf("%d profiles: %v", len(Programs()), Programs())
	}
	other := system
	other.Root, other.Bin = "/srv/p", "/srv/b*n{,x}"
	b, err = other.Text()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b), `/srv/b\*n\{\,x\}/posternd px -> `+other.Name("posternd")+",") || other.Name("posternd") == "posternd" {
		t.Errorf("no profile for another installation:\n%s", b)
	}
	for _, bad := range []string{"relative", "/with space", "/with\nline", `/with"`, "/with@{x}"} {
		i := system
		i.Bin = bad
		if _, err := i.Text(); err == nil {
			t.Errorf("the path %q was taken", bad)
		}
		i = system
		i.Logs = []string{bad}
		if _, err := i.Text(); err == nil {
			t.Errorf("the path %q was taken", bad)
		}
	}
	if path, err := exec.LookPath("apparmor_parser"); err == nil { // where it is: it needs no kernel to read them
		for _, in := range []string{text, string(b)} {
			cmd := exec.Command(path, "--skip-kernel-load", "--skip-cache", "--quiet")
			cmd.Stdin = strings.NewReader(in)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("apparmor_parser: %v: %s", err, out)
			}
		}
	}
}
