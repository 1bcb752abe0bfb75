package launch_test

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/spec"
)

// TestHostileRootfs starts images that put links where the launcher mounts,
// makes nodes and masks (CVE-2019-19921, CVE-2025-31133, CVE-2025-52565). Each
// must be refused, or end with the real thing in its place; the host's files stay
// what they are.
func TestHostileRootfs(t *testing.T) {
	for name, links := range map[string]map[string]string{
		"proc":         {"proc": "/evil"},
		"proc above":   {"proc": "../../../../../../../.."},
		"sys":          {"sys": "evil"},
		"dev":          {"dev": "/evil"},
		"dev null":     {"dev/null": "/proc/sysrq-trigger"},
		"dev console":  {"dev/console": "/proc/sys/kernel/core_pattern"},
		"dev ptmx":     {"dev/ptmx": "/proc/sys/kernel/core_pattern"},
		"etc":          {"etc2": "../../../../../../../../../../etc"},
		"mount target": {"target": "../../../../../../../../../../tmp"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			canary := filepath.Join(m.dir, "canary")
			os.WriteFile(canary, []byte("canary"), 0o600)
			os.MkdirAll(filepath.Join(m.rootfs, "evil"), 0o755)
			for at, to := range links {
				at = filepath.Join(m.rootfs, at)
				os.RemoveAll(at)
				if err := os.Symlink(to, at); err != nil {
					t.Fatal(err)
				}
			}
			corePattern, _ := os.ReadFile("/proc/sys/kernel/core_pattern")
			l := m.sh(`stat -c '%t:%T' /dev/null; stat -fc %t /proc; stat -fc %t /sys; cat /proc/keys | wc -c; ls /target 2>/dev/null`)
			volume := filepath.Join(m.dir, "volume")
			os.MkdirAll(volume, 0o755)
			os.WriteFile(filepath.Join(volume, "inside"), nil, 0o644)
			l.Mounts = []spec.Mount{{Source: volume, To: "/target"}}
			before := names(t, "/tmp")
			stdio, output := pipes(t)
			t.Cleanup(func() { m.remove(l) })
			r := m.do(l, stdio, nil)
			closeAll(stdio)
			if r.Error == "" {
				m.start(l)
				m.reap(r.PID)
				out := output()
				// null is 1:3, proc 9fa0, sysfs 62656572, and a masked file reads as empty.
				if !strings.HasPrefix(out, "1:3\n9fa0\n62656572\n0\ninside\n") {
					t.Errorf("inside: %q", out)
				}
			} else {
				output()
				t.Logf("refused: %s", r.Error)
			}
			if after, _ := os.ReadFile("/proc/sys/kernel/core_pattern"); string(after) != string(corePattern) {
				t.Errorf("core_pattern became %q", after)
			}
			if b, _ := os.ReadFile(canary); string(b) != "canary" {
				t.Error("the canary is dead")
			}
			if after := names(t, "/tmp"); after != before {
				t.Errorf("the host's /tmp was %s and is %s", before, after)
			}
		})
	}
}

// names lists what of ours is in a directory of the host.
func names(t *testing.T, dir string) string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, "inside*"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(list, " ")
}

// TestWorkingDirectory tries to start in a directory of the host by a descriptor
// that the launcher may hold (CVE-2024-21626), by its name and by links to it.
func TestWorkingDirectory(t *testing.T) {
	m := newMachine(t)
	host, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	for _, cwd := range []string{"/proc/self/fd/7", "/proc/1/fd/8", "/dev/fd/9", "/proc", "relative", "/a/../b", "/proc/thread-self/cwd"} {
		l := m.sh("pwd")
		l.Plan.Cwd = cwd
		if r := m.do(l, nil, []*os.File{host}); !strings.Contains(r.Error, "working directory") {
			t.Errorf("%s: %+v", cwd, r)
		}
		m.remove(l)
	}
	for n := 3; n < 16; n++ {
		link := filepath.Join(m.rootfs, "link")
		os.Remove(link)
		os.Symlink("/proc/self/fd/"+itoa(n), link)
		l := m.sh("pwd -P; ls ..")
		l.Plan.Cwd = "/link"
		stdio, output := pipes(t)
		r := m.do(l, stdio, []*os.File{host, host, host})
		closeAll(stdio)
		if r.Error == "" {
			m.start(l)
			m.reap(r.PID)
			if out := output(); strings.Contains(out, "work") || strings.Contains(out, "lost+found") || strings.Contains(out, "(unreachable)") {
				t.Errorf("fd %d is a directory of the host: %q", n, out)
			}
		} else {
			output()
		}
		m.remove(l)
	}
	l := m.sh("pwd; touch here")
	l.Plan.Cwd = "/made/by/us"
	if out, _, _ := m.run(l); out != "/made/by/us\n" {
		t.Errorf("a missing directory: %q", out)
	}
}

func itoa(n int) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return itoa(n/10) + itoa(n%10)
}

// TestSelfExe runs the launcher itself by a link to /proc/self/exe and tries to
// write to it (CVE-2019-5736).
func TestSelfExe(t *testing.T) {
	m := newMachine(t)
	sum := func() [32]byte {
		b, err := os.ReadFile(binary)
		if err != nil {
			t.Fatal(err)
		}
		return sha256.Sum256(b)
	}
	before := sum()
	os.Symlink("/proc/self/exe", filepath.Join(m.rootfs, "bin/self"))
	m.write("bin/script", "#!/proc/self/exe\n", 0o755)
	for _, arg := range []string{"self", "script"} {
		l := m.request("/bin/" + arg)
		t.Cleanup(func() { m.remove(l) })
		if r := m.do(l, nil, nil); r.Error == "" {
			m.start(l)
			time.Sleep(20 * time.Millisecond)
			m.kill(r.PID)
		}
	}
	l := m.request("sleep", "60")
	m.running(l)
	for range 10 {
		m.exec(l, "sh", "-c", "for i in 1 2 3 4 5 6; do for p in /proc/[0-9]*; do (echo evil > $p/exe) 2>/dev/null; done; done")
	}
	if sum() != before {
		t.Error("the launcher was overwritten")
	}
}

// TestMissing says that a command is not there in the words users know.
func TestMissing(t *testing.T) {
	m := newMachine(t)
	words := map[string]string{
		"nonesuch":      `exec: "nonesuch": executable file not found in $PATH`,
		"/bin/nonesuch": `exec: "/bin/nonesuch": stat /bin/nonesuch: no such file or directory`,
	}
	for arg, want := range words {
		if use != nil && strings.HasSuffix(use.Path, "crun") {
			want = "executable file `" + arg + "` not found in $PATH"
			words[arg] = want
		}
		l := m.request(arg)
		if r := m.do(l, nil, nil); r.Field != "command" || r.Error != want || r.PID != 0 {
			t.Errorf("create %s: %+v", arg, r)
		}
		m.remove(l)
	}
	l := m.request("sleep", "60")
	m.running(l)
	if _, _, r := m.exec(l, "nonesuch"); r.Field != "command" || r.Error != words["nonesuch"] || r.Exited {
		t.Errorf("exec: %+v", r)
	}
}

// TestSignalled keeps exit status and signal apart.
func TestSignalled(t *testing.T) {
	m := newMachine(t)
	l := m.request("sleep", "60")
	pid := m.running(l)
	unix.Kill(pid, unix.SIGKILL)
	if ws := m.reap(pid); !ws.Signaled() || ws.Signal() != unix.SIGKILL {
		t.Errorf("status %v", ws)
	}
	if _, _, r := m.exec(l, "true"); !r.Exited {
		t.Errorf("exec in a dead container: %+v", r)
	}
	if r := m.do(&spec.Launch{Op: spec.Update, ID: l.ID, StateDir: l.StateDir, Resources: &plan.Resources{CPUShares: 3}}, nil, nil); !r.Exited {
		t.Errorf("update of a dead container: %+v", r)
	}
}

// TestSliceElsewhere: a slice's name says where systemd puts it, whatever the path
// before it is.
func TestSliceElsewhere(t *testing.T) {
	m := newMachine(t)
	for _, slice := range []string{"/kubepods.slice/system.slice", "/system-x.slice", "/a.slice/b.slice", "/a.slice/a-.slice", "/../a.slice"} {
		l := m.sh("true")
		l.CgroupPath = slice + "/postern-" + l.ID + ".scope"
		if r := m.do(l, nil, nil); !strings.Contains(r.Error, "cgroup path") {
			t.Errorf("%s: %+v", slice, r)
		}
	}
}
