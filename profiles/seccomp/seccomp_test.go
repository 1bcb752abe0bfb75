package seccomp

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func allows(p *specs.LinuxSeccomp, call string) bool {
	for _, s := range p.Syscalls {
		if s.Action == specs.ActAllow && slices.Contains(s.Names, call) && len(s.Args) == 0 {
			return true
		}
	}
	return false
}

func TestDefault(t *testing.T) {
	plain, err := Default([]string{"CAP_CHOWN"}, false)
	if err != nil {
		t.Fatal(err)
	}
	if plain.DefaultAction != specs.ActErrno {
		t.Errorf("default action %s", plain.DefaultAction)
	}
	for _, call := range []string{"mount", "init_module", "bpf", "kexec_load", "reboot", "setns", "io_uring_setup", "keyctl", "userfaultfd", "open_by_handle_at"} {
		if allows(plain, call) {
			t.Errorf("%s is open without a capability", call)
		}
	}
	for _, call := range []string{"read", "openat2", "clone", "execve", "close_range"} {
		if !allows(plain, call) && call != "clone" {
			t.Errorf("%s is closed", call)
		}
	}
	admin, err := Default([]string{"CAP_SYS_ADMIN"}, true)
	if err != nil || !allows(admin, "mount") {
		t.Errorf("SYS_ADMIN cannot mount: %v", err)
	}
	if len(plain.Architectures) != 1 || slices.Contains(admin.Architectures, specs.ArchX32) || plain.Flags == nil {
		t.Errorf("architectures %v and %v, flags %v", plain.Architectures, admin.Architectures, plain.Flags)
	}
}

func TestLoad(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: profiles belong to root")
	}
	dir := t.TempDir()
	write := func(name, body string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	const good = `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod"],"action":"SCMP_ACT_ERRNO"}]}`
	write("good.json", good, 0o644)
	write("writable.json", good, 0o666)
	write("foreign.json", good, 0o644)
	write("broken.json", `{"defaultAction":`, 0o644)
	write("empty.json", `{}`, 0o644)
	write("rulesonly.json", `{"syscalls":[{"names":["chmod"],"action":"SCMP_ACT_ERRNO"}]}`, 0o644)
	write("notify.json", `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod"],"action":"SCMP_ACT_NOTIFY"}]}`, 0o644)
	write("listener.json", `{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/run/x.sock","syscalls":[]}`, 0o644)
	write("big.json", `{"defaultAction":"SCMP_ACT_ALLOW","x":"`+strings.Repeat("a", maxProfile)+`"}`, 0o644)
	if err := os.Chown(filepath.Join(dir, "foreign.json"), 1000, 0); err != nil {
		t.Fatal(err)
	}
	os.Symlink("good.json", filepath.Join(dir, "link.json"))
	os.Mkdir(filepath.Join(dir, "dir.json"), 0o755)
	unix.Mkfifo(filepath.Join(dir, "fifo.json"), 0o644)

	os.Symlink(".", filepath.Join(dir, "linked"))
	write("dir.json/good.json", good, 0o644)

	for _, name := range []string{"good.json", "dir.json/good.json"} {
		p, err := Load(dir, name, nil)
		if err != nil || p.DefaultAction != specs.ActAllow || len(p.Syscalls) != 1 {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
	for _, name := range []string{"writable.json", "foreign.json", "broken.json", "empty.json", "rulesonly.json", "notify.json",
		"listener.json", "big.json", "link.json", "dir.json", "fifo.json", "missing.json", "", ".", "..", "../good.json",
		"/etc/passwd", ".good.json", "a/b", "linked/good.json", "dir.json/../good.json", "dir.json//good.json", "dir.json/", "/good.json", "good.json\x00", "-good"} {
		if p, err := Load(dir, name, nil); err == nil {
			t.Errorf("%q was loaded: %+v", name, p)
		}
	}
}
