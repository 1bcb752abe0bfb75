package e2e

import (
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestClosedToOthers: who is nobody on the node finds nothing to read, to write
// or to enter but what is there for all: configuration, and the two sockets whose
// servers look at who comes.
func TestClosedToOthers(t *testing.T) {
	tr := startTree(t, "baseline", "")
	tr.pull()
	tr.run("pod", "sleep 1000")
	find := func(what ...string) map[string]bool {
		cmd := exec.Command("find", append([]string{tr.root + "/run", tr.root + "/lib", tr.root + "/log"}, what...)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, _ := cmd.Output() // find says EACCES at every closed door
		found := map[string]bool{}
		for _, l := range strings.Fields(string(out)) {
			rel, _ := filepath.Rel(tr.root, l)
			found[rel] = true
		}
		return found
	}
	for _, c := range []struct {
		what  []string
		allow string
	}{
		{[]string{"-type", "d", "-executable"}, "run run/sock lib log"},
		{[]string{"-writable", "-not", "-type", "l"}, "run/sock/policy run/sock/audit"},
		{[]string{"-type", "f", "-readable"}, "run/users run/init.json"},
	} {
		for f := range find(c.what...) {
			if !strings.Contains(" "+c.allow+" ", " "+f+" ") {
				t.Errorf("find %v: %s", c.what, f)
			}
		}
	}
	if !find("-type", "d", "-executable")["run/sock"] {
		t.Error("find found nothing at all")
	}
	// Nor is there anything of a role's to see for another role.
	for name, pids := range tr.processes() {
		for _, pid := range pids {
			if !strings.HasPrefix(name, "postern") {
				continue
			}
			for _, f := range []string{"environ", "maps", "fd/0", "mem", "root/etc"} {
				cmd := exec.Command("head", "-c1", filepath.Join("/proc", strconv.Itoa(pid), f))
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 64500, Gid: 64500}}
				if out, err := cmd.CombinedOutput(); err == nil {
					t.Errorf("uid 64500 reads %s of %s: %q", f, name, out)
				}
			}
		}
	}
}
