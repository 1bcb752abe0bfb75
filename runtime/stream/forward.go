package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
)

// maxForwards bounds a session's connections at a time.
const maxForwards = 128

// PortForward copies between one stream of a client and a connection to the port.
func (e *executor) PortForward(_ context.Context, id string, port int32, stream io.ReadWriteCloser) error {
	n, err := e.s.sessions.get(id)
	if err != nil {
		return err
	}
	conn, err := e.s.connect(n, port)
	if err != nil {
		return err
	}
	defer conn.Close()
	upload, download := make(chan error, 1), make(chan error, 1)
	go func() { upload <- half(conn, taking{stream, n.conn}, conn.CloseWrite) }()
	go func() { download <- half(stream, conn, stream.Close) }()
	for open := 2; open > 0; open-- {
		select {
		case err = <-upload:
			upload = nil
		case err = <-download:
			download = nil
			if n.websocket {
				open = 1 // it has no half-close: its end is how the client learns of ours
			}
		case <-n.gone:
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// duplex is a connection of two halves.
type duplex interface {
	net.Conn
	CloseWrite() error
}

// half copies one direction and then ends it.
func half(w io.Writer, r io.Reader, end func() error) error {
	b := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(b)
	err := copyAll(w, r, b[:])
	end()
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// connect has the front end connect to a port. The first port redeems the grant.
func (s *Server) connect(n *session, port int32) (duplex, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.forwards >= maxForwards {
		return nil, errors.New("too many connections in one session")
	}
	var files map[string]*os.File
	var err error
	if n.granted == nil {
		if n.granted, err = s.redeem(n, port); err != nil {
			return nil, err
		}
		files, n.granted.files = n.granted.files, nil
	} else if files, err = n.granted.ask(redeemRequest{Op: "redeem", Port: port}); err != nil {
		return nil, err
	}
	defer closeFiles(files)
	f := files["conn"]
	if f == nil {
		return nil, errors.New("no connection came")
	}
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("taking a connection over: %w", err)
	}
	conn, ok := c.(duplex)
	if !ok {
		c.Close()
		return nil, errors.New("the connection is of no use")
	}
	n.forwards++
	return &counted{duplex: conn, n: n}, nil
}

// counted gives its place back when it is closed.
type counted struct {
	duplex
	n      *session
	closed bool
}

// Close ends the connection.
func (c *counted) Close() error {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	if !c.closed {
		c.closed = true
		c.n.forwards--
	}
	return c.duplex.Close()
}
