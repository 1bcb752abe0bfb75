package launch_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/spec"
	"github.com/postern-cri/postern/profiles/capability"
	"github.com/postern-cri/postern/profiles/paths"
)

// binary is postern-launch, built for the tests.
var binary string

func TestMain(m *testing.M) {
	if os.Getuid() != 0 {
		fmt.Println("SKIP: containers need root")
		os.Exit(0)
	}
	// What the launch process leaves is ours to reap, as it is postern-init's.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		panic(err)
	}
	if binary = os.Getenv(binaryEnv); binary != "" {
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "postern-launch-")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "postern-launch")
	build := exec.Command("go", "build", "-trimpath", "-tags", "seccomp,netgo,osusergo,runc_nocriu", "-ldflags", `-s -w -extldflags "-static"`, "-o", binary, "../../cmd/postern-launch")
	build.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Printf("building postern-launch: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// machine is a state directory and a rootfs for the containers of one test.
type machine struct {
	t      *testing.T
	dir    string
	rootfs string
	exe    string // what is executed; binary where empty
	prefix string // of cgroups
	count  int
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{t: t, dir: t.TempDir(), prefix: fmt.Sprintf("/postern-test-%d", os.Getpid())}
	m.rootfs = filepath.Join(m.dir, "rootfs")
	for _, d := range []string{"bin", "etc", "tmp", "proc", "sys", "dev", "data"} {
		if err := os.MkdirAll(filepath.Join(m.rootfs, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skipf("needs busybox-static: %v", err)
	}
	m.write("bin/busybox", string(b), 0o755)
	list, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range strings.Fields(string(list)) {
		if n != "busybox" {
			os.Symlink("busybox", filepath.Join(m.rootfs, "bin", n))
		}
	}
	m.write("etc/passwd", "root:x:0:0::/root:/bin/sh\nu:x:1000:1000::/home/u:/bin/sh\n", 0o644)
	for _, d := range []string{filepath.Dir(m.dir), m.dir} {
		if err := os.Chmod(d, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for _, c := range cgroupDirs(m.prefix) {
			os.Remove(c)
		}
	})
	return m
}

func cgroupDirs(path string) []string {
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + path)
	return append(dirs, "/sys/fs/cgroup"+path)
}

func (m *machine) write(name, content string, mode os.FileMode) {
	m.t.Helper()
	if err := os.WriteFile(filepath.Join(m.rootfs, name), []byte(content), mode); err != nil {
		m.t.Fatal(err)
	}
}

// request is an ordinary container: the default capabilities, filter and paths.
func (m *machine) request(args ...string) *spec.Launch {
	m.count++
	id := fmt.Sprintf("c%d-%d", os.Getpid(), m.count)
	def := plan.Profile{Kind: plan.ProfileRuntimeDefault}
	return &spec.Launch{
		Op: spec.Create, Runtime: use, ID: id, StateDir: filepath.Join(m.dir, "state"), Rootfs: m.rootfs, Hostname: "box", CgroupPath: m.prefix + "/" + id,
		Plan: &plan.Plan{
			Args: args, Env: []string{"PATH=/bin:/usr/bin", "A=b"}, Cwd: "/", CapsBounding: capability.Default, Seccomp: def, AppArmor: def,
			NoNewPrivs: true, MaskedPaths: paths.Masked(), ReadOnlyPaths: paths.ReadOnly(), PID: plan.NamespaceContainer,
		},
	}
}

// do runs one operation with the given stdio.
func (m *machine) do(l *spec.Launch, stdio, extra []*os.File) spec.Result {
	m.t.Helper()
	b, err := json.Marshal(l)
	if err != nil {
		m.t.Fatal(err)
	}
	inR, inW, _ := os.Pipe()
	outR, outW, _ := os.Pipe()
	exe := m.exe
	if exe == "" {
		exe = binary
	}
	cmd := exec.Command(exe)
	cmd.Args = []string{"postern-launch"}
	cmd.Env = []string{}
	if len(stdio) == 3 {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = stdio[0], stdio[1], stdio[2]
	}
	cmd.ExtraFiles = append([]*os.File{inR, outW}, extra...)
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	inR.Close()
	outW.Close()
	go func() { inW.Write(b); inW.Close() }()
	answer, _ := io.ReadAll(outR)
	outR.Close()
	if err := cmd.Wait(); err != nil {
		m.t.Fatalf("postern-launch: %v (answer %q)", err, answer)
	}
	var r spec.Result
	if err := json.Unmarshal(answer, &r); err != nil {
		m.t.Fatalf("answer %q: %v", answer, err)
	}
	return r
}

// start opens the fifo that a created container waits on.
func (m *machine) start(l *spec.Launch) {
	m.t.Helper()
	if l.Runtime != nil {
		if r := m.do(&spec.Launch{Op: spec.Start, ID: l.ID, StateDir: l.StateDir}, nil, nil); r.Error != "" {
			m.t.Fatalf("start: %s", r.Error)
		}
		return
	}
	fifo := filepath.Join(l.StateDir, l.ID, "exec.fifo")
	f, err := os.Open(fifo)
	if err != nil {
		m.t.Fatal(err)
	}
	io.ReadAll(f)
	f.Close()
	os.Remove(fifo)
}

// create makes a container, removed when the test ends.
func (m *machine) create(l *spec.Launch, stdio []*os.File) spec.Result {
	m.t.Helper()
	m.t.Cleanup(func() { m.remove(l) })
	r := m.do(l, stdio, nil)
	if r.Error != "" {
		m.t.Fatalf("create: %s", r.Error)
	}
	return r
}

func (m *machine) remove(l *spec.Launch) spec.Result {
	m.t.Helper()
	r := m.do(&spec.Launch{Op: spec.Delete, ID: l.ID, StateDir: l.StateDir, CgroupPath: l.CgroupPath}, nil, nil)
	for _, c := range cgroupDirs(l.CgroupPath) {
		if _, err := os.Stat(c); err == nil {
			m.t.Errorf("cgroup %s is left", c)
		}
	}
	if _, err := os.Stat(filepath.Join(l.StateDir, l.ID)); err == nil {
		m.t.Error("state is left")
	}
	return r
}

// reap waits for a process that was reparented to us.
func (m *machine) reap(pid int) unix.WaitStatus {
	m.t.Helper()
	var ws unix.WaitStatus
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		n, err := unix.Wait4(pid, &ws, unix.WNOHANG, nil)
		if n == pid {
			return ws
		}
		if err != nil && err != unix.EINTR {
			m.t.Fatalf("wait for %d: %v", pid, err)
		}
	}
	m.t.Fatalf("%d does not end", pid)
	return ws
}

// run creates and starts a container, waits for its end and returns its output.
func (m *machine) run(l *spec.Launch) (string, unix.WaitStatus, spec.Result) {
	m.t.Helper()
	stdio, output := pipes(m.t)
	r := m.create(l, stdio)
	closeAll(stdio)
	m.start(l)
	ws := m.reap(r.PID)
	return output(), ws, r
}

// sh runs a shell line.
func (m *machine) sh(line string) *spec.Launch { return m.request("sh", "-c", line) }

// pipes makes stdio; output reads stdout and stderr to the end.
func pipes(t *testing.T) ([]*os.File, func() string) {
	t.Helper()
	in, inW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	inW.Close()
	out, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	w2, err := unix.FcntlInt(w.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	done := make(chan struct{})
	go func() { io.Copy(&b, out); out.Close(); close(done) }()
	return []*os.File{in, w, os.NewFile(uintptr(w2), "stderr")}, func() string {
		select {
		case <-done:
		case <-time.After(time.Minute):
			t.Fatal("output does not end")
		}
		return b.String()
	}
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// running creates and starts a container that stays.
func (m *machine) running(l *spec.Launch) int {
	m.t.Helper()
	r := m.create(l, nil)
	m.start(l)
	m.t.Cleanup(func() {
		unix.Kill(r.PID, unix.SIGKILL)
		// All that is ours by now, as postern-init does it: the first process of a
		// namespace stays until what an exec that failed left in it is reaped.
		var ws unix.WaitStatus
		for pid, err := 0, error(nil); pid != r.PID && (err == nil || err == unix.EINTR); {
			pid, err = unix.Wait4(-1, &ws, 0, nil)
		}
	})
	return r.PID
}

// exec runs a command in a running container.
func (m *machine) exec(l *spec.Launch, args ...string) (string, unix.WaitStatus, spec.Result) {
	m.t.Helper()
	stdio, output := pipes(m.t)
	r := m.do(&spec.Launch{Op: spec.Exec, ID: l.ID, StateDir: l.StateDir, Exec: &plan.ExecPlan{Args: args, Stdout: true, Stderr: true}}, stdio, nil)
	closeAll(stdio)
	var ws unix.WaitStatus
	if r.PID > 0 {
		ws = m.reap(r.PID)
	}
	return output(), ws, r
}

// kill ends a process that was reparented to us.
func (m *machine) kill(pid int) {
	unix.Kill(pid, unix.SIGKILL)
	var ws unix.WaitStatus
	unix.Wait4(pid, &ws, 0, nil)
}

// executed waits until the container's command runs in place of the launcher.
func (m *machine) executed(pid int) {
	m.t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); strings.HasSuffix(exe, "/busybox") {
			// The kernel sets the link first, and then what the new program is given.
			if env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)); len(env) > 0 {
				return
			}
		}
	}
	m.t.Fatalf("%d does not execute its command", pid)
}
