package confine

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/layout"
)

// The main thread stays the main goroutine's: the runtime cannot end it, and
// /proc/self shows its rights.
func init() { runtime.LockOSThread() }

// The test binary executes itself, once for each role and forbidden call: what
// is promised is what a process that went through Enter reports of itself.
const (
	childRole = "POSTERN_CONFINE_ROLE"
	childDir  = "POSTERN_CONFINE_DIR"
	childCall = "POSTERN_CONFINE_CALL"
)

var testID = layout.ID{UID: 64777, GID: 64778}

func TestMain(m *testing.M) {
	if role := os.Getenv(childRole); role != "" {
		child(role, os.Getenv(childDir), os.Getenv(childCall))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// report is what a confined process says of itself.
type report struct {
	UID, EUID, GID  int
	Groups          []int
	Threads         []map[string]string // of /proc/self/task/*/status, read before and held open
	Dumpable        int
	FDs             []int
	Env             []string
	Umask           int
	NoFile, Core    uint64 // hard
	SoftCore        uint64
	Allowed, Denied string // results of opening files
}

func child(name, dir, call string) {
	var role Role
	for r, p := range profiles {
		if p.name == name {
			role = r
		}
	}
	// Threads that exist before the drop must be dropped too.
	var started, stop sync.WaitGroup
	stop.Add(1)
	for range 6 {
		started.Add(1)
		go func() { runtime.LockOSThread(); started.Done(); stop.Wait() }()
	}
	started.Wait()
	keep, _ := os.Open(os.DevNull) // fd 3
	if keep.Fd() != 3 {
		unix.Dup2(int(keep.Fd()), 3)
	}
	unix.Dup2(3, 100)
	opts := Options{KeepFDs: 1, Groups: []uint32{64779},
		Landlock: []Rule{{Path: filepath.Join(dir, "allowed"), Rights: All}, {Path: "/proc", Rights: Read},
			{Path: filepath.Join(dir, "absent"), Rights: Read, Optional: true}}}
	if call == "unfiltered" {
		opts.Unfiltered, call = true, ""
	}
	if call == "undo" { // a drop that did not happen
		undo(profiles[role], testID)
		return
	}
	if err := Enter(role, testID, opts); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	if call != "" {
		forbidden(call)
		return
	}
	r := report{UID: os.Getuid(), EUID: os.Geteuid(), GID: os.Getgid(), Env: os.Environ(), Umask: unix.Umask(0o077)}
	r.Groups, _ = os.Getgroups()
	r.Dumpable, _ = unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	for fd := range 256 {
		if fd != 0 && fd != 1 && fd != 2 {
			if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
				r.FDs = append(r.FDs, fd)
			}
		}
	}
	var l unix.Rlimit
	unix.Getrlimit(unix.RLIMIT_NOFILE, &l)
	r.NoFile = l.Max
	unix.Getrlimit(unix.RLIMIT_CORE, &l)
	r.SoftCore, r.Core = l.Cur, l.Max
	r.Allowed = result(os.WriteFile(filepath.Join(dir, "allowed", "new"), nil, 0o600))
	_, err := os.ReadFile(filepath.Join(dir, "other", "file"))
	r.Denied = result(err)
	tasks, _ := filepath.Glob("/proc/self/task/*/status")
	for _, t := range tasks {
		b, _ := os.ReadFile(t)
		m := map[string]string{}
		for _, line := range strings.Split(string(b), "\n") {
			if k, v, ok := strings.Cut(line, ":"); ok {
				m[k] = strings.Join(strings.Fields(v), " ")
			}
		}
		r.Threads = append(r.Threads, m)
	}
	json.NewEncoder(os.Stdout).Encode(r)
}

func result(err error) string {
	var errno syscall.Errno
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &errno):
		return unix.ErrnoName(errno)
	}
	return err.Error()
}

// calls that a child makes, by name: the same call with right and with wrong
// arguments where the filter looks at arguments.
var trials = map[string]func() error{
	"mount":          func() error { return unix.Mount("a", "/", "b", 0, "") },
	"ptrace":         func() error { return raw(unix.SYS_PTRACE, 0, 0, 0) },
	"bpf":            func() error { return raw(unix.SYS_BPF, 0, 0, 0) },
	"setns":          func() error { return raw(unix.SYS_SETNS, 0, 0, 0) },
	"unshare":        func() error { return raw(unix.SYS_UNSHARE, unix.CLONE_NEWUSER, 0, 0) },
	"keyctl":         func() error { return raw(unix.SYS_KEYCTL, 0, 0, 0) },
	"execve":         func() error { return raw(unix.SYS_EXECVE, 0, 0, 0) },
	"io_uring_setup": func() error { return raw(unix.SYS_IO_URING_SETUP, 1, 0, 0) },
	"finit_module":   func() error { return raw(unix.SYS_FINIT_MODULE, 0, 0, 0) },
	"kexec_load":     func() error { return raw(unix.SYS_KEXEC_LOAD, 0, 0, 0) },
	"ioctl-tiocsti":  func() error { return raw(unix.SYS_IOCTL, 0, unix.TIOCSTI, 0) },
	"ioctl-other":    func() error { return raw(unix.SYS_IOCTL, 0, unix.TCGETS, 0) },
	"clone-thread":   func() error { go runtime.LockOSThread(); return nil },
	"clone-fork":     func() error { return raw(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0) },
	"clone-newuser":  func() error { return raw(unix.SYS_CLONE, unix.CLONE_NEWUSER|unix.CLONE_THREAD, 0, 0) },
	"clone3":         func() error { return raw(unix.SYS_CLONE3, 0, 0, 0) },
	"unknown":        func() error { return raw(900, 0, 0, 0) },
	"setuid":         func() error { return raw(unix.SYS_SETUID, 0, 0, 0) },
	"mmap-exec": func() error {
		_, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_ANON|unix.MAP_PRIVATE)
		return err
	},
	"mmap": func() error {
		_, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ, unix.MAP_ANON|unix.MAP_PRIVATE)
		return err
	},
	"socket-unix":   func() error { return socket(unix.AF_UNIX, unix.SOCK_STREAM) },
	"socket-inet":   func() error { return socket(unix.AF_INET, unix.SOCK_STREAM) },
	"socket-packet": func() error { return socket(unix.AF_PACKET, unix.SOCK_RAW) },
	"socket-vsock":  func() error { return socket(unix.AF_VSOCK, unix.SOCK_STREAM) },
	"tcp-listen": func() error {
		l, err := net4Listen()
		if err == nil {
			unix.Close(l)
		}
		return err
	},
	"listen": func() error { return unix.Listen(0, 1) },
	"open":   func() error { return open("/", unix.O_PATH) },
}

func socket(family, kind int) error {
	fd, err := unix.Socket(family, kind, 0)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

func net4Listen() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return fd, err
	}
	return fd, unix.Listen(fd, 1)
}

func forbidden(call string) { fmt.Print(result(trials[call]())) }

// needRoot is where a test needs a right that a developer may not have.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: the test binary drops its rights")
	}
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_GETUID, 0, 0, 0); errno != 0 {
		t.Skip("needs a test binary without cgo (and so without -race)")
	}
}

// run executes the test binary as role.
func run(t *testing.T, role Role, call string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	for d := dir; d != "/" && d != os.TempDir(); d = filepath.Dir(d) {
		os.Chmod(d, 0o755)
	}
	for _, sub := range []string{"allowed", "other"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
		os.Chmod(filepath.Join(dir, sub), 0o777)
	}
	os.WriteFile(filepath.Join(dir, "other", "file"), nil, 0o644)
	// The binary is in a directory that the dropped user cannot enter: executed as root.
	cmd := exec.Command("/proc/self/exe", "-test.run=^$")
	cmd.Env = []string{childRole + "=" + role.String(), childDir + "=" + dir, childCall + "=" + call, "SECRET=1"}
	var errOut strings.Builder
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, errOut.String())
	}
	return string(out), err
}

var unprivileged = []Role{Front, Stream, Log, Policy, Audit, Fetch, Verify, Convert}

// TestRoles: every thread of every unprivileged role has no root, no capability,
// no way back.
func TestRoles(t *testing.T) {
	needRoot(t)
	for _, role := range unprivileged {
		t.Run(role.String(), func(t *testing.T) {
			out, err := run(t, role, "")
			p := profiles[role]
			if role == Convert || role == Stream {
				// These roles open no file at all, and so cannot report.
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var r report
			if err := json.Unmarshal([]byte(out), &r); err != nil {
				t.Fatalf("%v: %q", err, out)
			}
			if r.UID != int(testID.UID) || r.EUID != r.UID || r.GID != int(testID.GID) || fmt.Sprint(r.Groups) != "[64779]" {
				t.Errorf("ids %d %d %d %v", r.UID, r.EUID, r.GID, r.Groups)
			}
			if r.Dumpable != 0 || len(r.Env) != 0 || r.Umask != 0o077 || r.Core != 0 || r.NoFile > p.nofile {
				t.Errorf("dumpable %d, env %v, umask %o, core %d, nofile %d", r.Dumpable, r.Env, r.Umask, r.Core, r.NoFile)
			}
			for _, fd := range r.FDs {
				if fd == 100 {
					t.Error("a stray fd is open")
				}
			}
			if r.Allowed != "ok" || (r.Denied != "EACCES" && LandlockABI() > 0) {
				t.Errorf("opening files: allowed %s, other %s", r.Allowed, r.Denied)
			}
			if len(r.Threads) < 7 {
				t.Errorf("only %d threads", len(r.Threads))
			}
			for _, th := range r.Threads {
				id := fmt.Sprint(testID.UID)
				want := map[string]string{"Uid": strings.Repeat(id+" ", 3) + id, "NoNewPrivs": "1", "Seccomp": "2",
					"CapInh": zero, "CapPrm": zero, "CapEff": zero, "CapBnd": zero, "CapAmb": zero}
				for k, v := range want {
					if th[k] != v {
						t.Errorf("thread %s: %s is %q, not %q", th["Pid"], k, th[k], v)
					}
				}
			}
		})
	}
}

const zero = "0000000000000000"

// TestFilters makes calls with right and wrong arguments.
func TestFilters(t *testing.T) {
	needRoot(t)
	refusal := "EACCES" // of bind, by Landlock
	if LandlockABI() < 4 {
		refusal = "EPERM" // of listen, by the filter
	}
	for _, tt := range []struct {
		role Role
		call string
		want string // result, or "SIGSYS"
	}{
		{Front, "mount", "SIGSYS"}, {Front, "ptrace", "SIGSYS"}, {Front, "bpf", "SIGSYS"}, {Front, "setns", "SIGSYS"},
		{Front, "unshare", "SIGSYS"}, {Front, "keyctl", "SIGSYS"}, {Front, "execve", "SIGSYS"},
		{Front, "io_uring_setup", "SIGSYS"}, {Front, "finit_module", "SIGSYS"}, {Front, "kexec_load", "SIGSYS"},
		{Front, "ioctl-tiocsti", "SIGSYS"}, {Front, "ioctl-other", "ENOTTY"},
		{Front, "clone-thread", "ok"}, {Front, "clone-fork", "EPERM"}, {Front, "clone-newuser", "EPERM"},
		{Front, "clone3", "ENOSYS"}, {Front, "unknown", "ENOSYS"}, {Front, "setuid", "EPERM"},
		{Front, "mmap", "ok"}, {Front, "mmap-exec", "EPERM"},
		{Front, "socket-unix", "ok"}, {Front, "socket-inet", "ok"}, {Front, "socket-packet", "EPERM"},
		{Front, "tcp-listen", refusal}, {Fetch, "tcp-listen", refusal}, {Front, "listen", "EPERM"}, {Log, "listen", "EPERM"},
		{Policy, "socket-inet", "EPERM"}, {Policy, "socket-vsock", "EPERM"}, {Policy, "socket-unix", "ok"},
		{Audit, "socket-inet", "EPERM"}, {Verify, "socket-inet", "EPERM"}, {Stream, "socket-inet", "EPERM"},
		{Log, "socket-inet", "EPERM"}, {Log, "execve", "SIGSYS"},
		{Fetch, "execve", "EPERM"}, {Verify, "execve", "EPERM"},
		{Convert, "socket-unix", "EPERM"}, {Convert, "open", "EPERM"}, {Stream, "open", "EPERM"},
		{Helper, "finit_module", "EPERM"}, {Helper, "kexec_load", "EPERM"}, {Helper, "setuid", "ok"},
		{Helper, "unknown", "ENOSYS"}, {CNI, "finit_module", "EPERM"},
	} {
		t.Run(tt.role.String()+"/"+tt.call, func(t *testing.T) {
			out, err := run(t, tt.role, tt.call)
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				if ws := exit.Sys().(syscall.WaitStatus); ws.Signaled() && ws.Signal() == unix.SIGSYS {
					out, err = "SIGSYS", nil
				}
			}
			if err != nil || out != tt.want {
				t.Errorf("got %q (%v), want %q", out, err, tt.want)
			}
		})
	}
}

// TestUnfiltered: the helper may leave its filter out, with all else in force,
// and nobody else may.
func TestUnfiltered(t *testing.T) {
	needRoot(t)
	for role := range profiles {
		out, err := run(t, role, "unfiltered")
		if role != Helper {
			if err == nil {
				t.Errorf("%s runs without its filter", role)
			}
			continue
		}
		var r report
		if err := errors.Join(err, json.Unmarshal([]byte(out), &r)); err != nil {
			t.Fatal(err)
		}
		for _, th := range r.Threads {
			var bnd uint64
			fmt.Sscanf(th["CapBnd"], "%x", &bnd)
			if mode := fmt.Sprint(seccompMode()); th["Seccomp"] != mode || bnd&^profiles[Helper].keepCaps != 0 {
				t.Errorf("seccomp %s, want %s as here; bounding set %#x", th["Seccomp"], mode, bnd)
			}
		}
	}
}

// TestHelperBounds: the helper keeps root, without what nothing needs, and what
// it starts inherits that.
func TestHelperBounds(t *testing.T) {
	needRoot(t)
	for _, role := range []Role{Helper, CNI} {
		out, err := run(t, role, "")
		if err != nil {
			t.Fatal(err)
		}
		var r report
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			t.Fatal(err)
		}
		var files, core unix.Rlimit
		unix.Getrlimit(unix.RLIMIT_NOFILE, &files)
		unix.Getrlimit(unix.RLIMIT_CORE, &core)
		if role == Helper && (r.NoFile != files.Max || r.Core != core.Max) {
			t.Errorf("hard limits %d files, %d core, was started with %d and %d", r.NoFile, r.Core, files.Max, core.Max)
		}
		if r.SoftCore != 0 || role == CNI && (r.Core != 0 || r.NoFile > profiles[CNI].nofile) {
			t.Errorf("%s: %d files, core %d of %d", role, r.NoFile, r.SoftCore, r.Core)
		}
		for _, th := range r.Threads {
			var bnd, prm uint64
			fmt.Sscanf(th["CapBnd"], "%x", &bnd)
			fmt.Sscanf(th["CapPrm"], "%x", &prm)
			if left := (bnd | prm) &^ profiles[role].keepCaps; left != 0 {
				t.Errorf("%s has %#x", role, left)
			}
			if th["Seccomp"] != "2" || (role == Helper && th["NoNewPrivs"] != "0") || (role == CNI && th["NoNewPrivs"] != "1") {
				t.Errorf("%s: seccomp %s, no_new_privs %s", role, th["Seccomp"], th["NoNewPrivs"])
			}
		}
	}
}

// TestThread: what a thread starts has what the thread kept, and nobody else has
// lost anything.
func TestThread(t *testing.T) {
	needRoot(t)
	bounding := func(status []byte) (b uint64) {
		_, after, _ := strings.Cut(string(status), "CapBnd:")
		if _, err := fmt.Sscanf(after, "%x", &b); err != nil {
			t.Errorf("no bounding set in %q: %v", status, err)
		}
		return b
	}
	mine, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	type answer struct {
		out []byte
		err error
	}
	done := make(chan answer)
	go func() {
		runtime.LockOSThread() // and never unlocked
		err := Thread(CNI)
		var out []byte
		if err == nil {
			out, err = exec.Command("cat", "/proc/self/status").Output()
		}
		done <- answer{out, err}
	}()
	a := <-done
	if a.err != nil {
		t.Fatal(a.err)
	}
	before := bounding(mine)
	if got, want := bounding(a.out), before&cniCaps; got != want {
		t.Errorf("a program that the thread started has the bounding set %#x, want %#x", got, want)
	}
	now, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	if got := bounding(now); got != before {
		t.Errorf("the process has the bounding set %#x, had %#x", got, before)
	}
}

// TestUndo: a drop that did not happen ends the process.
func TestUndo(t *testing.T) {
	needRoot(t)
	for _, role := range append(unprivileged, Helper, CNI) {
		_, err := run(t, role, "undo")
		if role == Helper || role == CNI { // their capabilities are there still: nothing was regained
			if err != nil {
				t.Errorf("%s: %v", role, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), "refusing to run") {
			t.Errorf("%s: a process that stayed root went on: %v", role, err)
		}
	}
}

func TestRefusals(t *testing.T) {
	needRoot(t)
	if err := Enter(Role(99), testID, Options{}); err == nil {
		t.Error("an unknown role was entered")
	}
	if err := Enter(Front, layout.ID{}, Options{}); err == nil {
		t.Error("the front end was entered as root")
	}
}

// TestFilterSize: every jump of the hand-assembled programs stays inside.
func TestFilterSize(t *testing.T) {
	for r := range profiles {
		code := Filter(r)
		for i, in := range code {
			if in.Code&0x07 == unix.BPF_JMP && (i+1+int(in.Jt) >= len(code) || i+1+int(in.Jf) >= len(code)) {
				t.Errorf("%s: instruction %d jumps out", r, i)
			}
		}
		if code[len(code)-1].Code != unix.BPF_RET|unix.BPF_K {
			t.Errorf("%s: does not end in a return", r)
		}
	}
}
