package stream

import (
	"errors"
	"net"
	"os"
	"sync"
)

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
}

// Read reads from the client.
func (c *watchedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
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
