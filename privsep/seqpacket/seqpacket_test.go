package seqpacket

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func pair(t *testing.T) (a, b *Conn) {
	t.Helper()
	x, y, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	if a, err = NewConn(x); err != nil {
		t.Fatal(err)
	}
	if b, err = NewConn(y); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	for _, c := range []*Conn{a, b} {
		c.SetDeadline(time.Now().Add(time.Minute))
	}
	return a, b
}

func fds(t *testing.T) int {
	t.Helper()
	e, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(e)
}

func null(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// A message is one datagram: two never run into each other, and none is cut.
func TestBoundaries(t *testing.T) {
	a, b := pair(t)
	for _, m := range []string{"one", "two", strings.Repeat("x", 1000)} {
		if err := a.Send([]byte(m)); err != nil {
			t.Fatal(err)
		}
	}
	buf := make([]byte, 2000)
	for _, want := range []string{"one", "two", strings.Repeat("x", 1000)} {
		if n, got, err := b.Recv(buf); err != nil || string(buf[:n]) != want || len(got) > 0 {
			t.Errorf("%q, %v, %v", buf[:n], got, err)
		}
	}
	if err := a.Send(nil); err == nil {
		t.Error("an empty message was sent: it would read as the end")
	}
	a.Close()
	if _, _, err := b.Recv(buf); !errors.Is(err, ErrEOF) {
		t.Errorf("%v", err)
	}
	if err := b.Send([]byte("x")); !errors.Is(err, unix.EPIPE) {
		t.Errorf("%v", err)
	}
}

// A message longer than the buffer is an error, and its fds do not stay open.
func TestTruncated(t *testing.T) {
	a, b := pair(t)
	f := null(t)
	before := fds(t)
	a.Send([]byte("longer than four"), int(f.Fd()))
	if n, got, err := b.Recv(make([]byte, 4)); !errors.Is(err, ErrTruncated) || n != 0 || got != nil {
		t.Errorf("%d, %v, %v", n, got, err)
	}
	if n := fds(t); n != before {
		t.Errorf("%d fds, %d before", n, before)
	}
	var buf []byte
	a.Send([]byte("longer than four"), int(f.Fd()))
	if _, _, err := b.RecvGrow(&buf, 8); !errors.Is(err, ErrTruncated) || len(buf) != 0 {
		t.Errorf("%v, a buffer of %d", err, len(buf))
	}
}

func TestRecvGrow(t *testing.T) {
	a, b := pair(t)
	buf := make([]byte, 2)
	for _, c := range []struct{ send, size int }{{1, 2}, {2, 2}, {500, 500}, {10, 500}, {1000, 1000}} {
		want := bytes.Repeat([]byte{7}, c.send)
		if err := a.Send(want); err != nil {
			t.Fatal(err)
		}
		if n, _, err := b.RecvGrow(&buf, 1000); err != nil || !bytes.Equal(buf[:n], want) || len(buf) != c.size {
			t.Errorf("%d bytes: %d, a buffer of %d, %v", c.send, n, len(buf), err)
		}
	}
	a.Close()
	if _, _, err := b.RecvGrow(&buf, 1000); !errors.Is(err, ErrEOF) {
		t.Errorf("%v", err)
	}
}

func TestFDs(t *testing.T) {
	a, b := pair(t)
	f := null(t)
	before := fds(t)
	for n := range MaxFDs + 1 {
		send := make([]int, n)
		for i := range send {
			send[i] = int(f.Fd())
		}
		if err := a.Send([]byte("x"), send...); err != nil {
			t.Fatal(err)
		}
		_, got, err := b.Recv(make([]byte, 10))
		if err != nil || len(got) != n {
			t.Fatalf("%d fds: %v, %v", n, got, err)
		}
		for _, fd := range got {
			if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
				t.Errorf("fd %d is not close-on-exec", fd)
			}
		}
		CloseAll(got)
	}
	if err := a.Send([]byte("x"), make([]int, MaxFDs+1)...); err == nil {
		t.Error("too many fds were sent")
	}
	// One more than there is room for, past Send: an error, and none stays open.
	many := make([]int, MaxFDs+1)
	for i := range many {
		many[i] = int(f.Fd())
	}
	a.rc.Control(func(fd uintptr) {
		if err := unix.Sendmsg(int(fd), []byte("x"), unix.UnixRights(many...), nil, 0); err != nil {
			t.Error(err)
		}
	})
	if _, got, err := b.Recv(make([]byte, 10)); !errors.Is(err, ErrTruncated) || got != nil {
		t.Errorf("%v, %v", got, err)
	}
	// A control message that is no fd.
	b.rc.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) })
	a.Send([]byte("x"), int(f.Fd()))
	if _, got, err := b.Recv(make([]byte, 10)); err == nil {
		t.Errorf("credentials were taken as %v", got)
	}
	if n := fds(t); n != before {
		t.Errorf("%d fds, %d before", n, before)
	}
}

func TestDeadlineAndClose(t *testing.T) {
	a, b := pair(t)
	b.SetDeadline(time.Now().Add(20 * time.Millisecond))
	if _, _, err := b.Recv(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v", err)
	}
	b.SetDeadline(time.Time{})
	var buf []byte
	for i, recv := range []func(*Conn) error{
		func(c *Conn) error { _, _, err := c.Recv(make([]byte, 1)); return err },
		func(c *Conn) error { _, _, err := c.RecvGrow(&buf, 10); return err },
	} {
		_, c := pair(t)
		time.AfterFunc(20*time.Millisecond, func() { c.Close() })
		if err := recv(c); !errors.Is(err, os.ErrClosed) {
			t.Errorf("receive %d woke with %v", i, err)
		}
		if err := c.Send([]byte("x")); !errors.Is(err, os.ErrClosed) {
			t.Errorf("sending on a closed connection: %v", err)
		}
	}
	// A full socket blocks, and the deadline ends it.
	a.SetDeadline(time.Now().Add(50 * time.Millisecond))
	var err error
	for err == nil {
		err = a.Send(make([]byte, 1000))
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

func TestListener(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	fd, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	l, err := NewListener(fd)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); err == nil {
		t.Error("bound twice")
	}
	c, err := Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if p, err := s.Peer(); err != nil || p.Uid != uint32(os.Getuid()) || p.Pid != int32(os.Getpid()) {
		t.Errorf("%+v, %v", p, err)
	}
	c.Send([]byte("hello"))
	buf := make([]byte, 10)
	if n, _, err := s.Recv(buf); err != nil || string(buf[:n]) != "hello" {
		t.Errorf("%q, %v", buf[:n], err)
	}
	l.SetDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := l.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v", err)
	}
	l.SetDeadline(time.Time{})
	time.AfterFunc(10*time.Millisecond, func() { l.Close() })
	if _, err := l.Accept(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("closed while accepting: %v", err)
	}
	for _, p := range []string{path, path + "/x", strings.Repeat("x", 200)} {
		if c, err := Dial(p); err == nil {
			c.Close()
			t.Errorf("%s: connected", p)
		}
	}
	if _, err := NewConn(-1); err == nil {
		t.Error("a connection without an fd")
	}
}
