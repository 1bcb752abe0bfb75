package launch_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/spec"
)

func TestExec(t *testing.T) {
	m := newMachine(t)
	os.Chmod(filepath.Join(m.rootfs, "data"), 0o777)
	l := m.request("sleep", "60")
	l.Plan.User = plan.User{UID: 1000, GID: 1001, Groups: []uint32{77}}
	l.Plan.Cwd = "/data"
	l.Plan.Env = []string{"FOO=bar"} // no PATH
	m.running(l)
	out, ws, r := m.exec(l, "sh", "-c", "cat /proc/self/status; echo foo: $FOO; echo cwd: $(pwd); id; echo fds: $(ls /proc/self/fd | grep -v '^3$'); grep pids: /proc/self/cgroup; exit 3")
	if r.Error != "" || ws.ExitStatus() != 3 {
		t.Fatalf("%+v, status %v", r, ws)
	}
	for k, v := range map[string]string{"CapInh": "0000000000000000", "CapEff": "0000000000000000", "CapAmb": "0000000000000000", "NoNewPrivs": "1",
		"Seccomp": "2", "foo": "bar", "cwd": "/data", "Groups": "77", "Uid": "1000 1000 1000 1000", "fds": "0 1 2"} {
		if got := field(out, k); got != v {
			t.Errorf("%s is %q, want %q", k, got, v)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
	// A created container that was not started can be executed in as well.
	l = m.request("sleep", "60")
	c := m.create(l, nil)
	t.Cleanup(func() { m.kill(c.PID) })
	if out, ws, r := m.exec(l, "echo", "hello"); out != "hello\n" || ws.ExitStatus() != 0 {
		t.Errorf("exec in a created container: %q, %v, %+v", out, ws, r)
	}
	if _, _, r := m.exec(&spec.Launch{ID: "none", StateDir: l.StateDir}, "true"); !r.Exited || r.Error == "" {
		t.Errorf("exec in no container: %+v", r)
	}
}

// TestTerminal gets the master of a terminal by the console socket.
func TestTerminal(t *testing.T) {
	m := newMachine(t)
	console := func(do func(ours *os.File) spec.Result) (*os.File, spec.Result) {
		t.Helper()
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		theirs := os.NewFile(uintptr(pair[1]), "console")
		r := do(theirs)
		theirs.Close()
		if r.Error != "" {
			t.Fatal(r.Error)
		}
		name, oob := make([]byte, 256), make([]byte, 64)
		_, n, _, _, err := unix.Recvmsg(pair[0], name, oob, unix.MSG_CMSG_CLOEXEC)
		unix.Close(pair[0])
		if err != nil {
			t.Fatal(err)
		}
		msgs, err := unix.ParseSocketControlMessage(oob[:n])
		if err != nil || len(msgs) != 1 {
			t.Fatalf("control messages %v, %v", msgs, err)
		}
		fds, err := unix.ParseUnixRights(&msgs[0])
		if err != nil || len(fds) != 1 {
			t.Fatalf("fds %v, %v", fds, err)
		}
		return os.NewFile(uintptr(fds[0]), "master"), r
	}
	read := func(f *os.File, until string) string {
		var all []byte
		b := make([]byte, 4096)
		for {
			n, err := f.Read(b)
			all = append(all, b[:n]...)
			if err != nil || strings.Contains(string(all), until) {
				return string(all)
			}
		}
	}
	l := m.sh("tty; stat -c %F:%t /dev/console; sleep 60")
	l.Plan.TTY = true
	t.Cleanup(func() { m.remove(l) })
	master, r := console(func(c *os.File) spec.Result { return m.do(l, nil, []*os.File{c}) })
	m.start(l)
	m.executed(r.PID)
	em, er := console(func(c *os.File) spec.Result {
		return m.do(&spec.Launch{Op: spec.Exec, ID: l.ID, StateDir: l.StateDir,
			Exec: &plan.ExecPlan{TTY: true, Args: []string{"sh", "-c", "tty; echo term $TERM; exit 4"}}}, nil, []*os.File{c})
	})
	if out := read(em, "term xterm"); !strings.Contains(out, "/dev/pts/") || !strings.Contains(out, "term xterm") {
		t.Errorf("exec: %q", out)
	}
	if ws := m.reap(er.PID); ws.ExitStatus() != 4 {
		t.Errorf("exec: status %v", ws)
	}
	const device = "character special file:88"
	if out := read(master, device); !strings.Contains(out, "/dev/pts/0") || !strings.Contains(out, device) {
		t.Errorf("container: %q", out)
	}
	m.kill(r.PID)
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// TestResources reads limits from the cgroup, after create and after updates.
func TestResources(t *testing.T) {
	if _, err := os.Stat("/sys/fs/cgroup/pids"); err != nil {
		t.Skip("needs cgroup v1")
	}
	m := newMachine(t)
	l := m.request("sleep", "60")
	l.PIDsLimit = 100 // the plan asks for less
	l.Plan.Resources = plan.Resources{CPUShares: 512, CPUQuota: 50000, CPUPeriod: 100000, Memory: 64 << 20, MemorySwap: 64 << 20, CPUSetCPUs: "0", PIDs: 50,
		Hugepages: []plan.HugepageLimit{{PageSize: "2MB"}}}
	m.running(l)
	check := func(want map[string]string) {
		t.Helper()
		for file, v := range want {
			dir, name, _ := strings.Cut(file, "/")
			if got := read(t, filepath.Join("/sys/fs/cgroup", dir, l.CgroupPath, name)); got != v {
				t.Errorf("%s is %s, want %s", file, got, v)
			}
		}
	}
	check(map[string]string{"cpu/cpu.shares": "512", "cpu/cpu.cfs_quota_us": "50000", "memory/memory.limit_in_bytes": "67108864",
		"memory/memory.memsw.limit_in_bytes": "67108864", "pids/pids.max": "50", "cpuset/cpuset.cpus": "0"})
	if list := read(t, filepath.Join("/sys/fs/cgroup/devices", l.CgroupPath, "devices.list")); strings.Contains(list, "a *:*") || strings.Contains(list, "c *:*") {
		t.Errorf("devices %q", list)
	}
	update := func(p plan.Resources) spec.Result {
		return m.do(&spec.Launch{Op: spec.Update, ID: l.ID, StateDir: l.StateDir, Resources: &p}, nil, nil)
	}
	if r := update(plan.Resources{CPUShares: 256, Memory: 128 << 20, MemorySwap: 128 << 20}); r.Error != "" {
		t.Fatal(r.Error)
	}
	check(map[string]string{"cpu/cpu.shares": "256", "cpu/cpu.cfs_quota_us": "50000", "memory/memory.limit_in_bytes": "134217728", "pids/pids.max": "50"})
	if r := update(plan.Resources{CPUQuota: -1, PIDs: 7, CPUSetCPUs: "0-1"}); r.Error != "" {
		t.Fatal(r.Error)
	}
	check(map[string]string{"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.shares": "256", "pids/pids.max": "7", "cpuset/cpuset.cpus": "0-1",
		"memory/memory.limit_in_bytes": "134217728"})
	if r := update(plan.Resources{Unified: []plan.Unified{{Key: "memory.high", Value: "1"}}}); !strings.Contains(r.Error, `unified "memory.high"`) {
		t.Errorf("unified on cgroup v1: %+v", r)
	}
	if r := update(plan.Resources{CPUSetCPUs: "4096"}); r.Error == "" {
		t.Error("an impossible cpuset was taken")
	}
	check(map[string]string{"cpuset/cpuset.cpus": "0-1", "cpu/cpu.shares": "256"})
	if out, _, r := m.exec(l, "true"); r.Error != "" {
		t.Errorf("exec after updates: %s %+v", out, r)
	}
}

// TestInheritedLimits: a container and what is executed in it get our hard
// limits of open files and core dumps, whatever our soft ones are.
func TestInheritedLimits(t *testing.T) {
	m := newMachine(t)
	hard := map[int]uint64{}
	for _, which := range []int{unix.RLIMIT_NOFILE, unix.RLIMIT_CORE} {
		var was unix.Rlimit
		if err := unix.Getrlimit(which, &was); err != nil {
			t.Fatal(err)
		}
		hard[which] = was.Max
		if err := unix.Setrlimit(which, &unix.Rlimit{Cur: min(was.Max, 256), Max: was.Max}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Setrlimit(which, &was) })
	}
	const script = `grep -E '^Max (open files|core file size)' /proc/self/limits`
	check := func(where, out string) {
		for name, which := range map[string]int{"Max open files": unix.RLIMIT_NOFILE, "Max core file size": unix.RLIMIT_CORE} {
			want := fmt.Sprint(hard[which])
			if hard[which] == unix.RLIM_INFINITY {
				want = "unlimited"
			}
			_, rest, _ := strings.Cut(out, name)
			if f := strings.Fields(rest); len(f) < 2 || f[0] != want || f[1] != want {
				t.Errorf("%s: %s %v, want %s", where, name, f, want)
			}
		}
	}
	l := m.sh("exec sleep 60")
	m.executed(m.running(l))
	out, _, _ := m.exec(l, "sh", "-c", script)
	check("exec", out)
	out, _, _ = m.run(m.sh(script))
	check("container", out)
}

// TestLowered asks for what a machine without SYS_RESOURCE does not permit.
func TestLowered(t *testing.T) {
	m := newMachine(t)
	l := m.sh("ulimit -n; ulimit -Hn; ulimit -c; cat /proc/self/oom_score_adj")
	l.Plan.Resources.OOMScoreAdj = -998
	l.Plan.Rlimits = []plan.Rlimit{{Name: "nofile", Soft: 100, Hard: 1 << 30}, {Name: "core", Soft: 0, Hard: 0}}
	out, _, r := m.run(l)
	lines := strings.Fields(out)
	if len(lines) != 4 || lines[0] != "100" || lines[2] != "0" {
		t.Fatalf("%q", out)
	}
	notes := strings.Join(r.Notes, "\n")
	if (lines[1] != fmt.Sprint(1<<30)) != strings.Contains(notes, "rlimit nofile") || (lines[3] != "-998") != strings.Contains(notes, "oom_score_adj") {
		t.Errorf("limits %v with notes %q", lines, notes)
	}
	l = m.sh("true")
	l.Plan.Rlimits = []plan.Rlimit{{Name: "nonesuch"}}
	if r := m.do(l, nil, nil); !strings.Contains(r.Error, "nonesuch") {
		t.Errorf("unknown limit: %+v", r)
	}
}

// TestProfiles holds that there is no container without the profile it asked for.
func TestProfiles(t *testing.T) {
	m := newMachine(t)
	dir := filepath.Join(m.dir, "profiles")
	os.Mkdir(dir, 0o755)
	os.WriteFile(filepath.Join(dir, "nochmod.json"), []byte(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod","fchmodat","fchmodat2"],"action":"SCMP_ACT_ERRNO"}]}`), 0o644)
	os.WriteFile(filepath.Join(dir, "empty.json"), []byte(`{}`), 0o644)
	os.WriteFile(filepath.Join(dir, "action.json"), []byte(`{"defaultAction":"SCMP_ACT_MAYBE","syscalls":[]}`), 0o644)
	l := m.sh("touch /tmp/f; chmod 600 /tmp/f || echo refused")
	l.Seccomp, l.Plan.Seccomp = dir, plan.Profile{Kind: plan.ProfileLocalhost, Name: "nochmod.json"}
	if out, _, _ := m.run(l); !strings.Contains(out, "refused") {
		t.Errorf("the profile is not in force: %q", out)
	}
	for _, name := range []string{"missing.json", "empty.json", "action.json", "../profiles/nochmod.json", ""} {
		l := m.sh("true")
		l.Seccomp, l.Plan.Seccomp = dir, plan.Profile{Kind: plan.ProfileLocalhost, Name: name}
		if r := m.do(l, nil, nil); r.Error == "" || r.Field != "seccomp" && !strings.Contains(r.Error, "seccomp") {
			t.Errorf("%q: %+v", name, r)
		}
		m.remove(l)
	}
	l = m.sh("true")
	l.Plan.Seccomp.Kind = 0
	if r := m.do(l, nil, nil); r.Error == "" {
		t.Error("a container without a word on seccomp was made")
	}
	if _, err := os.Stat("/sys/kernel/security/apparmor"); err != nil {
		l = m.sh("true")
		l.Plan.AppArmor = plan.Profile{Kind: plan.ProfileLocalhost, Name: "x"}
		if r := m.do(l, nil, nil); !strings.Contains(r.Error, "no AppArmor") {
			t.Errorf("AppArmor profile on a machine without: %+v", r)
		}
	}
}

// TestDelete removes what is there, however little, and as often as asked.
func TestDelete(t *testing.T) {
	m := newMachine(t)
	l := m.sh("for i in 1 2 3 4 5; do (sleep 100 & sleep 100) & done; sleep 100")
	l.Namespaces.HostPID = true
	r := m.create(l, nil)
	m.start(l)
	m.executed(r.PID)
	for range 3 {
		if r := m.remove(l); r.Error != "" {
			t.Fatal(r.Error)
		}
	}
	if ws := m.reap(r.PID); !ws.Signaled() {
		t.Errorf("status %v", ws)
	}
	// A half-made one: state that cannot be read, and a cgroup with a process.
	l = m.request("sleep", "60")
	r = m.create(l, nil)
	state := filepath.Join(l.StateDir, l.ID, "state.json")
	os.WriteFile(state, []byte("{"), 0o600)
	if d := m.remove(l); d.Error != "" {
		t.Fatal(d.Error)
	}
	m.reap(r.PID)
	if d := m.do(&spec.Launch{Op: spec.Delete, ID: "../x", StateDir: l.StateDir}, nil, nil); d.Error == "" {
		t.Error("a name out of the state directory was taken")
	}
	// A failed create leaves nothing: remove complains otherwise.
	l = m.request("sleep", "60")
	l.Plan.MaskedPaths = []string{"/proc/\x00"}
	if r := m.do(l, nil, nil); r.Error == "" {
		t.Error("a NUL in a path was taken")
		m.kill(r.PID)
	}
	if _, err := os.Stat(filepath.Join(l.StateDir, l.ID)); err == nil {
		t.Error("a failed create left its state")
	}
	for _, c := range cgroupDirs(l.CgroupPath) {
		if _, err := os.Stat(c); err == nil {
			t.Errorf("a failed create left %s", c)
		}
	}
	m.remove(l)
}
