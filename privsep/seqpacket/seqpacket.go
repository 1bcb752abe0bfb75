// Package seqpacket is SOCK_SEQPACKET with fd passing: one message is one
// datagram, so that a length is never believed, and a message that was cut or
// that lost an fd is an error, never a shorter message.
package seqpacket

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// MaxFDs is the most fds one message may carry.
const MaxFDs = 16

// ErrTruncated is a message longer than the receiver's limit, or one whose fds
// did not fit: a violation by the peer.
var ErrTruncated = errors.New("message or its fds were cut")

// Conn is one connection. It goes through the runtime's poller, so that
// deadlines work and Close wakes a blocked call. One goroutine may send while
// another receives.
type Conn struct {
	f      *os.File
	rc     rawConn
	closed atomic.Bool
}

// ours is err as os.ErrClosed where the connection was closed on this side: the
// poller's own error for that is not exported.
func ours(closed *atomic.Bool, err error) error {
	if err != nil && closed.Load() {
		return os.ErrClosed
	}
	return err
}

type rawConn interface {
	Read(func(fd uintptr) bool) error
	Write(func(fd uintptr) bool) error
	Control(func(fd uintptr)) error
}

// NewConn takes over fd, a SEQPACKET socket.
func NewConn(fd int) (*Conn, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("making a socket non-blocking: %w", err)
	}
	f := os.NewFile(uintptr(fd), "seqpacket")
	if f == nil {
		return nil, errors.New("bad socket fd")
	}
	rc, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &Conn{f: f, rc: rc}, nil
}

// dialTime is how long Dial waits for room in the queue of a listener.
const dialTime = 200 * time.Millisecond

// Dial connects to the socket at path. A peer that accepts nobody does not hold
// it up: a full queue is an error, after a moment's patience.
//
// Expected syscalls: socket, connect.
func Dial(path string) (*Conn, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("making a socket: %w", err)
	}
	for end := time.Now().Add(dialTime); ; time.Sleep(2 * time.Millisecond) {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
		if err != unix.EINTR && (err != unix.EAGAIN || time.Now().After(end)) {
			break
		}
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("connecting to %s: %w", path, err)
	}
	return NewConn(fd)
}

// Pair returns two connected sockets, both close-on-exec.
func Pair() (a, b int, err error) {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, -1, fmt.Errorf("making a socket pair: %w", err)
	}
	return p[0], p[1], nil
}

// Send sends one message. The fds stay the caller's.
//
// Expected syscalls: sendmsg.
func (c *Conn) Send(b []byte, fds ...int) error {
	if len(b) == 0 {
		return errors.New("an empty message reads as end of file: refused")
	}
	if len(fds) > MaxFDs {
		return fmt.Errorf("%d fds in one message, at most %d", len(fds), MaxFDs)
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	var serr error
	err := c.rc.Write(func(fd uintptr) bool {
		for {
			serr = unix.Sendmsg(int(fd), b, oob, nil, unix.MSG_NOSIGNAL)
			if serr != unix.EINTR {
				return serr != unix.EAGAIN
			}
		}
	})
	if err == nil {
		err = serr
	}
	if err != nil {
		return fmt.Errorf("sending a message: %w", ours(&c.closed, err))
	}
	return nil
}

// Recv receives one message into b and returns its length and fds, which are
// close-on-exec and now the caller's. A peer that closed the connection is
// ErrEOF.
//
// Expected syscalls: recvmsg.
func (c *Conn) Recv(b []byte) (n int, fds []int, err error) {
	oob := make([]byte, unix.CmsgSpace(4*MaxFDs))
	var oobn, flags int
	var rerr error
	err = c.rc.Read(func(fd uintptr) bool {
		for {
			n, oobn, flags, _, rerr = unix.Recvmsg(int(fd), b, oob, unix.MSG_CMSG_CLOEXEC)
			if rerr != unix.EINTR {
				return rerr != unix.EAGAIN
			}
		}
	})
	if err == nil {
		err = rerr
	}
	if err != nil {
		return 0, nil, fmt.Errorf("receiving a message: %w", ours(&c.closed, err))
	}
	if oobn > 0 {
		fds, err = parseRights(oob[:oobn])
		if err != nil {
			CloseAll(fds)
			return 0, nil, err
		}
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		CloseAll(fds)
		return 0, nil, ErrTruncated
	}
	if n == 0 {
		CloseAll(fds)
		return 0, nil, ErrEOF
	}
	return n, fds, nil
}

// ErrEOF says that the peer closed the connection.
var ErrEOF = errors.New("peer closed the connection")

// RecvGrow is Recv into *buf, which is made larger, up to limit, when the next
// message needs it: an idle connection then holds no large buffer.
//
// Expected syscalls: recvmsg(MSG_PEEK | MSG_TRUNC), recvmsg.
func (c *Conn) RecvGrow(buf *[]byte, limit int) (int, []int, error) {
	var size int
	var perr error
	err := c.rc.Read(func(fd uintptr) bool {
		for {
			size, _, perr = unix.Recvfrom(int(fd), nil, unix.MSG_PEEK|unix.MSG_TRUNC)
			if perr != unix.EINTR {
				return perr != unix.EAGAIN
			}
		}
	})
	if err == nil {
		err = perr
	}
	if err != nil {
		return 0, nil, fmt.Errorf("receiving a message: %w", ours(&c.closed, err))
	}
	if size > limit {
		return 0, nil, ErrTruncated
	}
	if size > len(*buf) {
		*buf = make([]byte, size)
	}
	return c.Recv(*buf)
}

func parseRights(oob []byte) ([]int, error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("parsing a control message: %w", err)
	}
	var fds []int
	for i := range msgs { // to the end, whatever comes: every fd must be known to be closed
		if msgs[i].Header.Level != unix.SOL_SOCKET || msgs[i].Header.Type != unix.SCM_RIGHTS {
			err = errors.New("unexpected control message")
			continue
		}
		got, perr := unix.ParseUnixRights(&msgs[i])
		if perr != nil {
			err = fmt.Errorf("parsing passed fds: %w", perr)
			continue
		}
		fds = append(fds, got...)
	}
	return fds, err
}

// CloseAll closes fds.
func CloseAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// SetDeadline bounds every later Send and Recv; the zero time lifts the bound.
func (c *Conn) SetDeadline(t time.Time) error { return c.f.SetDeadline(t) }

// Close closes the connection and wakes blocked calls.
func (c *Conn) Close() error {
	c.closed.Store(true)
	return c.f.Close()
}

// Peer returns the credentials that the peer had when it connected. On an
// inherited socket pair they are the creator's: do not ask there.
func (c *Conn) Peer() (*unix.Ucred, error) {
	var cred *unix.Ucred
	var cerr error
	if err := c.rc.Control(func(fd uintptr) {
		cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil, err
	}
	if cerr != nil {
		return nil, fmt.Errorf("reading peer credentials: %w", cerr)
	}
	return cred, nil
}

// Listener accepts connections.
type Listener struct {
	f      *os.File
	rc     rawConn
	closed atomic.Bool
}

// Listen binds and listens at path, which must not exist.
func Listen(path string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("making a socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("binding %s: %w", path, err)
	}
	if err := unix.Listen(fd, 128); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("listening at %s: %w", path, err)
	}
	return fd, nil
}

// NewListener takes over fd, a listening SEQPACKET socket.
func NewListener(fd int) (*Listener, error) {
	c, err := NewConn(fd)
	if err != nil {
		return nil, err
	}
	return &Listener{f: c.f, rc: c.rc}, nil
}

// Accept waits for a connection. Where there is no fd or memory for one more it
// waits, too: who opens too many must not end the service for all others.
//
// Expected syscalls: accept4.
func (l *Listener) Accept() (*Conn, error) {
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		c, err := l.accept()
		if !errors.Is(err, unix.EMFILE) && !errors.Is(err, unix.ENFILE) && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.ENOMEM) {
			return c, err
		}
		time.Sleep(wait)
	}
}

func (l *Listener) accept() (*Conn, error) {
	var nfd int
	var aerr error
	err := l.rc.Read(func(fd uintptr) bool {
		for {
			nfd, _, aerr = unix.Accept4(int(fd), unix.SOCK_CLOEXEC)
			if aerr != unix.EINTR && aerr != unix.ECONNABORTED {
				return aerr != unix.EAGAIN
			}
		}
	})
	if err == nil {
		err = aerr
	}
	if err != nil {
		return nil, fmt.Errorf("accepting a connection: %w", ours(&l.closed, err))
	}
	return NewConn(nfd)
}

// SetDeadline bounds Accept.
func (l *Listener) SetDeadline(t time.Time) error { return l.f.SetDeadline(t) }

// Close stops listening.
func (l *Listener) Close() error {
	l.closed.Store(true)
	return l.f.Close()
}
