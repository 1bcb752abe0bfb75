package netns

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/plan"
)

func needRoot(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: makes namespaces")
	}
}

func inode(t *testing.T, p string) uint64 {
	var st unix.Stat_t
	if err := unix.Stat(p, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func TestCreateAndRemove(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	before := inode(t, "/proc/self/ns/net")
	host, _ := os.Hostname()
	if err := Create(dir, Options{Net: true, IPC: true, Hostname: "pinned", Sysctls: []plan.Sysctl{{Name: "net.ipv4.ip_unprivileged_port_start", Value: "7"}, {Name: "kernel.shm_rmid_forced", Value: "1"}}}); err != nil {
		t.Fatal(err)
	}
	if inode(t, filepath.Join(dir, Net)) == before {
		t.Error("the pinned network namespace is the host's")
	}
	if now, _ := os.Hostname(); now != host {
		t.Errorf("the host's name changed to %q", now)
	}
	var value string
	if err := enter(filepath.Join(dir, Net), func() error {
		b, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
		value = strings.TrimSpace(string(b))
		return err
	}); err != nil || value != "7" {
		t.Errorf("sysctl in the pod: %q, %v; want 7", value, err)
	}
	if b, _ := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start"); strings.TrimSpace(string(b)) == "7" {
		t.Error("the sysctl was written on the host")
	}
	fd, err := NetDev(filepath.Join(dir, Net))
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	n, _ := unix.Pread(fd, buf, 0)
	unix.Close(fd)
	if s := string(buf[:n]); !strings.Contains(s, "lo:") || strings.Contains(s, "eth0") {
		t.Errorf("interface counters of the pod: %q", s)
	}
	s, err := Socket(filepath.Join(dir, Net), unix.AF_INET)
	if err != nil {
		t.Fatal(err)
	}
	// Loopback is up: binding and listening there works.
	if err := unix.Bind(s, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Error(err)
	}
	unix.Close(s)
	for range 2 {
		if err := Remove(dir); err != nil {
			t.Error(err)
		}
	}
	if ents, _ := os.ReadDir(dir); len(ents) != 0 {
		t.Errorf("left behind: %v", ents)
	}
	if inode(t, "/proc/self/ns/net") != before {
		t.Error("a thread of the process stayed in another network namespace")
	}
}

func TestBadSysctlLeavesNothing(t *testing.T) {
	needRoot(t)
	for _, s := range []plan.Sysctl{{Name: "net..x", Value: "1"}, {Name: "no.such.thing", Value: "1"}, {Name: "kernel.shm_rmid_forced", Value: "1\nkernel.core_pattern=x"}} {
		dir := t.TempDir()
		if err := Create(dir, Options{Net: true, IPC: true, Hostname: "x", Sysctls: []plan.Sysctl{s}}); err == nil {
			t.Errorf("%+v was accepted", s)
		}
		if ents, _ := os.ReadDir(dir); len(ents) != 0 {
			t.Errorf("%+v: left behind: %v", s, ents)
		}
	}
}

// TestUserNamespaceSysctls: parameters of namespaces that a user namespace owns,
// whose root is nobody on the host.
func TestUserNamespaceSysctls(t *testing.T) {
	needRoot(t)
	maps := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 1000}}
	holder := exec.Command("sleep", "60")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		UidMappings: maps, GidMappings: maps, Pdeathsig: syscall.SIGKILL}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	defer holder.Wait()
	defer holder.Process.Kill()
	dir := t.TempDir()
	want := []plan.Sysctl{{Name: "net.ipv4.ip_unprivileged_port_start", Value: "7"}, {Name: "kernel.shm_rmid_forced", Value: "1"}, {Name: "net.ipv4.tcp_syncookies", Value: "0"}}
	if err := Create(dir, Options{Net: true, IPC: true, Hostname: "mapped", Sysctls: want, Holder: holder.Process.Pid, RootUID: 100000}); err != nil {
		t.Fatal(err)
	}
	defer Remove(dir)
	for _, s := range want {
		b, err := exec.Command("nsenter", "--net="+filepath.Join(dir, Net), "--ipc="+filepath.Join(dir, IPC),
			"cat", "/proc/sys/"+strings.ReplaceAll(s.Name, ".", "/")).CombinedOutput()
		if got := strings.TrimSpace(string(b)); got != s.Value {
			t.Errorf("%s is %q, want %s (%v)", s.Name, got, s.Value, err)
		}
	}
}
