package keeper

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

// Conn is a datagram connection with fds: a *seqpacket.Conn. (It is an interface
// so that init does not link what it does not use.)
type Conn interface {
	Send(b []byte, fds ...int) error
	Recv(b []byte) (n int, fds []int, err error)
	SetDeadline(time.Time) error
}

// answerTime bounds the wait for init, which answers at once unless it replaces
// itself by a newer version.
const answerTime = 10 * time.Second

// Client asks init. It is safe for concurrent use.
type Client struct {
	mu     sync.Mutex // one request at a time: answers carry no number
	conn   Conn
	broken error // after a lost answer the next one cannot be told from it

	// Broken is called, if it is set, when the channel broke: nothing that needs
	// init works any more, until init starts this process anew.
	Broken func(error)
}

// NewClient returns a client on the channel that init handed over.
func NewClient(c Conn) *Client { return &Client{conn: c} }

// StatusError is an answer other than OK.
type StatusError struct {
	Op     Op
	Status Status
}

func (e *StatusError) Error() string {
	text := map[Status]string{Invalid: "invalid request", NotFound: "nothing kept under this key",
		Full: "too much is kept", Forbidden: "not allowed on this channel"}[e.Status]
	return fmt.Sprintf("keeper: operation %d: %s (%d)", e.Op, text, e.Status)
}

// Watch asks that the exit of pid be reported as key's, even if it has exited
// and was reaped already, but not before since (see Now).
func (c *Client) Watch(key string, pid int, since int64) error {
	return c.call(Request{Op: Watch, Key: key, PID: int32(pid), Since: since})
}

// Forget drops key's exit record and fds. An unknown key is no error.
func (c *Client) Forget(key string) error { return c.call(Request{Op: Forget, Key: key}) }

// Store asks init to keep fds with meta under key, in place of what is there.
// The caller's fds stay the caller's.
func (c *Client) Store(key string, meta []byte, fds ...int) error {
	if len(fds) > MaxFDs {
		return fmt.Errorf("keeper: %d fds, at most %d", len(fds), MaxFDs)
	}
	return c.call(Request{Op: Store, Key: key, Meta: meta}, fds...)
}

// Replace puts fd in the place of key's index-th.
func (c *Client) Replace(key string, index int, fd int) error {
	return c.call(Request{Op: Replace, Key: key, Index: uint8(index)}, fd)
}

// Drop closes key's index-th fd: its holder has seen its end.
func (c *Client) Drop(key string, index int) error {
	return c.call(Request{Op: Drop, Key: key, Index: uint8(index)})
}

func (c *Client) call(r Request, fds ...int) error {
	b, err := r.Encode()
	if err != nil {
		return fmt.Errorf("keeper: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken != nil {
		return c.broken
	}
	status, err := c.exchange(b, fds)
	if err != nil {
		c.broken = fmt.Errorf("keeper: the channel to init is broken: %w", err)
		if c.Broken != nil {
			c.Broken(c.broken)
		}
		return c.broken
	}
	if status != OK {
		return &StatusError{r.Op, status}
	}
	return nil
}

func (c *Client) exchange(b []byte, fds []int) (Status, error) {
	if err := c.conn.SetDeadline(time.Now().Add(answerTime)); err != nil {
		return 0, err
	}
	defer c.conn.SetDeadline(time.Time{})
	if err := c.conn.Send(b, fds...); err != nil {
		return 0, err
	}
	var answer [1]byte
	n, got, err := c.conn.Recv(answer[:])
	closeAll(got)
	switch {
	case err != nil:
		return 0, err
	case n != 1 || len(got) > 0:
		return 0, errors.New("an answer that init does not give")
	}
	return Status(answer[0]), nil
}
