package ceiling

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/plan"
	shipped "github.com/postern-cri/postern/profiles/ceiling"
)

const tail = "\n[[cgroup_root]]\nname = \"p\"\npath = \"/p\"\n[class.restricted]\n"

// Every error names the line and what stands there.
func TestParseErrors(t *testing.T) {
	head := "profile = \"x\"\n"
	for _, c := range []struct{ text, want string }{
		{"[network", `line 1: malformed table header "[network"`},
		{"\n\n[[host_path]", `line 3: malformed table header "[[host_path]"`},
		{"[a b]", `malformed table header`},
		{"[]", `malformed table header`},
		{"[network]\n[network]", `line 2: table [network] is there twice`},
		{"[network]\n[other]", `line 2: unknown table "other"`},
		{"[class.wide]", `line 1: unknown class in [class.wide]; the classes are restricted, baseline and system`},
		{"[host_path]\nname = \"a\"\npath = \"/a\"", `line 1: table "host_path": want [[ ]]`},
		{"[[class.restricted]]\n[[class.restricted]]", `line 1: table "class.restricted": want [[ ]] for`},
		{"[[network]]", `line 1: table "network": want [[ ]] for`},
		{"profile", `line 1: want key = value, got "profile"`},
		{"profile =", `want key = value`},
		{"= 3", `want key = value`},
		{"Profile = \"x\"", `want key = value, got "Profile`},
		{"\"profile\" = \"x\"", `want key = value`},
		{"a.b = 1", `want key = value`},
		{"profile = x", `line 1: key "profile": "x" is neither a string`},
		{"profile = 'x'", `key "profile": "'x'" is neither a string`},
		{"profile = \"x", `key "profile": "\"x" is not a string in double quotes`},
		{"profile = \"x\" y", `key "profile": left-over " y" behind the string`},
		{"profile = \"\\q\"", `is not a string in double quotes`},
		{"profile = 3", `line 1: key "profile" is not a string`},
		{"max_pods = \"3\"", `line 1: key "max_pods" is not an integer`},
		{"max_pods = 3.5", `key "max_pods": "3.5" is neither`},
		{"max_pods = 99999999999999999999", `key "max_pods": "99999999999999999999" is neither`},
		{"max_pods = 1\nmax_pods = 2", `line 2: key "max_pods" is there twice`},
		{"max_pods = true", `key "max_pods" is not an integer`},
		{"handlers = \"x\"", `key "handlers" is not an array of strings`},
		{"handlers = [\"a\" \"b\"]", `key "handlers": array of strings: want , or ] before`},
		{"handlers = [1]", `key "handlers": array of strings: "1]" is not a string`},
		{"handlers = [\"a\",\n\"b\"\n", `line 1: key "handlers"`},
		{"handlers = [\"a\"] x", `line 1: key "handlers"`},
		{"handlers = [`a`]", `is not a string in double quotes`},
		{"\nmax_pod = 1", `line 2: unknown key "max_pod" at the top; did you mean "max_pods"?`},
		{"handler = []", `unknown key "handler" at the top; did you mean "handlers"?`},
		{"zzzzzzzzzz = 1", `unknown key "zzzzzzzzzz" at the top`},
		{"[network]\nconfdir = \"/x\"", `line 2: unknown key "confdir" in [network]; did you mean "conf_dir"?`},
		{"[class.system]\nprivilegd = true", `line 2: unknown key "privilegd" in [class.system]; did you mean "privileged"?`},
		{"[class.system]\nprivileged = 1", `line 2: key "privileged" is not true or false`},
		{"[class.system]\nprivileged = \"true\"", `line 2: key "privileged" is not true or false`},
		{"[class.system]\n\ncapabilities = [\"SYS_ADMIM\"]", `line 3: unknown capability "SYS_ADMIM"`},
		{"[class.system]\ncapabilities = [\"CAP_CHOWN\"]", `unknown capability "CAP_CHOWN"`},
		{"[class.system]\ncapabilities = \"ALL\"", `line 2: key "capabilities" is not an array of strings`},
		{"[[host_path]]\nname = \"a\"", `line 1: [[host_path]] a: path "": want a clean absolute path`},
		{"[[host_path]]\npath = \"/a\"", `line 1: [[host_path]]: name "": want a word`},
		{"[[host_path]]\nname = \"a\"\npath = \"/a/../b\"", `path "/a/../b": want a clean`},
		{"[[host_path]]\nname = \"a\"\npath = \"/a/\"", `want a clean absolute path`},
		{"[[host_path]]\nname = \"a\"\npath = \"a\"", `want a clean absolute path`},
		{"[[host_path]]\nname = \"a/b\"\npath = \"/a\"", `name "a/b": want a word without slash`},
		{"[[host_path]]\nname = \"a\"\npath = \"/a\"\nsymlinks = \"yes\"", `line 4: key "symlinks" is "yes", want "never" or "beneath"`},
		{"[[log_root]]\nname = \"a\"\npath = \"x\"", `[[log_root]] a: path "x"`},
	} {
		_, err := Parse("ceiling.toml", []byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "ceiling.toml: line ") {
			t.Errorf("%q:\n %v\nwant\n %s", c.text, err, c.want)
		}
		// The same further down: no error hides behind what comes before.
		if !strings.HasPrefix(c.text, "profile") {
			if _, err := Parse("ceiling.toml", []byte(head+c.text)); err == nil {
				t.Errorf("%q was taken behind another line", c.text)
			}
		}
	}
	for _, c := range []struct{ text, want string }{
		{"", `key "profile" is missing`},
		{"profile = \"x\"", `no [class.…] table`},
		{"profile = \"x\"\n[class.restricted]", `no [[cgroup_root]]`},
		{"profile = \"x\"\nkubelet_root = \"var\"" + tail, `kubelet_root "var"`},
		{"profile = \"x\"" + tail + "[[cgroup_root]]\nname = \"p\"\npath = \"/q\"", `the name "p" is there twice`},
		{"profile = \"x\"" + tail + "[[log_root]]\nname = \"l\"\npath = \"/q\"\n[[log_root]]\nname = \"l\"\npath = \"/r\"", `the name "l" is there twice`},
		{"profile = \"x\"" + tail + "[[host_path]]\nname = \"h\"\npath = \"/q\"\n[[host_path]]\nname = \"h\"\npath = \"/r\"", `the name "h" is there twice`},
	} {
		if _, err := Parse("ceiling.toml", []byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q:\n %v\nwant\n %s", c.text, err, c.want)
		}
	}
}

func TestParseValues(t *testing.T) {
	c := parse(t, strings.Join([]string{
		`# a comment with = and "quotes" and [brackets]`,
		`profile = "a # is no comment here" # but here`,
		`  max_pods=7#close`,
		`seccomp_dir = "back\\" # a backslash before the quote`,
		`seccomp_unset_unconfined = true`,
		`handlers = [ # over lines`,
		`  "one",  # with a comment, and "another"`,
		``,
		`  "two # three", "four]",`,
		`]`,
		`cdi = []`,
		`devices = ["a" , "b"]`,
		`[network]`,
		"\tconf_dir = \"/etc/\\u00fc\"",
		`[[ host_path ]]`,
		`name = "h"`,
		`path = "/"`,
		`symlinks = "beneath"`,
		`[[handler]]`,
		`name = "crun"`,
		`path = "/usr/bin/crun"`,
		`args = ["--x"]`,
		`recursive_read_only = true`,
		`[[handler]]`,
		`name = "runc"`,
		`path = "/usr/sbin/runc"`,
		`user_namespaces = true`,
	}, "\r\n")+tail)
	want := &Ceiling{Profile: "a # is no comment here", KubeletRoot: "/var/lib/kubelet", SeccompDir: `back\`, SeccompUnsetUnconfined: true, MaxPods: 7, MaxContainers: 2000, MaxPIDs: 4096,
		Handlers: []string{"one", "two # three", "four]"}, CDI: []string{}, Devices: []string{"a", "b"}, Network: Network{ConfDir: "/etc/ü"},
		Runtimes: []Handler{{Name: "crun", Path: "/usr/bin/crun", Args: []string{"--x"}, RecursiveReadOnly: true},
			{Name: "runc", Path: "/usr/sbin/runc", UserNamespaces: true}},
		HostPaths: []HostPath{{Name: "h", Path: "/", Symlinks: true}}, CgroupRoots: []Root{{"p", "/p"}}, Classes: map[plan.Class]*Row{plan.Restricted: {}}}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
}

// What loosens beside the classes is off unless the file says so, and each key
// sets its own field.
func TestLooseKeys(t *testing.T) {
	for text, want := range map[string][2]bool{
		"": {}, "unfiltered = false\n": {}, "unfiltered = true\n": {true, false}, "seccomp_unset_unconfined = true\n": {false, true},
	} {
		c := parse(t, "profile = \"x\"\n"+text+tail)
		if got := [2]bool{c.Unfiltered, c.SeccompUnsetUnconfined}; got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
	for name, loose := range map[string]bool{"restricted": false, "baseline": false, "conformance": true} {
		b, _ := shipped.Shipped(name)
		if c := parse(t, string(b)); c.Unfiltered != loose || c.SeccompUnsetUnconfined != loose || (c.SeccompDir != "") != loose {
			t.Errorf("%s: unfiltered %v, unset unconfined %v, profiles from %q", name, c.Unfiltered, c.SeccompUnsetUnconfined, c.SeccompDir)
		}
	}
}

// Who makes cgroups is one of two.
func TestCgroupDriver(t *testing.T) {
	for text, want := range map[string]bool{"": false, "cgroup_driver = \"cgroupfs\"\n": false, "cgroup_driver = \"systemd\"\n": true} {
		if c := parse(t, "profile = \"x\"\n"+text+tail); c.Systemd != want {
			t.Errorf("%q: %v", text, c.Systemd)
		}
	}
	if _, err := Parse("x", []byte("profile = \"x\"\ncgroup_driver = \"Systemd\"\n"+tail)); err == nil || !strings.Contains(err.Error(), "line 2: key \"cgroup_driver\"") {
		t.Error(err)
	}
	// With systemd a pod lies in a slice, which it names.
	c := parse(t, strings.Replace(narrow, "max_pids", "cgroup_driver = \"systemd\"\nmax_pids", 1))
	for rel, ok := range map[string]bool{"a.slice/a-b.slice": true, "a.slice/b": false, "": false} {
		s := modest()
		s.pod.CgroupParent.Rel = rel
		if d := s.check(c); (d == nil) != ok || d != nil && d.Rule != "CEIL-CGROUP" {
			t.Errorf("%q: %+v", rel, d)
		}
	}
	s := modest()
	s.pod.CgroupParent = plan.Place{}
	if d := s.check(c); d == nil || d.Rule != "CEIL-CGROUP" {
		t.Errorf("no parent: %+v", d)
	}
}

// Every key of a class sets its own field and no other.
func TestRowKeys(t *testing.T) {
	keys := map[string]string{
		"privileged": "Privileged", "host_network": "HostNetwork", "host_pid": "HostPID", "host_ipc": "HostIPC", "unconfined": "Unconfined",
		"allow_privilege_escalation": "PrivilegeEscalation", "unmasked_proc": "UnmaskedProc", "run_as_root": "RunAsRoot",
		"bidirectional": "Bidirectional", "user_namespaces": "UserNamespaces", "require_user_namespace": "RequireUserNS", "selinux_options": "SELinuxOptions",
	}
	if n := reflect.TypeFor[Row]().NumField(); n != len(keys)+4 {
		t.Errorf("a row has %d fields, the test knows %d", n, len(keys)+4)
	}
	for key, field := range keys {
		c := parse(t, "profile = \"x\""+tail+key+" = true\n")
		var want Row
		reflect.ValueOf(&want).Elem().FieldByName(field).SetBool(true)
		if got := *c.Classes[plan.Restricted]; !reflect.DeepEqual(got, want) {
			t.Errorf("%s gives %+v", key, got)
		}
	}
	c := parse(t, "profile = \"x\""+tail+"capabilities = [\"CHOWN\", \"CHECKPOINT_RESTORE\"]\nhost_port_min = 1\nhost_port_max = 2\nsysctls = [\"net.*\"]")
	if got, want := *c.Classes[plan.Restricted], (Row{Capabilities: 1<<40 | 1, HostPortMin: 1, HostPortMax: 2, Sysctls: []string{"net.*"}}); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// The ceiling is believed only from a file that nobody but root could write.
func TestLoad(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("TestLoad needs root: it changes owners")
	}
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode, uid int) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(p, uid, 0); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(p, mode); err != nil {
			t.Fatal(err)
		}
		return p
	}
	good := write("good", narrow, 0o644, 0)
	if c, err := Load(good); err != nil || c.Profile != "test" {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := Load(write("quiet", narrow, 0o400, 0)); err != nil {
		t.Error(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(good, link); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		write("group", narrow, 0o664, 0):                                "want a regular file of root's",
		write("world", narrow, 0o646, 0):                                "fix: chown root",
		write("other", narrow, 0o644, 1000):                             "of uid 1000",
		write("large", narrow+strings.Repeat("# x\n", 1<<14), 0o644, 0): "longer than",
		write("broken", "profile", 0o644, 0):                            "line 1",
		link:                                                            "too many levels",
		dir:                                                             "want a regular file",
		fifo:                                                            "want a regular file",
		filepath.Join(dir, "not-here"):                                  "no such file",
	} {
		if c, err := Load(path); err == nil || c != nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", filepath.Base(path), err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(narrow))
	f.Add([]byte("a = [\"x\", \n\"y\\\\\"] # c"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Parse("x", b)
		if err == nil && (c.Profile == "" || len(c.Classes) == 0 || len(c.CgroupRoots) == 0) {
			t.Fatalf("an incomplete ceiling: %+v", c)
		}
	})
}
