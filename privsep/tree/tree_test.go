package tree

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/keeper"
	"github.com/postern-cri/postern/privsep/keeper/message"
	"github.com/postern-cri/postern/privsep/seqpacket"
)

// The test binary plays every part: the tree as a process of its own, and the
// daemons that it starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "fake" {
		fake(os.Args[2], os.Args[3:])
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func fake(part string, args []string) {
	switch part {
	case "tree":
		runtime.LockOSThread()
		state := -1
		if n := len(args); n > 2 {
			state, _ = strconv.Atoi(args[n-1])
		}
		fmt.Fprintln(os.Stderr, Run(args[0], state, []string{os.Args[0], "fake", "tree", args[0]}))
	case "helper": // passes requests on to init, and starts orphans
		l, _ := seqpacket.NewListener(3)
		init, _ := seqpacket.NewConn(4)
		note(args[0], "helper", os.Getpid())
		for {
			c, err := l.Accept()
			if err != nil {
				os.Exit(1)
			}
			serveHelper(c, init)
		}
	case "front": // notes each exit
		note(args[0], "front", os.Getpid())
		c, _ := seqpacket.NewConn(4)
		b := make([]byte, 200)
		for {
			n, _, err := c.Recv(b)
			if err != nil {
				os.Exit(1)
			}
			e, err := keeper.DecodeExit(b[:n])
			note(args[0], "exit", e.Key, e.Code, e.Signal, err)
		}
	case "log": // notes what is restored, and writes to each fd
		c, _ := seqpacket.NewConn(4)
		sets, err := keeper.Restore(c)
		for _, s := range sets {
			for i, fd := range s.FDs {
				fmt.Fprintf(os.NewFile(uintptr(fd), ""), "index %d\n", s.Index[i])
			}
			note(args[0], "set", s.Key, string(s.Meta), len(s.FDs))
		}
		cl := keeper.NewClient(c)
		forbidden := cl.Forget(key(9))
		note(args[0], "log", os.Getpid(), err, forbidden)
		select {}
	case "demand":
		l, _ := seqpacket.NewListener(3)
		c, _ := l.Accept()
		c.Send([]byte(strconv.Itoa(os.Getpid())))
	case "once":
		c, _ := seqpacket.NewConn(3)
		c.Send([]byte(strconv.Itoa(os.Getpid())))
		c.Recv(make([]byte, 1))
	case "crash":
		note(args[0], "crash", os.Getpid())
		os.Exit(1)
	}
}

func serveHelper(c, init *seqpacket.Conn) {
	defer c.Close()
	b := make([]byte, keeper.MaxRequest)
	for {
		n, fds, err := c.Recv(b)
		if err != nil {
			return
		}
		if cmd, ok := strings.CutPrefix(string(b[:n]), "sh "); ok {
			out, err := exec.Command("/bin/sh", "-c", "("+cmd+") >/dev/null 2>&1 & echo $!").Output()
			c.Send([]byte(strings.TrimSpace(string(out)) + fmt.Sprint(err)))
			continue
		}
		init.Send(b[:n], fds...)
		seqpacket.CloseAll(fds)
		n, _, _ = init.Recv(b)
		c.Send(b[:n])
	}
}

// note appends a line to the record that the test reads.
func note(path string, a ...any) {
	f, _ := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	fmt.Fprintln(f, a...)
	f.Close()
}

func key(n int) string { return fmt.Sprintf("%064x", n) }

// nest is a running tree.
type nest struct {
	*testing.T
	dir, record string
	cmd         *exec.Cmd
	cfg         Config
}

func grow(t *testing.T, edit func(*Config)) *nest {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: the configuration must belong to it")
	}
	dir, err := os.MkdirTemp("", "tree")
	if err != nil {
		t.Fatal(err)
	}
	n := &nest{T: t, dir: dir, record: filepath.Join(dir, "record")}
	self, _ := os.Executable()
	proc := func(name, kind string, fds ...FD) Process {
		return Process{Name: name, Path: self, Args: []string{"fake", name, n.record}, Kind: kind, Max: 2,
			Log: filepath.Join(dir, "log"), FDs: fds}
	}
	sock := func(name string) FD { return FD{Type: "seqpacket", Path: filepath.Join(dir, name), Mode: 0o600} }
	n.cfg = Config{Parked: filepath.Join(dir, "parked"), Processes: []Process{
		proc("log", Always, sock("log.sock"), FD{Type: "restore"}),
		proc("helper", Always, sock("helper.sock"), FD{Type: "keeper"}),
		proc("demand", OnDemand, sock("demand.sock")),
		proc("once", PerConnection, sock("once.sock")),
		proc("front", Always, FD{Type: "stream", Path: filepath.Join(dir, "front.sock"), Mode: 0o600}, FD{Type: "exits"}),
	}}
	if edit != nil {
		edit(&n.cfg)
	}
	b, _ := json.Marshal(n.cfg)
	if err := os.WriteFile(filepath.Join(dir, "init.json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	n.cmd = exec.Command(self, "fake", "tree", filepath.Join(dir, "init.json"))
	n.cmd.Stderr = os.Stderr
	if !testing.Verbose() {
		n.cmd.Stderr = nil
	}
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.cmd.Process.Kill()
		n.cmd.Wait()
		for _, name := range []string{"front", "helper", "log"} {
			if pid := n.pid(name, 0); pid > 0 {
				unix.Kill(pid, unix.SIGKILL)
			}
		}
		os.RemoveAll(dir)
	})
	return n
}

// lines returns the recorded lines with that first word.
func (n *nest) lines(word string) (out []string) {
	b, _ := os.ReadFile(n.record)
	for _, l := range strings.Split(string(b), "\n") {
		if strings.HasPrefix(l, word+" ") {
			out = append(out, l)
		}
	}
	return out
}

// patience is longer than anything here takes on a machine that is busy with
// other things.
const patience = time.Minute

// wait waits for what is recorded to hold.
func (n *nest) wait(what string, ok func() bool) {
	n.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			b, _ := os.ReadFile(n.record)
			n.Fatalf("not within %s: %s; record:\n%s", patience, what, b)
		}
	}
}

// pid is the last recorded pid of a part, after at least starts starts.
func (n *nest) pid(name string, starts int) int {
	l := n.lines(name)
	if len(l) == 0 || len(l) < starts {
		return 0
	}
	pid, _ := strconv.Atoi(strings.Fields(l[len(l)-1])[1])
	return pid
}

func (n *nest) up() {
	n.Helper()
	n.wait("all up", func() bool {
		return n.pid("front", 1) > 0 && n.pid("helper", 1) > 0 && n.pid("log", 1) > 0
	})
}

func (n *nest) dial(name string) *seqpacket.Conn {
	n.Helper()
	c, err := seqpacket.Dial(filepath.Join(n.dir, name+".sock"))
	if err != nil {
		n.Fatal(err)
	}
	n.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c
}

func (n *nest) orphan(c *seqpacket.Conn, sh string) int {
	n.Helper()
	b := make([]byte, 100)
	if err := c.Send([]byte("sh " + sh)); err != nil {
		n.Fatal(err)
	}
	k, _, err := c.Recv(b)
	if err != nil {
		n.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSuffix(string(b[:k]), "<nil>"))
	if err != nil {
		n.Fatal(err)
	}
	return pid
}

func (n *nest) check(err error) {
	n.Helper()
	if err != nil {
		n.Fatal(err)
	}
}

func (n *nest) exited(key string, code, signal int) func() bool {
	want := fmt.Sprintf("exit %s %d %d <nil>", key, code, signal)
	return func() bool {
		for _, l := range n.lines("exit") {
			if l == want {
				return true
			}
		}
		return false
	}
}

// TestRestart: a killed daemon is back.
func TestRestart(t *testing.T) {
	n := grow(t, nil)
	n.up()
	for _, name := range []string{"front", "helper", "log"} {
		n.check(unix.Kill(n.pid(name, 1), unix.SIGKILL))
		n.wait(name+" back", func() bool { return n.pid(name, 2) > 0 })
	}
	c, err := net.Dial("unix", filepath.Join(n.dir, "front.sock"))
	n.check(err)
	c.Close()
}

// TestBackOff: what dies at once is not started hundreds of times.
func TestBackOff(t *testing.T) {
	n := grow(t, func(c *Config) {
		self, _ := os.Executable()
		c.Processes = append(c.Processes, Process{Name: "crash", Path: self, Args: []string{"fake", "crash", filepath.Join(filepath.Dir(c.Parked), "record")},
			Kind: Always, Log: "/dev/null"})
	})
	n.up()
	started := time.Now()
	n.wait("the crashing part again and again", func() bool { return len(n.lines("crash")) >= 3 })
	time.Sleep(time.Second)
	most := 8 // in 1.5 s; the waits double
	for d := 1500 * time.Millisecond; d < time.Since(started); d += 3200 * time.Millisecond {
		most++
	}
	if k := len(n.lines("crash")); k > most {
		t.Errorf("started %d times in %s", k, time.Since(started))
	}
}

// TestExits: orphans are adopted; their exits are reported, retained until
// forgotten and sent again to a new front end, also if they came before WATCH.
func TestExits(t *testing.T) {
	n := grow(t, nil)
	n.up()
	c := n.dial("helper")
	k := keeper.NewClient(c)
	since := keeper.Now()

	slow := n.orphan(c, "sleep 0.3; exit 7")
	n.check(k.Watch(key(1), slow, since))
	n.wait("the exit of a watched orphan", n.exited(key(1), 7, 0))

	fast := n.orphan(c, "sleep 0.05; exit 3")
	time.Sleep(200 * time.Millisecond)
	n.check(k.Watch(key(2), fast, since))
	n.wait("the exit before WATCH", n.exited(key(2), 3, 0))

	killed := n.orphan(c, "sleep 100")
	n.check(k.Watch(key(3), killed, since))
	unix.Kill(killed, unix.SIGKILL)
	n.wait("the signal", n.exited(key(3), 137, 9))

	n.check(k.Forget(key(1)))
	unix.Kill(n.pid("front", 1), unix.SIGKILL)
	n.wait("the exits again", func() bool {
		n2, n3 := 0, 0
		for _, l := range n.lines("exit") {
			if strings.Contains(l, key(2)) {
				n2++
			}
			if strings.Contains(l, key(3)) {
				n3++
			}
		}
		return n2 == 2 && n3 == 2
	})
	for i, l := range n.lines("exit") {
		if strings.Contains(l, key(1)) && i > 3 {
			t.Error("a forgotten exit was sent again")
		}
	}
}

// TestForeign: a process that is not init's child is watched too.
func TestForeign(t *testing.T) {
	n := grow(t, nil)
	n.up()
	k := keeper.NewClient(n.dial("helper"))
	cmd := exec.Command("/bin/sh", "-c", "sleep 0.2; exit 5")
	n.check(cmd.Start())
	n.check(k.Watch(key(4), cmd.Process.Pid, keeper.Now()))
	time.Sleep(400 * time.Millisecond) // a zombie for a while
	cmd.Wait()
	n.wait("the exit of a foreign process", func() bool {
		return n.exited(key(4), 5, 0)() || n.exited(key(4), 255, 0)()
	})
	if !n.exited(key(4), 5, 0)() {
		t.Log("this kernel does not tell the exit status of another's child (before 6.15)")
	}
	n.check(k.Watch(key(5), 1<<22-3, keeper.Now()))
	n.wait("the exit of nobody", n.exited(key(5), 255, 0))
}

// TestKeep: stored fds survive the death of the log process.
func TestKeep(t *testing.T) {
	n := grow(t, nil)
	n.up()
	k := keeper.NewClient(n.dial("helper"))
	r1, w1, _ := os.Pipe()
	r2, w2, _ := os.Pipe()
	n.check(k.Store(key(1), []byte(`{"op":"add"}`), int(w1.Fd()), int(w1.Fd()), int(w2.Fd())))
	n.check(k.Drop(key(1), 0))
	n.check(k.Replace(key(1), 1, int(w2.Fd())))
	if err := k.Drop(key(1), 3); err == nil {
		t.Error("an index that is not there was dropped")
	}
	w1.Close()
	w2.Close()
	b := make([]byte, 100)
	r1.SetReadDeadline(time.Now().Add(patience))
	if m, err := r1.Read(b); m != 0 || os.IsTimeout(err) {
		t.Errorf("replaced and dropped fds are open still: %d %v", m, err)
	}
	unix.Kill(n.pid("log", 1), unix.SIGKILL)
	n.wait("the set again", func() bool { return n.pid("log", 2) > 0 && len(n.lines("set")) == 1 })
	if l := n.lines("set")[0]; l != fmt.Sprintf(`set %s {"op":"add"} 2`, key(1)) {
		t.Errorf("restored %q", l)
	}
	m, _ := r2.Read(b)
	if string(b[:m]) != "index 1\nindex 2\n" && string(b[:m]) != "index 1\n" {
		t.Errorf("the pipe says %q", b[:m])
	}
	if l := n.lines("log")[1]; !strings.Contains(l, "not allowed") {
		t.Errorf("the log process could forget: %s", l)
	}
	n.check(k.Forget(key(1)))
	unix.Kill(n.pid("log", 2), unix.SIGKILL)
	n.wait("no set", func() bool { return n.pid("log", 3) > 0 })
	if len(n.lines("set")) != 1 {
		t.Error("a forgotten set was restored")
	}
}

// TestDemand: nothing runs before it is needed, and it is started again after it
// left.
func TestDemand(t *testing.T) {
	n := grow(t, nil)
	n.up()
	b := make([]byte, 10)
	var pids []string
	for range 3 {
		c := n.dial("demand")
		m, _, err := c.Recv(b)
		n.check(err)
		pids = append(pids, string(b[:m]))
	}
	if pids[0] == pids[1] || pids[1] == pids[2] {
		t.Errorf("pids %v", pids)
	}
}

// TestPerConnection: one process each, and no more than the maximum.
func TestPerConnection(t *testing.T) {
	n := grow(t, nil)
	n.up()
	b := make([]byte, 10)
	one, two, three := n.dial("once"), n.dial("once"), n.dial("once")
	for _, c := range []*seqpacket.Conn{one, two} {
		_, _, err := c.Recv(b)
		n.check(err)
	}
	three.SetDeadline(time.Now().Add(300 * time.Millisecond))
	if _, _, err := three.Recv(b); err == nil {
		t.Error("a third process was started")
	}
	one.Close()
	three.SetDeadline(time.Now().Add(patience))
	if _, _, err := three.Recv(b); err != nil {
		t.Errorf("the third was not served when the first had left: %v", err)
	}
}

// TestUpgrade: init executes itself again and loses nothing.
func TestUpgrade(t *testing.T) {
	n := grow(t, nil)
	n.up()
	c := n.dial("helper")
	k := keeper.NewClient(c)
	r, w, _ := os.Pipe()
	n.check(k.Store(key(1), nil, int(w.Fd())))
	w.Close()
	since := keeper.Now()
	alive := n.orphan(c, "sleep 1; exit 9")
	n.check(k.Watch(key(1), alive, since))
	gone := n.orphan(c, "sleep 0.05; exit 4")
	n.check(k.Watch(key(2), gone, since))
	unclaimed := n.orphan(c, "sleep 0.05; exit 6")
	front, helper := n.pid("front", 1), n.pid("helper", 1)

	for range 3 {
		n.check(n.cmd.Process.Signal(unix.SIGUSR2))
		time.Sleep(50 * time.Millisecond)
	}
	n.check(k.Watch(key(3), unclaimed, since)) // by the same channel
	n.wait("the exit from before", n.exited(key(3), 6, 0))
	n.wait("the exit after", n.exited(key(1), 9, 0))
	if n.pid("front", 0) != front || n.pid("helper", 0) != helper {
		t.Error("a daemon was restarted")
	}
	unix.Kill(n.pid("log", 1), unix.SIGKILL)
	n.wait("the set", func() bool { return len(n.lines("set")) == 1 })
	b := make([]byte, 100)
	if m, _ := r.Read(b); string(b[:m]) != "index 0\n" {
		t.Errorf("the pipe says %q", b[:m])
	}
	unix.Kill(front, unix.SIGKILL)
	n.wait("the front end back, with the exits", func() bool {
		return n.pid("front", 2) > 0 && strings.Count(strings.Join(n.lines("exit"), "\n"), key(2)) == 2
	})
}

// TestStop: daemons end in reverse order; containers are left with the tree,
// which goes on when it is asked to.
func TestStop(t *testing.T) {
	n := grow(t, nil)
	n.up()
	c := n.dial("helper")
	k := keeper.NewClient(c)
	box := n.orphan(c, "until [ -e "+n.dir+"/go ]; do sleep 0.05; done; exit 8")
	n.check(k.Watch(key(1), box, keeper.Now()-int64(time.Second)))
	n.check(n.cmd.Process.Signal(unix.SIGTERM))
	n.wait("parked", func() bool { _, err := os.Stat(n.cfg.Parked); return err == nil })
	if unix.Kill(n.pid("front", 1), 0) == nil || unix.Kill(n.pid("log", 1), 0) == nil {
		t.Error("a daemon is left")
	}
	n.check(unix.Kill(box, 0))
	n.check(os.WriteFile(n.dir+"/go", nil, 0o600))
	n.check(n.cmd.Process.Signal(unix.SIGUSR2))
	n.wait("up again", func() bool { return n.pid("front", 2) > 0 && n.pid("log", 2) > 0 })
	n.wait("the exit", n.exited(key(1), 8, 0))
	n.check(n.cmd.Process.Signal(unix.SIGTERM))
	n.check(n.cmd.Wait())
}

// TestKillAll: with on_stop = "kill" nothing is left.
func TestKillAll(t *testing.T) {
	n := grow(t, func(c *Config) { c.KillAll = true })
	n.up()
	c := n.dial("helper")
	k := keeper.NewClient(c)
	box := n.orphan(c, "sleep 100")
	n.check(k.Watch(key(1), box, keeper.Now()))
	n.check(n.cmd.Process.Signal(unix.SIGTERM))
	n.check(n.cmd.Wait())
	// A killed process is there until whoever inherited it has reaped it.
	for end := time.Now().Add(30 * time.Second); unix.Kill(box, 0) == nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the container lives")
		}
	}
}

// TestLoad refuses what is not root's or not known.
func TestLoad(t *testing.T) {
	dir := t.TempDir()
	good := `{"Processes":[{"Name":"a","Path":"/a","Kind":"always"}]}`
	for name, tt := range map[string]struct {
		text string
		mode os.FileMode
		ok   bool
	}{
		"good": {good, 0o600, true}, "writable": {good, 0o622, false}, "empty": {`{}`, 0o600, false},
		"unknown": {`{"Extra":1}`, 0o600, false}, "kind": {`{"Processes":[{"Name":"a","Path":"/a","Kind":"b"}]}`, 0o600, false},
		"relative": {`{"Processes":[{"Name":"a","Path":"a","Kind":"always"}]}`, 0o600, false},
	} {
		path := filepath.Join(dir, name)
		os.WriteFile(path, []byte(tt.text), tt.mode)
		os.Chmod(path, tt.mode)
		if _, err := Load(path); (err == nil) != tt.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The exits of execs are kept until nobody can still ask for them, and no longer
// than there is room: what thousands of probes leave must not make init grow.
func TestExitsAreBounded(t *testing.T) {
	tree := &Tree{exits: map[string]message.Exit{}, kept: map[string]*set{"ctr": {}}}
	tree.record("ctr", 0)
	for i := range 3 * maxExits {
		tree.record(fmt.Sprint("exec-", i), 0)
	}
	if n := len(tree.exits); n > maxExits+2 {
		t.Errorf("%d exits are kept, at most %d are to be", n, maxExits)
	}
	for _, key := range []string{"ctr", fmt.Sprint("exec-", 3*maxExits-1)} {
		if _, ok := tree.exits[key]; !ok {
			t.Errorf("the exit of %s was lost", key)
		}
	}
}
