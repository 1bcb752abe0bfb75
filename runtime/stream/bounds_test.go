package stream

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/websocket"
	"k8s.io/streaming/pkg/httpstream"
)

// heap is what is in use after a collection.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse)
}

// settled waits until n stops to grow.
func settled(n *atomic.Int64) int64 {
	for last := int64(-1); ; {
		now := n.Load()
		if now == last {
			return now
		}
		last = now
		time.Sleep(time.Second)
	}
}

// quiet waits until there are no more goroutines than before.
func quiet(t *testing.T, before int) {
	t.Helper()
	for end := time.Now().Add(time.Minute); runtime.NumGoroutine() > before; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			b := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before\n%s", runtime.NumGoroutine(), before, b[:runtime.Stack(b, true)])
		}
	}
}

// TestClientDoesNotRead: output that the client does not read waits where it is
// made, not in this process.
func TestClientDoesNotRead(t *testing.T) {
	f := newFront(t, time.Hour)
	before, had := runtime.NumGoroutine(), heap()
	var closers []io.Closer
	for k := range 8 {
		grant := fmt.Sprintf("head -c 1073741824 /dev/zero # %d", k)
		if k%2 == 0 {
			conn, _ := f.spdySession(mintRequest{Kind: kindExec, Grant: grant, Stdout: true})
			// The client's own library reads all that comes: it is stopped by its connection.
			closers = append(closers, conn)
			continue
		}
		ws := f.ws(f.mint(mintRequest{Kind: kindExec, Grant: grant, Stdout: true}), "v5.channel.k8s.io")
		closers = append(closers, ws)
	}
	time.Sleep(2 * time.Second)
	if grown := heap() - had; grown > 64<<20 {
		t.Errorf("%d MiB for eight clients that do not read", grown>>20)
	}
	for _, c := range closers {
		c.Close()
	}
	for k := range 8 {
		f.waitGone(fmt.Sprintf("head -c 1073741824 /dev/zero # %d", k))
	}
	quiet(t, before+2) // those of the server itself may just have begun
}

// TestCommandDoesNotRead: input that the command does not read holds the client
// up; the session lives.
func TestCommandDoesNotRead(t *testing.T) {
	f := newFront(t, time.Hour)
	had := heap()
	enough := filepath.Join(t.TempDir(), "enough")
	script := "until [ -e " + enough + " ]; do sleep 0.1; done # "
	var writers sync.WaitGroup
	for name, write := range map[string]func(b []byte) error{
		"SPDY": func() func([]byte) error {
			_, s := f.spdySession(mintRequest{Kind: kindExec, Grant: script + "1", Stdin: true, Stdout: true})
			return func(b []byte) error { _, err := s["stdin"].Write(b); return err }
		}(),
		"WebSocket": func() func([]byte) error {
			ws := f.ws(f.mint(mintRequest{Kind: kindExec, Grant: script + "2", Stdin: true, Stdout: true}), "v5.channel.k8s.io")
			return func(b []byte) error { return websocket.Message.Send(ws, append([]byte{0}, b...)) }
		}(),
	} {
		var sent atomic.Int64
		failed := make(chan error, 1)
		writers.Go(func() {
			b := make([]byte, 32<<10)
			for sent.Load() < 256<<20 {
				if err := write(b); err != nil {
					failed <- err
					return
				}
				sent.Add(int64(len(b)))
			}
		})
		if n := settled(&sent); n > 64<<20 {
			t.Errorf("%s: %d MiB were taken from the client", name, n>>20)
		}
		select {
		case err := <-failed:
			t.Errorf("%s: %v", name, err)
		default:
		}
	}
	if grown := heap() - had; grown > 64<<20 {
		t.Errorf("%d MiB for two commands that do not read", grown>>20)
	}
	// The commands end, and with them the writers.
	if err := os.WriteFile(enough, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	writers.Wait()
}

// TestResizeFlood: any number of sizes, and none that has no end.
func TestResizeFlood(t *testing.T) {
	f := newFront(t, time.Hour)
	script := "tty until [ \"$(stty size)\" = '43 132' ]; do sleep 0.01; done; echo done"
	_, s := f.spdySession(mintRequest{Kind: kindExec, Grant: script, TTY: true, Stdout: true})
	ws := f.ws(f.mint(mintRequest{Kind: kindExec, Grant: script + " ", TTY: true, Stdout: true}), "v5.channel.k8s.io")
	go func() {
		for k := range 20000 {
			b, _ := json.Marshal(map[string]int{"Width": 1 + k%100, "Height": 1 + k%50})
			s["resize"].Write(b)
			websocket.Message.Send(ws, append([]byte{channelResize}, b...))
		}
		last := []byte(`{"Width":132,"Height":43}`)
		s["resize"].Write(last)
		websocket.Message.Send(ws, append([]byte{channelResize}, last...))
	}()
	if out, _ := io.ReadAll(s["stdout"]); !strings.Contains(string(out), "done") {
		t.Errorf("SPDY: %q", out)
	}
	if got := wsRead(t, ws, func(map[byte]string) bool { return false }); !strings.Contains(got[1], "done") {
		t.Errorf("WebSocket: %q", got)
	}

	had := heap()
	digits := bytes.Repeat([]byte("1"), 32<<10)
	_, s = f.spdySession(mintRequest{Kind: kindExec, Grant: "tty sleep 1005", TTY: true, Stdout: true})
	s["resize"].Write([]byte(`{"Width":`))
	ws = f.ws(f.mint(mintRequest{Kind: kindExec, Grant: "tty sleep 1006", TTY: true, Stdout: true}), "v5.channel.k8s.io")
	websocket.Message.Send(ws, append([]byte{channelResize}, `{"Width":`...))
	four := f.ws(f.mint(mintRequest{Kind: kindExec, Grant: "tty sleep 1007", TTY: true, Stdout: true}), "v4.channel.k8s.io")
	huge := f.ws(f.mint(mintRequest{Kind: kindExec, Grant: "sleep 1008", Stdin: true, Stdout: true}), "v5.channel.k8s.io")
	for name, send := range map[string]func() error{
		"SPDY":           func() error { _, err := s["resize"].Write(digits); return err },
		"WebSocket 5":    func() error { return websocket.Message.Send(ws, append([]byte{channelResize}, digits...)) },
		"WebSocket 4":    func() error { return websocket.Message.Send(four, append([]byte{channelResize}, digits...)) },
		"a huge message": func() error { return websocket.Message.Send(huge, make([]byte, 31<<20)) },
	} {
		sent := 0
		for ; sent < 64<<20; sent += len(digits) {
			if err := send(); err != nil {
				break
			}
		}
		if sent >= 64<<20 {
			t.Errorf("%s: %d MiB were taken", name, sent>>20)
		}
	}
	for _, g := range []string{"tty sleep 1005", "tty sleep 1006", "tty sleep 1007", "sleep 1008"} {
		f.waitGone(g)
	}
	if grown := heap() - had; grown > 128<<20 {
		t.Errorf("%d MiB for sizes without end", grown>>20)
	}
}

// TestRefusedSessions: what is refused leaves nothing, nor do clients that come
// and go.
func TestRefusedSessions(t *testing.T) {
	f := newFront(t, time.Hour)
	round := func() {
		_, s := f.spdySession(mintRequest{Kind: kindExec, Grant: "refuse", Stdout: true})
		if m, _ := status(t, s["error"]); !strings.Contains(m, "policy says no") {
			t.Errorf("%q", m)
		}
		ws := f.ws(f.mint(mintRequest{Kind: kindExec, Grant: "refuse", Stdout: true}), "v5.channel.k8s.io")
		if got := wsRead(t, ws, func(map[byte]string) bool { return false }); !strings.Contains(got[3], "policy says no") {
			t.Errorf("%q", got)
		}
		ws.Close()
		c, err := net.Dial("tcp", strings.TrimPrefix(f.server.base, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	round()
	before := runtime.NumGoroutine()
	for range 300 {
		round()
	}
	// The connections of the test itself end with it.
	quiet(t, before+20)
	left := func() int {
		f.server.sessions.mu.Lock()
		defer f.server.sessions.mu.Unlock()
		return len(f.server.sessions.active) + len(f.server.sessions.waiting)
	}
	for end := time.Now().Add(time.Minute); left() > 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d sessions are left", left())
		}
	}
}

// TestLargeForward: much, both ways at a time, through both protocols, to a pod
// that reads late.
func TestLargeForward(t *testing.T) {
	f := newFront(t, time.Hour)
	f.listen(t, func(c net.Conn) {
		time.Sleep(200 * time.Millisecond)
		io.Copy(c, c)
	})
	data := bytes.Repeat([]byte("0123456789abcdef"), 4<<20)
	for _, dial := range []func(url string) httpstream.Connection{
		func(url string) httpstream.Connection { return f.spdyConn(url, "portforward.k8s.io") },
		f.tunnelConn,
	} {
		conn := dial(f.mint(mintRequest{Kind: kindForward, Grant: "forward"}))
		h := map[string][]string{"Port": {"8080"}, "Requestid": {"1"}, "Streamtype": {"error"}}
		if _, err := conn.CreateStream(h); err != nil {
			t.Fatal(err)
		}
		h["Streamtype"] = []string{"data"}
		s, err := conn.CreateStream(h)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			io.Copy(s, struct{ io.Reader }{bytes.NewReader(data)})
			s.Close()
		}()
		got, err := io.ReadAll(s)
		if !bytes.Equal(got, data) {
			t.Errorf("%d bytes of %d came back, %v", len(got), len(data), err)
		}
		conn.Close()
	}
}

// TestHostileSPDY: frames that announce more than they have (CVE-2026-35469).
func TestHostileSPDY(t *testing.T) {
	f := newFront(t, time.Hour)
	had := heap()
	for name, frame := range map[string][]byte{
		"settings":  {0x80, 3, 0, 4, 0, 0xff, 0xff, 0xff, 0x00, 0xff, 0xff, 0xff},
		"headers":   {0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff},
		"data":      {0, 0, 0, 1, 0, 0xff, 0xff, 0xff},
		"no frame":  bytes.Repeat([]byte{0xff}, 64),
		"version 2": {0x80, 2, 0, 1, 0, 0, 0, 10},
	} {
		grant := "sleep 1009 # " + name
		url := f.mint(mintRequest{Kind: kindExec, Grant: grant, Stdout: true})
		c, err := net.Dial("tcp", strings.TrimPrefix(f.server.base, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n", strings.TrimPrefix(url, f.server.base))
		answer := make([]byte, 4096)
		if n, err := c.Read(answer); err != nil || !strings.HasPrefix(string(answer[:n]), "HTTP/1.1 101") {
			t.Fatalf("%q %v", answer[:n], err)
		}
		c.Write(frame)
		junk := bytes.Repeat([]byte{0x7f}, 1<<20)
		for sent := 0; sent < 64<<20; sent += len(junk) {
			c.SetWriteDeadline(time.Now().Add(time.Second))
			if _, err := c.Write(junk); err != nil {
				break // it has ended, or nobody reads
			}
		}
		c.Close()
	}
	if grown := heap() - had; grown > 64<<20 {
		t.Errorf("%d MiB for five hostile clients", grown>>20)
	}
	// It still serves.
	_, s := f.spdySession(mintRequest{Kind: kindExec, Grant: "echo still here", Stdout: true})
	if out, _ := io.ReadAll(s["stdout"]); string(out) != "still here\n" {
		t.Errorf("%q", out)
	}
}
