package stream

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
)

// maxUntaken is the most bytes of one client that may lie in the libraries'
// buffers. They hold up a client that sends more than is read, but not one that
// sends what is never complete: a message without end, a size of a terminal that
// is all digits.
const maxUntaken = 16 << 20

// overhead is at least what the protocols put around one piece of data.
const overhead = 128

// connKey is the key of a request's connection in its context.
type connKey struct{}

// watchedListener bounds how many connections there are, and makes each tell
// when its client goes away. The libraries read all the time, but tell nobody
// what they find where a session only writes.
type watchedListener struct {
	net.Listener
	slots chan struct{}
}

// Accept waits for a client, and for a slot first: clients without one wait in
// the kernel.
func (l *watchedListener) Accept() (net.Conn, error) {
	l.slots <- struct{}{}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &watchedConn{Conn: c, gone: make(chan struct{}), release: func() { <-l.slots }}, nil
}

// watchedConn closes gone when the client has gone.
type watchedConn struct {
	net.Conn
	gone    chan struct{}
	lost    sync.Once
	closed  sync.Once
	release func()
	untaken atomic.Int64
}

// taken says that n bytes have reached whoever they are for.
func (c *watchedConn) taken(n int) {
	if c.untaken.Add(-int64(n)-overhead) < 0 {
		c.untaken.Store(0)
	}
}

var errUntaken = errors.New("the client sends what nobody can take")

// Read reads from the client.
func (c *watchedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err == nil && c.untaken.Add(int64(n)) > maxUntaken {
		err = errUntaken
	}
	// net/http interrupts its own reads by a deadline.
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.lost.Do(func() { close(c.gone) })
	}
	return n, err
}

// Close ends the connection.
func (c *watchedConn) Close() error {
	c.lost.Do(func() { close(c.gone) })
	c.closed.Do(c.release)
	return c.Conn.Close()
}

// taking reads from a client, and says so.
type taking struct {
	io.Reader
	c *watchedConn
}

// Read implements io.Reader.
func (t taking) Read(b []byte) (int, error) {
	n, err := t.Reader.Read(b)
	t.c.taken(n)
	return n, err
}
