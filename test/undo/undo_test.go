// Package undo tries, as root and without any other confinement, what the LSM
// profiles of our own processes must refuse. The daemons' users, Landlock and
// seccomp would refuse it, too: here the profiles stand alone.
package undo

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/label"
	"github.com/postern-cri/postern/privsep/layout"
	"github.com/postern-cri/postern/profiles/apparmor"
	"github.com/postern-cri/postern/profiles/selinux"
)

// Both modules, or one of them.
const (
	appArmor = "apparmor"
	seLinux  = "selinux"
)

// try is one thing to try: what, on which path beneath the installation, and
// whether it works. only names the module that tells, "" is both.
type try struct {
	what, path string
	works      bool
	only       string
}

func yes(what, path string) try { return try{what, path, true, ""} }
func no(what, path string) try  { return try{what, path, false, ""} }

// everybody must be refused these.
var everybody = []try{no("write", "etc/ceiling.toml"), no("write", "/proc/sys/kernel/core_pattern"), no("raw", ""), no("module", "")}

// daemons are those without privilege, each with its own directories.
var daemons = map[string][]string{
	"posternd": {"lib/posternd/x"}, "postern-streamd": nil, "postern-logd": nil, "postern-policyd": {"lib/policyd/x"},
	"postern-imaged": {"lib/fetch/x", "lib/records/x", "lib/layers/x"}, "postern-auditd": {"lib/audit/x"},
}

var states = []string{"lib/posternd/x", "lib/policyd/x", "lib/fetch/x", "lib/records/x", "lib/layers/x", "lib/audit/x", "lib/box/x", "run/box/x"}

// others say what the profiles of those that are root hold.
var others = map[string][]try{
	"postern-init": {yes("write", "run/x"), no("read", "lib/audit/x"), no("write", "lib/records/x"), no("exec", "bin/true"), no("mount", "")},
	"postern-helper": {yes("read", "lib/records/x"), yes("write", "lib/box/x"), no("exec", "bin/true"), {"write", "etc/ceiling.toml", false, seLinux},
		{"write", "lib/records/x", false, seLinux}, {"write", "lib/audit/x", false, seLinux}, {"relabel", "system", false, seLinux}},
	"postern-launch": {{"exec", "bin/true", false, seLinux}, {"write", "etc/ceiling.toml", false, seLinux}, {"relabel", "system", false, seLinux},
		{"read", "lib/audit/x", false, seLinux}, {"write", "lib/box/x", true, seLinux}},
	"postern-cni": {yes("exec", "bin/true"), no("read", "lib/audit/x"), no("read", "lib/posternd/x"), no("write", "lib/records/x"), no("write", "etc/ceiling.toml"),
		no("module", "")},
	"postern-pause": {{"exec", "bin/true", false, appArmor}, {"read", "etc/ceiling.toml", false, appArmor}, {"write", "lib/box/x", false, appArmor}},
}

// tries are all of a program.
func tries(program string) []try {
	if list, ok := others[program]; ok {
		return list
	}
	list := append([]try{no("exec", "bin/true"), no("mount", ""), no("read", "shadow"), no("write", "run/init.json")}, everybody...)
	for _, s := range states {
		own, reads := false, program == "posternd" && (strings.HasPrefix(s, "lib/records") || strings.HasPrefix(s, "lib/layers"))
		for _, o := range daemons[program] {
			own = own || s == o
		}
		list = append(list, try{"write", s, own, ""}, try{"read", s, own || reads, ""})
	}
	return list
}

func TestMain(m *testing.M) {
	if os.Getenv("POSTERN_UNDO") != "" {
		probe(os.Stdin, os.Stdout)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// probe does what it is told and says how it went.
func probe(in io.Reader, out io.Writer) {
	for s := bufio.NewScanner(in); s.Scan(); {
		what, path, _ := strings.Cut(s.Text(), " ")
		err := attempt(what, path)
		switch {
		case err == nil:
			fmt.Fprintln(out, "ok")
		case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
			fmt.Fprintln(out, "refused")
		default:
			fmt.Fprintln(out, "failed:", err)
		}
	}
}

func attempt(what, path string) error {
	switch what {
	case "read", "write":
		flag := os.O_RDONLY
		if what == "write" {
			flag = os.O_WRONLY | os.O_APPEND
		}
		f, err := os.OpenFile(path, flag, 0)
		if err == nil {
			err = f.Close()
		}
		return err
	case "exec":
		return exec.Command(path).Run()
	case "mount":
		// Of a file system that does not exist: who may mount is told so.
		if err := unix.Mount("t", path, "tmpfs", 0, ""); err != nil {
			return err
		}
		return unix.Unmount(path, unix.MNT_DETACH)
	case "raw":
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		if err == nil {
			unix.Close(fd)
		}
		return err
	case "module":
		return unix.InitModule([]byte("\x7fELF"), "")
	case "relabel":
		return unix.Setxattr(path, "security.selinux", []byte("system_u:object_r:container_file_t:s0"), 0)
	}
	return fmt.Errorf("unknown attempt %q", what)
}

// installation makes a tree of files as postern up does, with programs that are
// this test.
func installation(t *testing.T) (root string, l layout.Layout) {
	t.Helper()
	root, err := os.MkdirTemp("/tmp", "postern-undo.")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	l = layout.New(root)
	for _, f := range append([]string{"etc/ceiling.toml", "run/init.json", "run/x", "system", "shadow", "mnt/x"}, states...) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, f)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, f), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(root+"/bin", 0o755); err != nil {
		t.Fatal(err)
	}
	for name := range all() {
		if err := os.WriteFile(root+"/bin/"+name, self, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skipf("needs busybox-static: %v", err)
	}
	if err := os.WriteFile(root+"/bin/true", busybox, 0o755); err != nil {
		t.Fatal(err)
	}
	return root, l
}

// all are the programs with their tries.
func all() map[string][]try {
	out := map[string][]try{}
	for name := range daemons {
		out[name] = tries(name)
	}
	for name := range others {
		out[name] = tries(name)
	}
	return out
}

// run has a program, which enter puts into its profile, try all that module tells
// of.
func run(t *testing.T, root, name, module string, enter func() error) {
	t.Helper()
	var in, out, errs bytes.Buffer
	var list []try
	for _, x := range all()[name] {
		if x.only != "" && x.only != module {
			continue
		}
		list = append(list, x)
		path := x.path
		if x.what == "mount" {
			path = "mnt"
		}
		if !strings.HasPrefix(path, "/") {
			path = filepath.Join(root, path)
		}
		fmt.Fprintln(&in, x.what, path)
	}
	cmd := exec.Command(filepath.Join(root, "bin", name))
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = []string{"POSTERN_UNDO=1", "GOCOVERDIR="}, &in, &out, &errs
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread keeps what enter made of it
		err := enter()
		if err == nil {
			err = cmd.Start()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Errorf("%s: starting it in its profile: %v", name, err)
		return
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%s: %v: %s", name, err, errs.String())
	}
	got := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(got) != len(list) {
		t.Errorf("%s: %d answers for %d questions: %q %s", name, len(got), len(list), out.String(), errs.String())
		return
	}
	for i, x := range list {
		want := "refused"
		if x.works {
			want = "ok"
		}
		if got[i] != want {
			t.Errorf("%s: %s %s: %s, want %s", name, x.what, x.path, got[i], want)
		}
	}
}

// onExec names the profile of what this thread executes next.
func onExec(to string) error {
	f, err := os.OpenFile("/proc/thread-self/attr/exec", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(to)
	return err
}

// TestAppArmor: what a process's AppArmor profile must refuse it refuses to root.
func TestAppArmor(t *testing.T) {
	if present, reachable := apparmor.Enabled("/sys"); !present || !reachable {
		t.Skip("needs AppArmor: make test-vm has it")
	}
	root, l := installation(t)
	i := apparmor.Installation{Root: root, Bin: root + "/bin", Etc: l.Etc, Run: l.Run, Lib: l.Lib, Log: l.Log, Plugins: []string{root + "/bin"}}
	text, err := i.Text()
	if err != nil {
		t.Fatal(err)
	}
	// The one that is executed from memory is a file here.
	text = bytes.ReplaceAll(text, []byte("  /memfd:** mr,\n"), []byte("  /memfd:** mr,\n  "+root+"/bin/postern-pause mr,\n"))
	for _, op := range []string{"--replace", "--remove"} {
		do := func() {
			cmd := exec.Command("apparmor_parser", op, "--skip-cache", "--quiet")
			cmd.Stdin = bytes.NewReader(text)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("apparmor_parser %s: %v: %s", op, err, out)
			}
		}
		if op == "--replace" {
			do()
		} else {
			t.Cleanup(do)
		}
	}
	for _, name := range apparmor.Programs() {
		if _, ok := all()[name]; !ok {
			t.Errorf("nobody has said what %s must not reach", name)
			continue
		}
		run(t, root, name, appArmor, func() error {
			return onExec("exec " + i.Name(name))
		})
	}
}

// TestSELinux: likewise for the domains of SELinux.
func TestSELinux(t *testing.T) {
	if !label.Enabled() {
		t.Skip("needs SELinux: LSM=selinux make test-vm has it")
	}
	root, l := installation(t)
	relabel := func(path, kind string) {
		if err := unix.Lsetxattr(path, "security.selinux", []byte("system_u:object_r:"+kind+":s0"), 0); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	for dir, kind := range selinux.Files(l) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		relabel(dir, kind)
		if files, err := os.ReadDir(dir); err == nil {
			for _, f := range files {
				if !f.IsDir() {
					relabel(filepath.Join(dir, f.Name()), kind)
				}
			}
		}
	}
	relabel(root+"/system", "etc_t")
	relabel(root+"/shadow", "shadow_t")
	relabel(root+"/bin/true", "bin_t")
	for name := range all() {
		if name == "postern-pause" {
			continue // executed from memory alone
		}
		relabel(filepath.Join(root, "bin", name), selinux.Program(name))
		run(t, root, name, seLinux, func() error {
			return onExec("system_u:system_r:" + selinux.Domain(name) + ":s0")
		})
	}
}
