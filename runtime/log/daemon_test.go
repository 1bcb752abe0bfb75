package logd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/keeper/message"
	"github.com/postern-cri/postern/privsep/layout"
	"github.com/postern-cri/postern/privsep/seqpacket"
	"github.com/postern-cri/postern/runtime/ipc"
)

// TestMain is also the daemon that tests kill.
func TestMain(m *testing.M) {
	if os.Getenv("LOGD_TEST_SERVE") != "" {
		uid := uint32(os.Getuid())
		if err := Serve(layout.Users{Front: layout.ID{UID: uid}}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// keep plays init: it holds duplicates of every fd and hands them to each new
// daemon.
type keep struct {
	t        testing.TB
	listener int
	path     string
	mu       sync.Mutex
	sets     map[string]*kept
	cmd      *exec.Cmd
	restore  *seqpacket.Conn
	binary   []string // in place of the test itself
}

type kept struct {
	meta []byte
	fds  []int // -1 once dropped
}

func newKeep(t testing.TB, binary ...string) *keep {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: the daemon takes containers from root alone")
	}
	k := &keep{t: t, path: filepath.Join(t.TempDir(), "log"), sets: map[string]*kept{}, binary: binary}
	var err error
	if k.listener, err = seqpacket.Listen(k.path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		k.kill()
		unix.Close(k.listener)
		for _, s := range k.sets {
			seqpacket.CloseAll(s.fds)
		}
	})
	k.start()
	return k
}

// start starts a daemon and gives it what is kept.
func (k *keep) start() {
	k.t.Helper()
	a, b, err := seqpacket.Pair()
	if err != nil {
		k.t.Fatal(err)
	}
	ln, _ := unix.FcntlInt(uintptr(k.listener), unix.F_DUPFD_CLOEXEC, 3)
	lf, rf := os.NewFile(uintptr(ln), "listener"), os.NewFile(uintptr(b), "restore")
	cmd := exec.Command("/proc/self/exe")
	if len(k.binary) > 0 {
		cmd = exec.Command(k.binary[0], k.binary[1:]...)
	}
	cmd.Env = []string{"LOGD_TEST_SERVE=1", "GOMAXPROCS=1", "GOCOVERDIR=" + os.TempDir()}
	cmd.ExtraFiles = []*os.File{lf, rf}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	lf.Close()
	rf.Close()
	conn, err := seqpacket.NewConn(a)
	if err != nil {
		k.t.Fatal(err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cmd, k.restore = cmd, conn
	for key, s := range k.sets {
		var fds []int
		var index []byte
		for i, fd := range s.fds {
			if fd >= 0 {
				fds, index = append(fds, fd), append(index, byte(i))
			}
		}
		b, err := message.EncodeSet(key, s.meta, index)
		if err == nil {
			err = conn.Send(b, fds...)
		}
		if err != nil {
			k.t.Fatal(err)
		}
	}
	end, _ := message.Request{Op: message.End}.Encode()
	if err := conn.Send(end); err != nil {
		k.t.Fatal(err)
	}
	go k.drops(conn)
}

// drops serves DROP.
func (k *keep) drops(conn *seqpacket.Conn) {
	buf := make([]byte, message.MaxRequest)
	for {
		n, _, err := conn.Recv(buf)
		if err != nil {
			return
		}
		r, err := message.Decode(buf[:n])
		status := message.Forbidden
		if err == nil && r.Op == message.Drop {
			k.mu.Lock()
			if s := k.sets[r.Key]; s != nil && s.fds[r.Index] >= 0 {
				unix.Close(s.fds[r.Index])
				s.fds[r.Index] = -1
				status = message.OK
			}
			k.mu.Unlock()
		}
		conn.Send([]byte{byte(status)})
	}
}

// kill is the end of the daemon.
func (k *keep) kill() {
	k.cmd.Process.Kill()
	k.cmd.Wait()
	k.restore.Close()
}

func (k *keep) call(req any, fds ...int) (Answer, []int) {
	k.t.Helper()
	c, err := ipc.Dial(k.path)
	if err != nil {
		k.t.Fatal(err)
	}
	defer c.Close()
	var a Answer
	got, err := c.Call(time.Minute, req, &a, 8, fds...)
	if err != nil {
		k.t.Fatal(err)
	}
	return a, got
}

// box is a container as the tests see it.
type box struct {
	id             string
	stdout, stderr *os.File // what the container writes to
	stdin          *os.File // what it reads
	pty            *os.File // its terminal
	logPath        string
}

func file(fd int) *os.File { return os.NewFile(uintptr(fd), "pipe") }

func pipe(t testing.TB) (r, w int) {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	return p[0], p[1]
}

// add makes a container and hands it over, as the helper does.
func (k *keep) add(n int, tty, stdin, once bool, logPath string) *box {
	k.t.Helper()
	b := &box{id: fmt.Sprintf("%064x", n), logPath: logPath}
	a := Announcement{Op: "add", ID: b.id, TTY: tty, Stdin: stdin, StdinOnce: once}
	var fds []int
	give := func(name string, fd int) { a.Names, fds = append(a.Names, name), append(fds, fd) }
	if tty {
		master, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		if err != nil {
			k.t.Skip("needs /dev/ptmx: " + err.Error())
		}
		unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0)
		nr, err := unix.IoctlGetInt(master, unix.TIOCGPTN)
		if err != nil {
			k.t.Fatal(err)
		}
		if b.pty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", nr), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
			k.t.Fatal(err)
		}
		give(NamePTY, master)
	} else {
		r, w := pipe(k.t)
		b.stdout = file(w)
		give(NameStdout, r)
		r, w = pipe(k.t)
		b.stderr = file(w)
		give(NameStderr, r)
		if stdin {
			r, w = pipe(k.t)
			b.stdin = file(r)
			give(NameStdin, w)
		}
	}
	if logPath != "" {
		give(NameLog, openLog(k.t, logPath))
		r, w := pipe(k.t)
		give(NameOutR, r)
		give(NameOutW, w)
		r, w = pipe(k.t)
		give(NameErrR, r)
		give(NameErrW, w)
		state, err := unix.MemfdCreate("state", unix.MFD_CLOEXEC)
		if err != nil {
			k.t.Fatal(err)
		}
		unix.Ftruncate(state, stateSize)
		give(NameState, state)
	}
	meta, _ := json.Marshal(a)
	k.mu.Lock()
	k.sets[b.id] = &kept{meta, fds}
	k.mu.Unlock()
	if ans, _ := k.call(json.RawMessage(meta), fds...); !ans.OK {
		k.t.Fatalf("add: %s", ans.Error)
	}
	return b
}

func openLog(t testing.TB, path string) int {
	t.Helper()
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// remove has the daemon drain and forget a container.
func (k *keep) remove(b *box) {
	k.t.Helper()
	if ans, _ := k.call(map[string]string{"op": "remove", "id": b.id}); !ans.OK {
		k.t.Fatalf("remove: %s", ans.Error)
	}
	k.mu.Lock()
	seqpacket.CloseAll(k.sets[b.id].fds)
	delete(k.sets, b.id)
	k.mu.Unlock()
}

// logged returns the lines of each stream, joined where they were split.
func logged(t *testing.T, paths ...string) (lines [2][]string) {
	t.Helper()
	var open [2]strings.Builder
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range bytes.SplitAfter(data, []byte("\n")) {
			if len(line) == 0 {
				continue
			}
			r, err := Parse(line)
			if err != nil || line[len(line)-1] != '\n' {
				t.Fatalf("%s: %v: %.100q", path, err, line)
			}
			open[r.Stream].Write(r.Content)
			if !r.Partial {
				lines[r.Stream] = append(lines[r.Stream], open[r.Stream].String())
				open[r.Stream].Reset()
			}
		}
	}
	for i := range open {
		if open[i].Len() > 0 {
			lines[i] = append(lines[i], open[i].String())
		}
	}
	return lines
}

// eventually waits for f.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatalf("in vain waited for %s", what)
}
