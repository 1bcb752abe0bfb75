// Package ipc is how the unprivileged processes talk to one another: one JSON
// value with fds as one SEQPACKET datagram. Unknown fields are refused: both
// ends are built together. The privileged boundary does not use it.
package ipc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/postern-cri/postern/privsep/seqpacket"
)

// MaxMessage is the most bytes of one message. Larger things travel as an fd.
const MaxMessage = 128 << 10

// Conn is a connection that carries JSON values.
type Conn struct {
	*seqpacket.Conn
	buf []byte
}

// Dial connects to the socket at path.
func Dial(path string) (*Conn, error) {
	c, err := seqpacket.Dial(path)
	if err != nil {
		return nil, err
	}
	return New(c), nil
}

// New wraps c.
func New(c *seqpacket.Conn) *Conn { return &Conn{Conn: c} }

// Send sends v with fds, which stay the caller's.
func (c *Conn) Send(v any, fds ...int) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding a message: %w", err)
	}
	if len(b) > MaxMessage {
		return fmt.Errorf("a message of %d bytes, at most %d", len(b), MaxMessage)
	}
	return c.Conn.Send(b, fds...)
}

// Recv receives one value into v. Exactly maxFDs fds or fewer may come with it:
// more is an error and all are closed. The returned fds are the caller's.
func (c *Conn) Recv(v any, maxFDs int) ([]int, error) {
	if c.buf == nil {
		c.buf = make([]byte, MaxMessage)
	}
	n, fds, err := c.Conn.Recv(c.buf)
	if err != nil {
		return nil, err
	}
	if len(fds) > maxFDs {
		seqpacket.CloseAll(fds)
		return nil, fmt.Errorf("%d fds came with a message, at most %d", len(fds), maxFDs)
	}
	d := json.NewDecoder(bytes.NewReader(c.buf[:n]))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		seqpacket.CloseAll(fds)
		return nil, fmt.Errorf("decoding a message: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		seqpacket.CloseAll(fds)
		return nil, errors.New("decoding a message: left-over bytes")
	}
	return fds, nil
}

// Call sends req with fds and receives the answer into resp, within d.
func (c *Conn) Call(d time.Duration, req, resp any, maxFDs int, fds ...int) ([]int, error) {
	if err := c.SetDeadline(time.Now().Add(d)); err != nil {
		return nil, err
	}
	defer c.SetDeadline(time.Time{})
	if err := c.Send(req, fds...); err != nil {
		return nil, err
	}
	return c.Recv(resp, maxFDs)
}
