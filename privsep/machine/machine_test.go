package machine

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/ceiling"
	"github.com/postern-cri/postern/privsep/helper"
	"github.com/postern-cri/postern/privsep/keeper"
	"github.com/postern-cri/postern/privsep/layout"
	"github.com/postern-cri/postern/privsep/mount"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/record"
	"github.com/postern-cri/postern/privsep/seqpacket"
	"github.com/postern-cri/postern/privsep/wire"
	"github.com/postern-cri/postern/runtime/image/convert"
)

const inside = "POSTERN_MACHINE_INSIDE"

var binDir string

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == PauseArg {
		Pause()
	}
	if os.Getuid() != 0 {
		fmt.Println("SKIP: namespaces, mounts and cgroups need root")
		os.Exit(0)
	}
	if os.Getenv(inside) == "" { // the network plugins make bridges: not on this machine
		cmd := exec.Command(os.Args[0], os.Args[1:]...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.Env = append(os.Environ(), inside+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET}
		if err := cmd.Run(); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		panic(err)
	}
	dir, err := os.MkdirTemp("", "postern-machine-")
	if err != nil {
		panic(err)
	}
	binDir = dir
	build := exec.Command("go", "build", "-trimpath", "-tags", "seccomp", "-o", dir+"/postern-launch", "../../cmd/postern-launch")
	build.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Printf("building postern-launch: %v\n%s", err, out)
		os.Exit(1)
	}
	build = exec.Command("go", "build", "-trimpath", "-o", dir+"/postern-cni", "../../cmd/postern-cni")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Printf("building postern-cni: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// rig is a Machine in a directory of its own, with a keeper and a log process
// that remember what they were told.
type rig struct {
	t    *testing.T
	m    *Machine
	l    layout.Layout
	host string // a directory that the ceiling's class "data" names

	mu     sync.Mutex
	kept   map[string][]int // by key: what was stored
	meta   map[string]logRequest
	asked  []string // operations of the log process
	watch  map[string]int
	record *record.Record
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func newRig(t *testing.T) *rig {
	dir, err := os.MkdirTemp("", "postern-box-")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, l: layout.New(dir), host: dir + "/host", kept: map[string][]int{}, meta: map[string]logRequest{}, watch: map[string]int{}}
	for _, d := range []string{r.l.Etc, r.l.Run + "/sock", r.l.Lib, r.l.Records(), r.l.Layers(), r.host, dir + "/cni", dir + "/logs", dir + "/kubelet/pods/uid-1/volumes"} {
		r.must(os.MkdirAll(d, 0o755))
	}
	r.must(os.Chmod(dir, 0o755))
	users := layout.Users{}
	c, err := ceiling.Parse("test", []byte(fmt.Sprintf(`
profile = "test"
kubelet_root = %q
max_pids = 100
[network]
conf_dir = %q
bin_dirs = ["/usr/lib/cni", "/opt/cni/bin"]
[class.system]
[[host_path]]
name = "data"
path = %q
symlinks = "beneath"
create = true
[[log_root]]
name = "logs"
path = %q
[[cgroup_root]]
name = "test"
path = "/postern-test-%d"
`, dir+"/kubelet", dir+"/cni", r.host, dir+"/logs", os.Getpid())))
	r.must(err)
	a, b, err := seqpacket.Pair()
	r.must(err)
	ours, err := seqpacket.NewConn(a)
	r.must(err)
	theirs, err := seqpacket.NewConn(b)
	r.must(err)
	go r.keep(theirs)
	fd, err := seqpacket.Listen(r.l.LogSocket())
	r.must(err)
	ln, err := seqpacket.NewListener(fd)
	r.must(err)
	go r.logs(ln)
	r.layer()
	open := func() *Machine {
		m, err := New(Options{Layout: r.l, Users: users, Ceiling: c, Keeper: keeper.NewClient(ours), Bin: binDir})
		r.must(err)
		return m
	}
	r.m = open()
	t.Cleanup(func() {
		if err := r.m.Leftovers(nil, nil); err != nil {
			t.Errorf("leftovers: %v", err)
		}
		if left, _ := mount.Beneath(r.l.Box() + "/"); len(left) > 0 {
			t.Errorf("mounts left: %v", left)
		}
		for _, d := range []string{r.m.box("ctr"), r.m.box("pod"), r.m.box("layers"), r.m.box("launch"), r.m.state("ctr")} {
			if n := names(d); len(n) > 0 {
				t.Errorf("%s: left: %v", d, n)
			}
		}
		ours.Close()
		theirs.Close()
		ln.Close()
		if err := mount.UnmountBeneath(r.l.Box()); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
		filepath.Glob("/sys/fs/cgroup/*")
		all, _ := filepath.Glob(fmt.Sprintf("/sys/fs/cgroup/*/postern-test-%d", os.Getpid()))
		for _, d := range append(all, fmt.Sprintf("/sys/fs/cgroup/postern-test-%d", os.Getpid())) {
			os.Remove(d)
		}
	})
	return r
}

// keep is init's part: it answers every request with OK.
func (r *rig) keep(c *seqpacket.Conn) {
	buf := make([]byte, keeper.MaxRequest)
	for {
		n, fds, err := c.Recv(buf)
		if err != nil {
			return
		}
		q, err := keeper.Decode(buf[:n])
		if err != nil {
			r.t.Errorf("keeper: %v", err)
		}
		r.mu.Lock()
		switch q.Op {
		case keeper.Store:
			var m logRequest
			if err := json.Unmarshal(q.Meta, &m); err != nil {
				r.t.Error(err)
			}
			r.kept[q.Key], r.meta[q.Key] = fds, m
		case keeper.Watch:
			r.watch[q.Key] = int(q.PID)
		case keeper.Replace:
			unix.Close(r.kept[q.Key][q.Index])
			r.kept[q.Key][q.Index] = fds[0]
		case keeper.Forget:
			seqpacket.CloseAll(r.kept[q.Key])
			delete(r.kept, q.Key)
		}
		r.mu.Unlock()
		if c.Send([]byte{0}) != nil {
			return
		}
	}
}

func (r *rig) logs(l *seqpacket.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		buf := make([]byte, 4096)
		n, fds, err := c.Recv(buf)
		if err == nil {
			var q logRequest
			json.Unmarshal(buf[:n], &q)
			r.mu.Lock()
			r.asked = append(r.asked, q.Op)
			r.mu.Unlock()
			seqpacket.CloseAll(fds)
			c.Send([]byte(`{"ok":true}`))
		}
		c.Close()
	}
}

// fd returns a duplicate of what is kept for id under name.
func (r *rig) fd(id, name string) *os.File {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, n := range r.meta[id].Names {
		if n == name {
			fd, err := unix.FcntlInt(uintptr(r.kept[id][i]), unix.F_DUPFD_CLOEXEC, 0)
			r.must(err)
			return os.NewFile(uintptr(fd), name)
		}
	}
	r.t.Fatalf("nothing is kept as %s of %s: %v", name, id, r.meta[id].Names)
	return nil
}

// layer writes an image of two layers: busybox, and a file over it.
func (r *rig) layer() {
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		r.t.Skip("needs busybox (static) as an image: ", err)
	}
	rec := &record.Record{Schema: record.Schema, Manifest: "sha256:" + strings.Repeat("a", 64)}
	for i, files := range []map[string]string{
		{"bin/busybox": string(busybox), "bin/sh": "", "etc/word": "low\n", "tmp/": ""},
		{"etc/word": "high\n"},
	} {
		var b bytes.Buffer
		tw := tar.NewWriter(&b)
		for name, text := range files {
			h := &tar.Header{Name: name, Mode: 0o755, Size: int64(len(text)), Typeflag: tar.TypeReg}
			if name == "bin/sh" {
				h.Typeflag, h.Linkname = tar.TypeSymlink, "busybox"
			}
			if strings.HasSuffix(name, "/") {
				h.Typeflag, h.Mode = tar.TypeDir, 0o1777
			}
			r.must(tw.WriteHeader(h))
			io.WriteString(tw, text)
		}
		r.must(tw.Close())
		hex := strings.Repeat(fmt.Sprint(i), 64)
		f, err := os.OpenFile(filepath.Join(r.l.Layers(), hex+".erofs"), os.O_RDWR|os.O_CREATE, 0o644)
		r.must(err)
		_, err = convert.Layer(f, &b, convert.Limits{Blob: 1 << 30, Bytes: 1 << 30, Entries: 1000, Trailer: 1 << 20})
		r.must(err)
		r.must(f.Chmod(0o444))
		r.must(f.Close())
		rec.Layers = append(rec.Layers, record.Layer{DiffID: "sha256:" + hex})
	}
	r.record = rec
}

func id(n int) string { return strings.Repeat(fmt.Sprintf("%02x", n), 32) }

// pod makes a pod; net says whether it has namespaces of its own. (With one of
// its own the CNI program would be needed: the tests that want it make it by
// hand.)
func (r *rig) pod(n int, pid plan.NamespaceMode) (helper.PodIn, helper.PodOut) {
	r.t.Helper()
	p := &plan.PodPlan{Class: plan.System, UID: "uid-1", Network: plan.NamespaceNode, IPC: plan.NamespacePod, PID: pid,
		CgroupParent: plan.Place{Root: plan.RootCgroup, Name: "test"}, Logs: plan.Place{Root: plan.RootLog, Name: "logs", Rel: "ns_pod"}}
	in := helper.PodIn{ID: id(n), Plan: p, Claims: &plan.Claims{}}
	out, err := r.m.PodCreate(in)
	r.must(err)
	return in, out
}

func (r *rig) ctr(n int, in helper.PodIn, out helper.PodOut, script string, change func(*plan.Plan)) (helper.CtrIn, helper.CtrOut) {
	r.t.Helper()
	p := &plan.Plan{Class: plan.System, Image: r.record.Manifest, Args: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=/bin"}, Cwd: "/",
		PID: plan.NamespaceContainer, Seccomp: plan.Profile{Kind: plan.ProfileRuntimeDefault}, AppArmor: plan.Profile{Kind: plan.ProfileRuntimeDefault}, Log: "c/0.log"}
	if change != nil {
		change(p)
	}
	ci := helper.CtrIn{ID: id(n), PodID: in.ID, Pod: in.Plan, PodOut: &out, Plan: p, Records: map[string]*record.Record{r.record.Manifest: r.record}}
	co, err := r.m.CtrCreate(ci)
	r.must(err)
	return ci, co
}

// output reads what a container writes until it ends.
func (r *rig) output(id string) string {
	r.t.Helper()
	f := r.fd(id, "stdout")
	defer f.Close()
	done := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(f)
		done <- string(b)
	}()
	select {
	case s := <-done:
		return s
	case <-time.After(20 * time.Second):
		r.t.Fatal("the container's output does not end")
		return ""
	}
}

func (r *rig) gone(p helper.Proc) {
	r.t.Helper()
	for range 500 {
		var ws unix.WaitStatus
		unix.Wait4(p.PID, &ws, unix.WNOHANG, nil)
		if !r.m.Alive(p) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	r.t.Fatalf("process %d does not go", p.PID)
}

func TestContainer(t *testing.T) {
	r := newRig(t)
	in, out := r.pod(1, plan.NamespaceContainer)
	r.must(os.WriteFile(r.l.Etc+"/../kubelet/pods/uid-1/volumes/v", []byte("volume\n"), 0o644))
	ci, co := r.ctr(2, in, out, "cat /etc/word /v; echo x > /new; cat /data/sub/y; echo $$; cat /etc/hostname >/dev/null && busybox df /dev/shm | busybox tail -n1 | busybox wc -l", func(p *plan.Plan) {
		p.Mounts = []plan.Mount{
			{From: plan.Place{Root: plan.RootPodVolumes, Rel: "volumes/v"}, To: "/v", ReadOnly: true, Propagation: plan.Private},
			{From: plan.Place{Root: plan.RootHostPath, Name: "data", Rel: "deep/er"}, To: "/data", Propagation: plan.HostToContainer, MakeDir: true},
			{From: plan.Place{Root: plan.RootPodFile, Name: "hostname"}, To: "/etc/hostname", Propagation: plan.Private},
			{From: plan.Place{Root: plan.RootPodShm}, To: "/dev/shm", Propagation: plan.Private},
			{From: plan.Place{Root: plan.RootScratch, Name: "0"}, To: "/scratch", Propagation: plan.Private},
			{From: plan.Place{Root: plan.RootImage, Name: r.record.Manifest, Rel: "etc"}, To: "/img", ReadOnly: true, Propagation: plan.Private},
		}
		p.Args[2] += "; cat /img/word; echo s > /scratch/f && echo w > /img/f || echo refused"
	})
	if !r.m.Alive(co.Proc) {
		t.Error("a created container is not alive")
	}
	r.must(os.MkdirAll(r.host+"/deep/er/sub", 0o755))
	r.must(os.WriteFile(r.host+"/deep/er/sub/y", []byte("host\n"), 0o644))
	r.must(r.m.CtrStart(ci.ID, co.Proc))
	r.mu.Lock()
	pid, names := r.watch[ci.ID], r.meta[ci.ID].Names
	r.mu.Unlock()
	if pid != co.Proc.PID || strings.Join(names, " ") != "stdout stderr journal-out-r journal-out-w journal-err-r journal-err-w state log" {
		t.Errorf("watched %d, kept %v", pid, names)
	}
	if got, want := r.output(ci.ID), "high\nvolume\nhost\n1\n1\nhigh\nrefused\n"; got != want {
		b, _ := io.ReadAll(r.fdNonblock(ci.ID, "stderr"))
		t.Errorf("output %q, want %q; stderr %q", got, want, b)
	}
	r.gone(co.Proc)
	if err := r.m.CtrStart(ci.ID, co.Proc); err == nil {
		t.Error("a container that has exited was started")
	}
	bytes, inodes, err := r.m.CtrUsage(ci.ID)
	if err != nil || inodes == 0 || bytes == 0 {
		t.Errorf("usage %d bytes, %d inodes, %v", bytes, inodes, err)
	}
	r.must(r.m.LogReopen(ci.ID, in.Plan, ci.Plan))
	if st, err := os.Stat(filepath.Join(filepath.Dir(r.host), "logs/ns_pod/c")); err != nil || st.Mode().Perm() != 0o755 {
		t.Errorf("log directory: %v, %v", st, err)
	}
	for range 2 { // the second time there is nothing left
		r.must(r.m.CtrDelete(ci.ID, co))
	}
	if _, err := os.Stat(r.host + "/deep/er/sub/y"); err != nil {
		t.Errorf("removing a container removed the host's files: %v", err)
	}
	for range 2 {
		r.must(r.m.PodDelete(in, out))
	}
	r.must(r.m.NetworkDelete(helper.PodIn{ID: in.ID, Plan: in.Plan}))
	r.mu.Lock()
	defer r.mu.Unlock()
	if got := strings.Join(r.asked, " "); got != "add reopen remove remove" {
		t.Errorf("the log process was asked %q", got)
	}
}

func (r *rig) fdNonblock(id, name string) *os.File {
	f := r.fd(id, name)
	unix.SetNonblock(int(f.Fd()), true)
	return f
}

func TestTerminalExecAndKill(t *testing.T) {
	r := newRig(t)
	in, out := r.pod(1, plan.NamespacePod)
	ci, co := r.ctr(2, in, out, "trap '' TERM; echo up; while :; do sleep 1; done", func(p *plan.Plan) { p.TTY, p.PID = true, plan.NamespacePod })
	r.must(r.m.CtrStart(ci.ID, co.Proc))
	r.must(r.m.CtrStart(ci.ID, co.Proc)) // it runs already
	pty := r.fd(ci.ID, "pty")
	defer pty.Close()
	buf := make([]byte, 16)
	if n, err := pty.Read(buf); err != nil || !strings.HasPrefix(string(buf[:n]), "up") {
		t.Errorf("terminal: %q, %v", buf[:n], err)
	}
	// An exec sees the pod's processes: the pause process is 1, and has nothing.
	proc, fds, err := r.m.Exec(ci.ID, id(3), &plan.ExecPlan{Args: []string{"sh", "-c", "cat; echo; ls /proc/1/root 2>&1; readlink /proc/1/exe; cat /proc/1/status"}, Stdin: true, Stdout: true, Sync: true})
	r.must(err)
	stdin, stdout := os.NewFile(uintptr(fds[0]), "in"), os.NewFile(uintptr(fds[1]), "out")
	stdin.WriteString("through")
	stdin.Close()
	b, _ := io.ReadAll(stdout)
	stdout.Close()
	if s := string(b); !strings.HasPrefix(s, "through\n") || strings.Contains(s, "Uid:\t0") || !strings.Contains(s, "CapEff:\t0000000000000000") || strings.Contains(s, "usr") {
		t.Errorf("exec: %q", s)
	}
	r.gone(proc)
	if _, _, err := r.m.Exec(ci.ID, id(4), &plan.ExecPlan{Args: []string{"no-such-command"}, Stdout: true}); err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("exec of what is not there: %v", err)
	}
	r.must(r.m.CtrUpdate(ci.ID, &plan.Resources{Memory: 64 << 20}))
	r.must(r.m.Signal("", co.Proc, uint8(unix.SIGTERM))) // ignored
	if time.Sleep(50 * time.Millisecond); !r.m.Alive(co.Proc) {
		t.Error("the container died of a signal that it ignores")
	}
	r.must(r.m.Signal("", helper.Proc{PID: co.Proc.PID, Start: co.Proc.Start + 1}, uint8(unix.SIGKILL))) // another process by now
	if time.Sleep(50 * time.Millisecond); !r.m.Alive(co.Proc) {
		t.Error("a process was killed by the number of another")
	}
	r.must(r.m.KillAll(co.Cgroup))
	r.gone(co.Proc)
	// Who asked while it ended is told that it did, and not that something failed.
	_, _, xerr := r.m.Exec(ci.ID, id(5), &plan.ExecPlan{Args: []string{"true"}})
	for what, err := range map[string]error{"exec": xerr, "update": r.m.CtrUpdate(ci.ID, &plan.Resources{Memory: 64 << 20})} {
		var a interface{ Outcome() *wire.Answer }
		if !errors.As(err, &a) || a.Outcome().Code != wire.Exists {
			t.Errorf("%s after the end: %v", what, err)
		}
	}
	r.must(r.m.CtrDelete(ci.ID, co))
	if !r.m.Alive(out.Pause) {
		t.Error("the pause process died with a container")
	}
	r.must(r.m.PodDelete(in, out))
	r.gone(out.Pause)
	r.must(r.m.NetworkDelete(helper.PodIn{ID: in.ID, Plan: in.Plan}))
}

// TestKilledAtAnyStep: what a helper leaves when it is killed is found by the
// next one, by names in the box alone.
func TestKilledAtAnyStep(t *testing.T) {
	r := newRig(t)
	in, out := r.pod(1, plan.NamespacePod)
	_, running := r.ctr(2, in, out, "sleep 1000", nil)
	bad := helper.CtrIn{ID: id(3), PodID: in.ID, Pod: in.Plan, PodOut: &out, Records: map[string]*record.Record{r.record.Manifest: r.record},
		Plan: &plan.Plan{Image: r.record.Manifest, Args: []string{"/bin/sh"}, Mounts: []plan.Mount{
			{From: plan.Place{Root: plan.RootHostPath, Name: "data"}, To: "/x", Propagation: plan.Bidirectional},
			{From: plan.Place{Root: plan.RootHostPath, Name: "data", Rel: "missing"}, To: "/y", Propagation: plan.Private}}}}
	if _, err := r.m.CtrCreate(bad); err == nil { // stops half way
		t.Fatal("a missing source was mounted")
	}
	m, err := New(r.m.Options) // as a fresh process: only the box is known
	r.must(err)
	r.m = m
	r.must(m.Leftovers(nil, nil))
	r.gone(running.Proc)
	r.gone(out.Pause)
}

// TestUnmountLeavesTheHost: the mounts of a staged tree are peers of the host's.
func TestUnmountLeavesTheHost(t *testing.T) {
	r := newRig(t)
	r.must(unix.Mount(r.host, r.host, "", unix.MS_BIND, ""))
	defer unix.Unmount(r.host, unix.MNT_DETACH)
	r.must(unix.Mount("", r.host, "", unix.MS_SHARED, ""))
	r.must(os.Mkdir(r.host+"/sub", 0o755))
	r.must(unix.Mount("tmpfs", r.host+"/sub", "tmpfs", 0, ""))
	defer unix.Unmount(r.host+"/sub", unix.MNT_DETACH)
	r.must(os.WriteFile(r.host+"/sub/f", nil, 0o644))
	in, out := r.pod(1, plan.NamespaceContainer)
	ci, co := r.ctr(2, in, out, "ls /h/sub; echo made; busybox mount -t tmpfs none /h/later", func(p *plan.Plan) {
		p.Mounts = []plan.Mount{{From: plan.Place{Root: plan.RootHostPath, Name: "data"}, To: "/h", Propagation: plan.Bidirectional}}
		p.CapsBounding, p.Privileged = 1<<unix.CAP_SYS_ADMIN, true
		p.Seccomp.Kind, p.AppArmor.Kind = plan.ProfileUnconfined, plan.ProfileUnconfined
	})
	r.must(os.Mkdir(r.host+"/later", 0o755))
	r.must(r.m.CtrStart(ci.ID, co.Proc))
	if s := r.output(ci.ID); s != "f\nmade\n" {
		b, _ := io.ReadAll(r.fdNonblock(ci.ID, "stderr"))
		t.Errorf("output %q %q", s, b)
	}
	r.gone(co.Proc)
	if b, _ := mount.Beneath(r.host + "/later"); len(b) != 1 {
		t.Errorf("a bidirectional mount of the container is not on the host: %v", b)
	}
	r.must(r.m.CtrDelete(ci.ID, co))
	if _, err := os.Stat(r.host + "/sub/f"); err != nil {
		t.Errorf("removing the container unmounted the host's file system: %v", err)
	}
	unix.Unmount(r.host+"/later", unix.MNT_DETACH)
	r.must(r.m.PodDelete(in, out))
	r.must(r.m.NetworkDelete(helper.PodIn{ID: in.ID, Plan: in.Plan}))
}

func TestLogFileRefusesLinks(t *testing.T) {
	r := newRig(t)
	dir := filepath.Join(filepath.Dir(r.host), "logs")
	pod := &plan.PodPlan{Logs: plan.Place{Root: plan.RootLog, Name: "logs", Rel: "p"}}
	r.must(os.MkdirAll(dir+"/p/real", 0o755))
	r.must(os.WriteFile(dir+"/victim", nil, 0o600))
	r.must(os.Symlink("../victim", dir+"/p/link"))
	r.must(os.Symlink("real", dir+"/p/dirlink"))
	r.must(os.Link(dir+"/victim", dir+"/p/hard"))
	r.must(unix.Mkfifo(dir+"/p/fifo", 0o600))
	for _, bad := range []string{"link", "dirlink/0.log", "hard", "fifo", "real"} {
		if f, err := r.m.logFile(pod, &plan.Plan{Log: bad}); err == nil {
			f.Close()
			t.Errorf("%s was opened as a log", bad)
		}
	}
	f, err := r.m.logFile(pod, &plan.Plan{Log: "c/0.log"})
	r.must(err)
	f.Close()
}

func TestFeatures(t *testing.T) {
	r := newRig(t)
	if v, bits := r.m.Features(); v < 1 || v > 2 || bits&wire.FeatureSeccomp == 0 {
		t.Errorf("cgroup v%d, features %x", v, bits)
	}
}

// TestUserNamespace: root inside is nobody outside, and sees its own files as its.
func TestUserNamespace(t *testing.T) {
	for _, shared := range []plan.NamespaceMode{plan.NamespaceContainer, plan.NamespacePod} {
		r := newRig(t)
		r.m.cni = binDir + "/no-network"
		r.must(os.WriteFile(r.m.cni, []byte("#!/bin/sh\necho ok >&4\n"), 0o755))
		const base, n = 1 << 20, 65536
		maps := []plan.IDMap{{Host: base, Container: 0, Length: n}}
		in := helper.PodIn{ID: id(1), Claims: &plan.Claims{}, Plan: &plan.PodPlan{UID: "uid-1", Hostname: "h", Network: plan.NamespacePod, IPC: plan.NamespacePod, PID: shared,
			UserNS: true, UIDs: maps, GIDs: maps, CgroupParent: plan.Place{Root: plan.RootCgroup, Name: "test"}, Sysctls: []plan.Sysctl{{Name: "kernel.shm_rmid_forced", Value: "1"}}}}
		low := *in.Plan
		low.UIDs = []plan.IDMap{{Host: base, Container: 1, Length: n}}
		if _, err := r.m.PodCreate(helper.PodIn{ID: id(9), Plan: &low, Claims: &plan.Claims{}}); err == nil {
			t.Error("a user namespace without root was made")
		}
		out, err := r.m.PodCreate(in)
		r.must(err)
		r.must(os.WriteFile(r.l.Etc+"/../kubelet/pods/uid-1/volumes/v", []byte("volume\n"), 0o600))
		ci, co := r.ctr(2, in, out, "id -u; cat /proc/self/uid_map | busybox tr -s ' '; cat /v; busybox stat -c %u /v /bin/busybox /dev/shm /scratch /etc/hosts; echo x > /etc/word && echo wrote; echo y > /scratch/y && echo z > /v; cat /proc/sys/kernel/shm_rmid_forced; busybox mount | busybox grep -c mqueue", func(p *plan.Plan) {
			p.Log, p.PID = "", shared
			p.Args[2] = "busybox " + p.Args[2]
			p.CapsBounding = 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_SETUID
			p.Mounts = []plan.Mount{
				{From: plan.Place{Root: plan.RootPodVolumes, Rel: "volumes/v"}, To: "/v", Propagation: plan.Private},
				{From: plan.Place{Root: plan.RootPodShm}, To: "/dev/shm", Propagation: plan.Private},
				{From: plan.Place{Root: plan.RootPodFile, Name: "hosts"}, To: "/etc/hosts", Propagation: plan.Private},
				{From: plan.Place{Root: plan.RootScratch, Name: "0"}, To: "/scratch", Propagation: plan.Private},
				{From: plan.Place{Root: plan.RootImage, Name: r.record.Manifest}, To: "/img", ReadOnly: true, Propagation: plan.Private},
			}
		})
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", co.Proc.PID))
		if err != nil || !strings.Contains(string(b), fmt.Sprintf("Uid:\t%d\t", base)) {
			t.Errorf("the process of the container is not uid %d outside: %v", base, err)
		}
		r.must(r.m.CtrStart(ci.ID, co.Proc))
		want := fmt.Sprintf("0\n 0 %d %d\nvolume\n0\n0\n0\n0\n0\nwrote\n1\n1\n", base, n)
		if got := r.output(ci.ID); got != want {
			b, _ := io.ReadAll(r.fdNonblock(ci.ID, "stderr"))
			t.Errorf("output %q, want %q; stderr %q", got, want, b)
		}
		var st unix.Stat_t
		r.must(unix.Stat(r.m.state("ctr", ci.ID, "upper/etc/word"), &st))
		if st.Uid != base {
			t.Errorf("a file of the container's root belongs to %d on the host", st.Uid)
		}
		r.must(unix.Stat(r.l.Etc+"/../kubelet/pods/uid-1/volumes/v", &st))
		if st.Uid != 0 {
			t.Errorf("the volume's file belongs to %d now", st.Uid)
		}
		r.gone(co.Proc)
		if r.m.Alive(out.Pause) != (shared == plan.NamespacePod) {
			t.Errorf("pause process alive: %v", !(shared == plan.NamespacePod))
		}
		r.must(r.m.CtrDelete(ci.ID, co))
		r.must(r.m.PodDelete(in, out))
		r.must(r.m.NetworkDelete(in))
	}
}

// TestNetwork attaches a pod with real plugins, and breaks them for the teardown.
func TestNetwork(t *testing.T) {
	if _, err := os.Stat("/usr/lib/cni/bridge"); err != nil {
		t.Skip("needs the CNI plugins: ", err)
	}
	r := newRig(t)
	dir := r.m.Ceiling.Network.ConfDir
	conf := fmt.Sprintf(`{"cniVersion":"1.0.0","name":"test","plugins":[{"type":"bridge","bridge":"pt0","isGateway":true,"ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.253.7.0/24"}]]}}]}`, dir+"/ipam")
	r.must(os.WriteFile(dir+"/10-test.conflist", []byte(conf), 0o644))
	if _, bits := r.m.Features(); bits&wire.FeatureNetwork == 0 {
		t.Error("the network configuration is not seen")
	}
	in := helper.PodIn{ID: id(1), Claims: &plan.Claims{PodName: "p", Namespace: "n", PodUID: "u"}, Plan: &plan.PodPlan{UID: "u", Hostname: "pod-host",
		Network: plan.NamespacePod, IPC: plan.NamespacePod, PID: plan.NamespaceContainer, DNS: plan.DNS{Servers: []string{"10.0.0.10"}, Searches: []string{"svc"}},
		CgroupParent: plan.Place{Root: plan.RootCgroup, Name: "test"}, Sysctls: []plan.Sysctl{{Name: "net.ipv4.ip_unprivileged_port_start", Value: "11"}}}}
	out, err := r.m.PodCreate(in)
	r.must(err)
	if len(out.IPs) != 1 || !strings.HasPrefix(out.IPs[0], "10.253.7.") {
		t.Fatalf("addresses %v", out.IPs)
	}
	ci, co := r.ctr(2, in, out, "hostname; cat /etc/hosts /etc/resolv.conf; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; busybox ip -o -4 addr show eth0 | busybox wc -l", func(p *plan.Plan) {
		p.Log = ""
		p.Args[2] = "busybox " + p.Args[2]
		for _, n := range []string{"hosts", "resolv.conf"} {
			p.Mounts = append(p.Mounts, plan.Mount{From: plan.Place{Root: plan.RootPodFile, Name: n}, To: "/etc/" + n, Propagation: plan.Private})
		}
	})
	r.must(r.m.CtrStart(ci.ID, co.Proc))
	want := "pod-host\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" + out.IPs[0] + "\tpod-host\nsearch svc\nnameserver 10.0.0.10\n11\n1\n"
	if got := r.output(ci.ID); got != want {
		b, _ := io.ReadAll(r.fdNonblock(ci.ID, "stderr"))
		t.Errorf("output %q, want %q; stderr %q", got, want, b)
	}
	r.gone(co.Proc)
	for _, k := range []wire.SocketKind{wire.SocketTCP4, wire.SocketTCP6, wire.SocketNetDev} {
		fd, err := r.m.PodSocket(in.ID, k)
		r.must(err)
		unix.Close(fd)
	}
	r.must(r.m.CtrDelete(ci.ID, co))
	r.must(r.m.PodDelete(in, out))
	cni := r.m.cni
	r.m.cni = "/bin/false"
	if err := r.m.NetworkDelete(in); err == nil {
		t.Error("a teardown with a broken plugin says that all is well")
	}
	r.m.cni = cni
	r.must(r.m.NetworkDelete(in))
	if left, _ := filepath.Glob(dir + "/ipam/test/10.253.7.*"); len(left) != 0 {
		t.Errorf("addresses are still taken: %v", left)
	}
}
