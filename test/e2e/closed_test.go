package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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
	if err := os.Chmod(filepath.Dir(tr.root), 0o755); err != nil {
		t.Fatal(err)
	}
	all, err := exec.Command("find", tr.root+"/run", tr.root+"/lib", tr.root+"/log", "-maxdepth", "4").Output()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", `while read -r p; do
		[ -d "$p" ] && [ -x "$p" ] && echo "enter $p"
		[ ! -L "$p" ] && [ -w "$p" ] && echo "write $p"
		[ -f "$p" ] && [ -r "$p" ] && echo "read $p"
	done`)
	cmd.Stdin = bytes.NewReader(all)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, _ := cmd.Output()
	found := strings.ReplaceAll(string(out), tr.root+"/", "")
	allowed := []string{"enter run", "enter run/sock", "enter run/cdi", "enter lib", "enter log", "write run/sock/policy", "write run/sock/audit", "read run/users", "read run/init.json"}
	for _, f := range strings.Split(strings.TrimSpace(found), "\n") {
		if !slices.Contains(allowed, f) {
			t.Errorf("nobody can %s", f)
		}
	}
	if !strings.Contains(found, "enter run/sock\n") || strings.Count(string(all), "\n") < 30 {
		t.Errorf("nothing was looked at: %q", found)
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
