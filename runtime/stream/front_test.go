package stream

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/websocket"
	"golang.org/x/sys/unix"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"github.com/postern-cri/postern/privsep/seqpacket"
	"github.com/postern-cri/postern/runtime/ipc"
)

// front plays the front end: it runs shell commands for grants.
type front struct {
	t       testing.TB
	server  *Server
	control string
	uid     int // who the control socket is for, where that is not us
	served  chan error
	mu      sync.Mutex
	gone    map[string]chan struct{} // closed when a grant's connection ends
	port    atomic.Int32             // what every port-forward leads to
}

func newFront(t testing.TB, idle time.Duration) *front {
	t.Helper()
	dir := t.TempDir()
	f := &front{t: t, control: filepath.Join(dir, "stream"), served: make(chan error, 1), gone: map[string]chan struct{}{}}
	listen := func(path string) *seqpacket.Listener {
		fd, err := seqpacket.Listen(path)
		if err != nil {
			t.Fatal(err)
		}
		l, err := seqpacket.NewListener(fd)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l
	}
	f.serveGrants(listen(filepath.Join(dir, "grant")))
	clients, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.server, err = New(Options{Control: listen(f.control), Clients: clients, Grants: filepath.Join(dir, "grant"), Idle: idle,
		Peer: func(c *unix.Ucred) bool { return int(c.Uid) == os.Getuid() }, Printf: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	go func() { f.served <- f.server.Serve() }()
	return f
}

func (f *front) serveGrants(l *seqpacket.Listener) {
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go f.redeem(ipc.New(c))
		}
	}()
}

// redeem serves one grant, whose text says what it is: "<kind> <shell command>".
func (f *front) redeem(c *ipc.Conn) {
	defer c.Close()
	var r redeemRequest
	if _, err := c.Recv(&r, 0); err != nil {
		return
	}
	gone := make(chan struct{})
	f.mu.Lock()
	f.gone[r.Grant] = gone
	f.mu.Unlock()
	defer close(gone)
	if r.Port != 0 {
		f.forward(c, r)
		return
	}
	script, tty := strings.CutPrefix(r.Grant, "tty ")
	if script == "refuse" {
		c.Send(redeemAnswer{Error: "policy says no"})
		return
	}
	cmd := exec.Command("/bin/sh", "-c", script)
	var names []string
	var give []*os.File
	var mine []*os.File
	if tty {
		master, slave := terminal(f.t)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
		cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
		names, give, mine = []string{"pty"}, []*os.File{master}, []*os.File{slave}
	} else {
		r0, w0, _ := os.Pipe()
		r1, w1, _ := os.Pipe()
		r2, w2, _ := os.Pipe()
		cmd.Stdin, cmd.Stdout, cmd.Stderr = r0, w1, w2
		names, give, mine = []string{"stdin", "stdout", "stderr"}, []*os.File{w0, r1, r2}, []*os.File{r0, w1, w2}
	}
	if err := cmd.Start(); err != nil {
		c.Send(redeemAnswer{Error: err.Error()})
		return
	}
	var fds []int
	for _, g := range give {
		fds = append(fds, int(g.Fd()))
	}
	c.Send(redeemAnswer{OK: true, Names: names}, fds...)
	for _, g := range append(give, mine...) {
		g.Close()
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		cmd.Wait()
		var m exitMessage
		m.Exit.Code = int32(cmd.ProcessState.ExitCode())
		c.Send(m)
	}()
	var nothing redeemRequest
	c.Recv(&nothing, 0)
	cmd.Process.Kill()
	<-ended
}

func (f *front) forward(c *ipc.Conn, r redeemRequest) {
	for {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", f.port.Load()))
		if err != nil || r.Port != 8080 {
			c.Send(redeemAnswer{Error: "connection refused"})
		} else {
			file, _ := conn.(*net.TCPConn).File()
			c.Send(redeemAnswer{OK: true, Names: []string{"conn"}}, int(file.Fd()))
			file.Close()
			conn.Close()
		}
		r = redeemRequest{}
		if _, err := c.Recv(&r, 0); err != nil {
			return
		}
	}
}

func terminal(t testing.TB) (master, slave *os.File) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	n, _ := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), "ptmx"), slave
}

// dial connects to the control socket, as uid if there is one.
func (f *front) dial() *ipc.Conn {
	f.t.Helper()
	if f.uid != 0 { // of this thread alone, which is thrown away
		runtime.LockOSThread()
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(f.uid), ^uintptr(0)); e != 0 {
			f.t.Fatal(e)
		}
		defer func() {
			unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 0, ^uintptr(0))
			runtime.UnlockOSThread()
		}()
	}
	c, err := ipc.Dial(f.control)
	if err != nil {
		f.t.Fatal(err)
	}
	return c
}

// mint gets a URL.
func (f *front) mint(r mintRequest) string {
	f.t.Helper()
	r.Op = "mint"
	c := f.dial()
	defer c.Close()
	var a mintAnswer
	if _, err := c.Call(time.Minute, r, &a, 0); err != nil || !a.OK {
		f.t.Fatalf("mint: %+v, %v", a, err)
	}
	return a.URL
}

func (f *front) waitGone(grant string) {
	f.t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		f.mu.Lock()
		gone := f.gone[grant]
		f.mu.Unlock()
		if gone == nil {
			continue
		}
		select {
		case <-gone:
			return
		case <-time.After(time.Until(end)):
		}
	}
	f.t.Fatal("the front end was not told that the client has gone")
}

// spdyConn connects as kubectl and the kubelet do.
func (f *front) spdyConn(url, protocol string) httpstream.Connection {
	f.t.Helper()
	rt, err := spdy.NewRoundTripper(nil)
	if err != nil {
		f.t.Fatal(err)
	}
	req, _ := http.NewRequest("POST", url, nil)
	req.Header.Set(httpstream.HeaderProtocolVersion, protocol)
	resp, err := (&http.Client{Transport: rt}).Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	conn, err := rt.NewConnection(resp)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { conn.Close() })
	return conn
}

// spdySession opens the streams of exec or attach.
func (f *front) spdySession(r mintRequest) (httpstream.Connection, map[string]httpstream.Stream) {
	f.t.Helper()
	conn := f.spdyConn(f.mint(r), "v4.channel.k8s.io")
	streams := map[string]httpstream.Stream{}
	for name, on := range map[string]bool{"error": true, "stdin": r.Stdin, "stdout": r.Stdout, "stderr": r.Stderr, "resize": r.TTY} {
		if !on {
			continue
		}
		s, err := conn.CreateStream(http.Header{"Streamtype": {name}})
		if err != nil {
			f.t.Fatal(err)
		}
		streams[name] = s
	}
	return conn, streams
}

// status reads the frame that tells how a session ended.
func status(t testing.TB, r io.Reader) (message string, exitCode string) {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	var s apiStatus
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatalf("status %q: %v", b, err)
	}
	if s.Status == "Success" {
		return "", "0"
	}
	if s.Details != nil && len(s.Details.Causes) > 0 {
		exitCode = s.Details.Causes[0].Message
	}
	return s.Message, exitCode
}

// ws dials a WebSocket.
func (f *front) ws(url, protocol string) *websocket.Conn {
	f.t.Helper()
	config, err := websocket.NewConfig("ws"+url[len("http"):], "http://localhost")
	if err != nil {
		f.t.Fatal(err)
	}
	config.Protocol = []string{protocol}
	conn, err := websocket.DialConfig(config)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { conn.Close() })
	return conn
}

// tunnelConn is SPDY inside of a WebSocket.
func (f *front) tunnelConn(url string) httpstream.Connection {
	f.t.Helper()
	ws := f.ws(url, "SPDY/3.1+portforward.k8s.io")
	ws.PayloadType = websocket.BinaryFrame
	conn, err := spdy.NewClientConnection(ws)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { conn.Close() })
	return conn
}

// wsRead collects channels until the connection ends or until has it.
func wsRead(t testing.TB, conn *websocket.Conn, until func(map[byte]string) bool) map[byte]string {
	t.Helper()
	got := map[byte]string{}
	conn.SetReadDeadline(time.Now().Add(time.Minute))
	for !until(got) {
		var b []byte
		if err := websocket.Message.Receive(conn, &b); err != nil {
			if err != io.EOF {
				t.Fatalf("%v, after %v", err, got)
			}
			break
		}
		if len(b) > 0 {
			got[b[0]] += string(b[1:])
		}
	}
	return got
}
