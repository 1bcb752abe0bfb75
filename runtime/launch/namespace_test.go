package launch_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-cri/postern/privsep/netns"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/spec"
)

// TestUserNamespace runs as root inside who is nobody outside.
func TestUserNamespace(t *testing.T) {
	m := newMachine(t)
	const base = 200000
	filepath.WalkDir(m.rootfs, func(p string, _ fs.DirEntry, _ error) error { return os.Lchown(p, base, base) })
	for p := m.dir; p != "/"; p = filepath.Dir(p) {
		if info, err := os.Stat(p); err == nil && info.Mode()&0o001 == 0 {
			t.Skipf("%s cannot be entered by a mapped user", p)
		}
	}
	l := m.sh("cat /proc/self/uid_map; id -u; cat /proc/self/status; touch /made; ls -ln /dev/null; grep -c . /proc/self/mountinfo; touch /done; sleep 60")
	l.Namespaces.NewUser = true
	l.UIDs = []plan.IDMap{{Host: base, Container: 0, Length: 65536}}
	l.GIDs = l.UIDs
	stdio, output := pipes(t)
	r := m.create(l, stdio)
	closeAll(stdio)
	m.start(l)
	m.executed(r.PID)
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.PID))
	if got := field(string(status), "Uid"); !strings.HasPrefix(got, "200000 ") {
		t.Errorf("outside the uid is %s", got)
	}
	if out, ws, e := m.exec(l, "sh", "-c", "while [ ! -e /done ]; do sleep 0.1; done; id -u"); out != "0\n" || ws.ExitStatus() != 0 {
		t.Errorf("exec: %q %v %+v", out, ws, e)
	}
	m.kill(r.PID)
	out := output()
	if !strings.Contains(out, "200000") || field(out, "Seccomp") != "2" || field(out, "CapInh") != "0000000000000000" {
		t.Errorf("inside: %s", out)
	}
	l = m.sh("true")
	l.Namespaces.NewUser, l.Namespaces.HostNet = true, true
	l.UIDs = []plan.IDMap{{Host: base, Container: 0, Length: 65536}}
	l.GIDs = l.UIDs
	if r := m.do(l, nil, nil); !strings.Contains(r.Error, "node's") {
		t.Errorf("user namespace with the node's network: %+v", r)
	}
	m.remove(l)
}

// TestSharedNamespaces joins pinned namespaces and another container's processes.
func TestSharedNamespaces(t *testing.T) {
	m := newMachine(t)
	pod := filepath.Join(m.dir, "pod")
	os.Mkdir(pod, 0o700)
	if err := netns.Create(pod, netns.Options{Net: true, IPC: true, Hostname: "pod-name"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { netns.Remove(pod) })
	ns := spec.Namespaces{Net: pod + "/net", IPC: pod + "/ipc", UTS: pod + "/uts"}
	first := m.request("sleep", "61")
	first.Namespaces, first.Hostname = ns, ""
	pid := m.running(first)
	second := m.sh("hostname; ps -o args; readlink /proc/self/ns/net /proc/1/ns/net; exit 5")
	second.Namespaces, second.Hostname = ns, ""
	second.Namespaces.PID = fmt.Sprintf("/proc/%d/ns/pid", pid)
	out, ws, _ := m.run(second)
	if !strings.HasPrefix(out, "pod-name\n") || !strings.Contains(out, "sleep 61") || ws.ExitStatus() != 5 {
		t.Errorf("%q, status %v", out, ws)
	}
}

// TestMountRace flips a mount's target between a directory and a link to the
// host's root while containers start (CVE-2021-30465): the volume is where it
// should be inside the container, or the container does not start.
func TestMountRace(t *testing.T) {
	m := newMachine(t)
	volume := filepath.Join(m.dir, "volume")
	os.MkdirAll(volume, 0o755)
	os.WriteFile(filepath.Join(volume, "mine"), nil, 0o644)
	canary := filepath.Join(m.dir, "outside")
	os.Mkdir(canary, 0o755)
	dir, link, target := filepath.Join(m.rootfs, "data/dir"), filepath.Join(m.rootfs, "data/link"), filepath.Join(m.rootfs, "data/vol")
	os.Mkdir(dir, 0o755)
	os.Symlink(strings.Repeat("../", 20)+canary, link)
	os.Rename(dir, target)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				os.Rename(target, dir)
				os.Rename(link, target)
				os.Rename(target, link)
				os.Rename(dir, target)
			}
		}
	}()
	started := 0
	for range 25 {
		l := m.sh("ls /data/vol /data/dir /data/link 2>/dev/null")
		l.Mounts = []spec.Mount{{Source: volume, To: "/data/vol"}}
		r := m.do(l, nil, nil)
		if r.Error == "" {
			started++
			info, _ := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", r.PID))
			// Inside, the link's target is a path of the container: what must not be
			// there is the host's directory of that name, as the root of a mount.
			for line := range strings.Lines(string(info)) {
				if f := strings.Fields(line); len(f) > 4 && strings.HasSuffix(f[3], "/outside") {
					t.Errorf("the host's directory is mounted: %s", line)
				}
			}
			m.kill(r.PID)
		}
		m.remove(l)
	}
	close(stop)
	<-stopped
	t.Logf("%d of 25 started", started)
	host, _ := os.ReadFile("/proc/self/mountinfo")
	if strings.Contains(string(host), volume) {
		t.Error("the volume is mounted on the host")
	}
	if list, _ := os.ReadDir(canary); len(list) > 0 {
		t.Errorf("made on the host: %v", list)
	}
}
