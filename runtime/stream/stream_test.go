package stream

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/websocket"
	"k8s.io/streaming/pkg/httpstream"
)

func TestExec(t *testing.T) {
	f := newFront(t, time.Hour)
	for _, tc := range []struct{ script, stdin, stdout, stderr, code, message string }{
		{"cat; echo problem >&2", "typed", "typed", "problem\n", "0", ""},
		{"echo half; exit 7", "", "half\n", "", "7", "command terminated"},
		{"kill -9 $$", "", "", "", "-1", ""},
		{"refuse", "", "", "", "", "policy says no"},
		{"sleep 30 & echo parent has gone", "", "parent has gone\n", "", "0", ""},
	} {
		start := time.Now()
		_, s := f.spdySession(mintRequest{Kind: kindExec, Grant: tc.script, Stdin: true, Stdout: true, Stderr: true})
		io.WriteString(s["stdin"], tc.stdin)
		s["stdin"].Close()
		errOut := make(chan []byte)
		go func() {
			b, _ := io.ReadAll(s["stderr"])
			errOut <- b
		}()
		out, _ := io.ReadAll(s["stdout"])
		message, code := status(t, s["error"])
		if b := <-errOut; string(out) != tc.stdout || string(b) != tc.stderr || code != tc.code || !strings.Contains(message, tc.message) {
			t.Errorf("%q: stdout %q, stderr %q, code %q, message %q", tc.script, out, b, code, message)
		}
		if time.Since(start) > 25*time.Second { // before the sleep ends
			t.Errorf("%q took %v", tc.script, time.Since(start))
		}
	}
}

// TestLargeAndSlow: nothing is lost to a client that reads late.
func TestLargeAndSlow(t *testing.T) {
	f := newFront(t, time.Hour)
	_, s := f.spdySession(mintRequest{Kind: kindExec, Grant: "cat", Stdin: true, Stdout: true})
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	go func() {
		io.Copy(s["stdin"], io.LimitReader(bytes.NewReader(data), int64(len(data)))) // in pieces: a frame has its limit
		s["stdin"].Close()
	}()
	time.Sleep(300 * time.Millisecond)
	got, err := io.ReadAll(s["stdout"])
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes of %d, %v", len(got), len(data), err)
	}
	if _, code := status(t, s["error"]); code != "0" {
		t.Error(code)
	}
}

func TestTerminal(t *testing.T) {
	f := newFront(t, time.Hour)
	_, s := f.spdySession(mintRequest{Kind: kindExec, Grant: "tty read x; until [ \"$(stty size)\" = '43 132' ]; do sleep 0.01; done; stty size; exit 3", TTY: true, Stdin: true, Stdout: true})
	json.NewEncoder(s["resize"]).Encode(map[string]int{"Width": 132, "Height": 43})
	io.WriteString(s["stdin"], "go\n")
	out, _ := io.ReadAll(s["stdout"])
	_, code := status(t, s["error"])
	if !strings.Contains(string(out), "43 132") || code != "3" {
		t.Errorf("%q, %q", out, code)
	}
}

// TestClientGoes: the front end is told, even where nothing flows.
func TestClientGoes(t *testing.T) {
	f := newFront(t, time.Hour)
	for _, grant := range []string{"sleep 1000", "tty sleep 1001"} {
		conn, _ := f.spdySession(mintRequest{Kind: kindExec, Grant: grant, TTY: grant[:3] == "tty", Stdout: true})
		time.Sleep(50 * time.Millisecond)
		conn.Close()
		f.waitGone(grant)
	}
	ws := f.ws(f.mint(mintRequest{Kind: kindExec, Grant: "sleep 1002", Stdout: true}), "v5.channel.k8s.io")
	time.Sleep(50 * time.Millisecond)
	ws.Close()
	f.waitGone("sleep 1002")
}

func TestWebSocket(t *testing.T) {
	f := newFront(t, time.Hour)
	script := "head -c 5; echo problem >&2; exit 4"
	for _, protocol := range []string{"v4.channel.k8s.io", "v5.channel.k8s.io"} {
		conn := f.ws(f.mint(mintRequest{Kind: kindExec, Grant: script, Stdin: true, Stdout: true, Stderr: true}), protocol)
		websocket.Message.Send(conn, []byte("\x00typed"))
		got := wsRead(t, conn, func(map[byte]string) bool { return false })
		_, code := status(t, strings.NewReader(got[3]))
		if got[1] != "typed" || got[2] != "problem\n" || code != "4" {
			t.Errorf("%s: %q", protocol, got)
		}
	}
}

// TestWebSocketHalfClose: version 5 can end stdin.
func TestWebSocketHalfClose(t *testing.T) {
	f := newFront(t, time.Hour)
	conn := f.ws(f.mint(mintRequest{Kind: kindExec, Grant: "wc -c", Stdin: true, Stdout: true}), "v5.channel.k8s.io")
	websocket.Message.Send(conn, []byte("\x00twelve bytes"))
	websocket.Message.Send(conn, []byte{255, 0})
	got := wsRead(t, conn, func(map[byte]string) bool { return false })
	if strings.TrimSpace(got[1]) != "12" {
		t.Errorf("%q", got)
	}
}

func TestAttach(t *testing.T) {
	f := newFront(t, time.Hour)
	_, s := f.spdySession(mintRequest{Kind: kindAttach, Grant: "read x; echo got $x", Stdin: true, Stdout: true})
	io.WriteString(s["stdin"], "it\n")
	out, _ := io.ReadAll(s["stdout"])
	if _, code := status(t, s["error"]); string(out) != "got it\n" || code != "0" {
		t.Errorf("%q, %s", out, code)
	}
}

// TestTokens: a token serves once, for its kind, and no other string serves.
func TestTokens(t *testing.T) {
	f := newFront(t, time.Hour)
	get := func(url string) int {
		resp, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp.StatusCode
	}
	url := f.mint(mintRequest{Kind: kindExec, Grant: "true", Stdout: true})
	for _, bad := range []string{"/", "/exec/", "/exec/x", "/metrics", strings.Replace(url, "exec", "attach", 1)[len(f.server.base):]} {
		if code := get(f.server.base + bad); code != http.StatusNotFound {
			t.Errorf("%s: %d", bad, code)
		}
	}
	f.server.sessions.mu.Lock()
	for _, n := range f.server.sessions.waiting {
		if n.path != "" && strings.Contains(url, n.path) {
			t.Error("the library's token is in the URL")
		}
		if code := n.path; code == "" {
			t.Error("no path")
		}
	}
	f.server.sessions.mu.Unlock()
	if code := get(url); code == http.StatusNotFound {
		t.Errorf("its own: %d", code) // no upgrade: a bad request
	}
	if code := get(url); code != http.StatusNotFound {
		t.Errorf("a second time: %d", code)
	}
	url = f.mint(mintRequest{Kind: kindExec, Grant: "true", Stdout: true})
	f.server.sessions.mu.Lock()
	for _, n := range f.server.sessions.waiting {
		n.expires = time.Now().Add(-time.Second)
	}
	f.server.sessions.mu.Unlock()
	if code := get(url); code != http.StatusNotFound {
		t.Errorf("expired: %d", code)
	}
}

// TestLeavesWhenIdle: not while a URL waits, and soon after.
func TestLeavesWhenIdle(t *testing.T) {
	f := newFront(t, 100*time.Millisecond)
	f.mint(mintRequest{Kind: kindExec, Grant: "true", Stdout: true})
	select {
	case err := <-f.served:
		t.Fatalf("left with a URL out: %v", err)
	case <-time.After(2500 * time.Millisecond):
	}
	f.server.sessions.mu.Lock()
	clear(f.server.sessions.waiting)
	f.server.sessions.mu.Unlock()
	select {
	case err := <-f.served:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("did not leave")
	}
}

// listen is the pod's port: serve gets each connection, which is closed after it.
func (f *front) listen(t *testing.T, serve func(net.Conn)) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	f.port.Store(int32(l.Addr().(*net.TCPAddr).Port))
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}()
}

// TestPortForward: both directions, each half closed by itself, several at once.
func TestPortForward(t *testing.T) {
	f := newFront(t, time.Hour)
	f.listen(t, func(c net.Conn) { // answers only after the client's half has ended
		b, _ := io.ReadAll(c)
		fmt.Fprintf(c, "%d bytes", len(b))
	})
	for _, dial := range []func(url string) httpstream.Connection{
		func(url string) httpstream.Connection { return f.spdyConn(url, "portforward.k8s.io") },
		f.tunnelConn,
	} {
		testForward(t, f, dial(f.mint(mintRequest{Kind: kindForward, Grant: "forward"})))
	}
}

func testForward(t *testing.T, f *front, conn httpstream.Connection) {
	open := func(id int, port string) (data io.ReadWriteCloser, errors io.Reader) {
		h := http.Header{"Port": {port}, "Requestid": {fmt.Sprint(id)}, "Streamtype": {"error"}}
		es, err := conn.CreateStream(h)
		if err != nil {
			t.Fatal(err)
		}
		es.Close()
		h.Set("Streamtype", "data")
		ds, err := conn.CreateStream(h)
		if err != nil && port == "8080" { // the library may reset a refused one before it answers
			t.Fatal(err)
		}
		return ds, es
	}
	for i := range 3 {
		data, errs := open(i, "8080")
		size := 100 << (10 * i / 2)
		data.Write(bytes.Repeat([]byte("x"), size))
		data.Close()
		got, err := io.ReadAll(data)
		if string(got) != fmt.Sprintf("%d bytes", size) {
			t.Errorf("%q, %v", got, err)
		}
		if e, _ := io.ReadAll(errs); len(e) > 0 {
			t.Errorf("%s", e)
		}
	}
	_, errs := open(9, "81")
	if e, _ := io.ReadAll(errs); !strings.Contains(string(e), "connection refused") {
		t.Errorf("%q", e)
	}
	conn.Close()
	f.waitGone("forward")
}

func BenchmarkExecOutput(b *testing.B) {
	f := newFront(b, time.Hour)
	_, s := f.spdySession(mintRequest{Kind: kindExec, Grant: "cat /dev/zero", Stdout: true})
	buf := make([]byte, 32<<10)
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		if _, err := io.ReadFull(s["stdout"], buf); err != nil {
			b.Fatal(err)
		}
	}
}
