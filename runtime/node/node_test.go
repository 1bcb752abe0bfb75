package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-cri/postern/privsep/layout"
	"github.com/postern-cri/postern/privsep/tree"
	"github.com/postern-cri/postern/runtime/config"
)

// TestUsers: all by name, or all by number, never a mixture, never taken ones.
func TestUsers(t *testing.T) {
	var all strings.Builder
	var u layout.Users
	for i, r := range u.Roles() {
		all.WriteString(r.Name + ":x:" + string(rune('1'+i)) + "01:99::/:/bin/false\n")
	}
	for name, tt := range map[string]struct {
		passwd string
		named  bool
		fails  string
		front  uint32
	}{
		"numbers": {"root:x:0:0::/root:/bin/sh\n", false, "", 64500},
		"names":   {all.String(), true, "", 101},
		"some":    {"postern:x:7:7::/:/bin/false\n", false, "add all eight users, or none", 0},
		"taken":   {"bob:x:64503:1::/:/bin/sh\n", false, "uid 64503 belongs to bob", 0},
		"no file": {"", false, "", 64500},
	} {
		path := filepath.Join(t.TempDir(), "passwd")
		if tt.passwd != "" {
			os.WriteFile(path, []byte(tt.passwd), 0o644)
		}
		u, named, err := Users(path, 64500)
		switch {
		case tt.fails != "":
			if err == nil || !strings.Contains(err.Error(), tt.fails) {
				t.Errorf("%s: %v", name, err)
			}
		case err != nil || named != tt.named || u.Front.UID != tt.front:
			t.Errorf("%s: %v %v %d", name, err, named, u.Front.UID)
		}
	}
}

// TestProcesses: what is written is what init accepts, each daemon once, and the
// fds of each are at the numbers that it expects.
func TestProcesses(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: init reads only root's files")
	}
	l := layout.New("/r")
	path := filepath.Join(t.TempDir(), "init.json")
	if err := writeInit(path, processes("/r", "/bin", l, layout.Users{}, config.Default())); err != nil {
		t.Fatal(err)
	}
	c, err := tree.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"postern-auditd": "seqpacket", "postern-policyd": "seqpacket", "postern-logd": "seqpacket restore",
		"postern-helper": "seqpacket keeper", "postern-imaged-convert": "seqpacket", "postern-imaged-verify": "seqpacket",
		"postern-imaged-fetch": "seqpacket", "postern-streamd": "seqpacket tcp", "posternd": "stream exits seqpacket",
	}
	for _, p := range c.Processes {
		var types []string
		for _, f := range p.FDs {
			types = append(types, f.Type)
		}
		if got := strings.Join(types, " "); got != want[p.Name] {
			t.Errorf("%s has %q, want %q", p.Name, got, want[p.Name])
		}
		delete(want, p.Name)
	}
	if len(want) > 0 {
		t.Errorf("missing: %v", want)
	}
}

// TestBound: the directories of postern.toml are in the ceiling, once, whatever
// was there.
func TestBound(t *testing.T) {
	c := config.Default()
	c.Network.ConfDir, c.Kubelet.Root = "/n", "/k"
	for name, text := range map[string]string{
		"without": "profile = \"x\"\n\n[class.baseline]\nrun_as_root = true\n",
		"with":    "profile = \"x\"\nkubelet_root = \"/old\"\n[network]\nconf_dir = \"/old\" # here\nbin_dirs = [\"/old\"]\n[class.baseline]\n",
		"lines":   "[network]\nbin_dirs = [\n  \"/old\",\n  \"/old2\"]\nconf_dir = \"/old\"\n",
		"half":    "kubelet_root = \"/old\"\n[network]\nbin_dirs = [\"/old\"]\n",
	} {
		got := bound(text, c)
		for _, line := range []string{`kubelet_root = "/k"`, `conf_dir = "/n"`, `bin_dirs = ["/opt/cni/bin", "/usr/lib/cni"]`} {
			if strings.Count(got, line+"\n") != 1 {
				t.Errorf("%s: %q is not there once:\n%s", name, line, got)
			}
		}
		if strings.Contains(got, "/old") || bound(got, c) != got {
			t.Errorf("%s: not settled:\n%s", name, got)
		}
		if k, n := strings.Index(got, "kubelet_root"), strings.Index(got, "["); k > n {
			t.Errorf("%s: kubelet_root is inside a table:\n%s", name, got)
		}
	}
}

// TestFill: what is missing is written, what is there is kept, and one's own
// policy replaces the shipped one wholly.
func TestFill(t *testing.T) {
	root := t.TempDir()
	l := layout.New(root)
	for _, d := range []string{l.Policy(), l.Run} {
		os.MkdirAll(d, 0o755)
	}
	c := config.Default()
	own := filepath.Join(root, "own.toml")
	os.WriteFile(own, []byte("profile = \"own\"\n"), 0o644)
	c.Ceiling.File = own
	os.WriteFile(l.Trust(), []byte("default = \"reject\" # mine\n"), 0o644)
	if _, err := fill(l, "baseline", c); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(l.Trust()); !strings.Contains(string(b), "# mine") {
		t.Error("trust.toml was replaced")
	}
	if _, err := os.Stat(filepath.Join(l.Policy(), "pss_baseline.rego")); err != nil {
		t.Error(err)
	}
	dir := filepath.Join(root, "rules")
	os.Mkdir(dir, 0o755)
	c.Policy.Dir = dir
	if _, err := fill(l, "baseline", c); err == nil {
		t.Error("an empty policy directory was taken")
	}
	os.WriteFile(filepath.Join(dir, "mine.rego"), []byte("package postern.mine\n"), 0o644)
	if _, err := fill(l, "baseline", c); err != nil {
		t.Fatal(err)
	}
	if names, _ := policyFiles(l.Policy()); len(names) != 1 || names[0] != "mine.rego" {
		t.Errorf("policy files %v", names)
	}
	if _, err := settleProfile(l, "restricted", c, false); err == nil {
		t.Error("the profile was switched")
	}
	if p, err := settleProfile(l, "", c, false); err != nil || p != "baseline" {
		t.Error(p, err)
	}
}
