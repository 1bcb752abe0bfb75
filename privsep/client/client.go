// Package client is the front end's side of the boundary: one method a verb, the
// mirror of package helper. It is linked into posternd and the tests.
package client

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/seqpacket"
	"github.com/postern-cri/postern/privsep/wire"
)

// maxConns bounds how many requests are under way at once: the helper serves one
// a connection.
const maxConns = 16

// lanes are how many of them may wait for network plugins: these may hang for
// minutes, and what runs is to be probed, stopped and listed meanwhile.
var lanes = map[wire.Verb]int{wire.PodCreate: 8, wire.PodDelete: 4}

// Timeout bounds a request. It is longer than the helper's own bounds on a launch
// and on a CNI plugin, the one that undoes the other included.
const Timeout = 4 * time.Minute

// Error is an answer other than OK.
type Error struct {
	Verb    wire.Verb
	Code    wire.Code
	Message string
	Denial  wire.Denial
}

// Error says what was refused, by whom and what would help.
func (e *Error) Error() string {
	if e.Code != wire.Denied {
		return e.Message
	}
	s := fmt.Sprintf("%s denied: %s %s", e.Denial.By, e.Denial.Rule, e.Denial.Message)
	if e.Denial.Field != "" {
		s += " (" + e.Denial.Field + ")"
	}
	if e.Denial.Remedy != "" {
		s += ". Fix: " + e.Denial.Remedy
	}
	return s
}

// IsCode tells whether err is an answer with this code.
func IsCode(err error, code wire.Code) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}

// Client is safe for concurrent use. It dials again after the helper restarted.
type Client struct {
	path  string
	slots chan struct{}
	lanes map[wire.Verb]chan struct{}

	mu    sync.Mutex
	idle  []*conn
	hello wire.HelloAnswer
}

type conn struct {
	*seqpacket.Conn
	seq uint64
	buf []byte
}

// Dial connects to the helper's socket at path and says hello.
func Dial(path string) (*Client, error) {
	c := &Client{path: path, slots: make(chan struct{}, maxConns), lanes: map[wire.Verb]chan struct{}{}}
	for verb, n := range lanes {
		c.lanes[verb] = make(chan struct{}, n)
	}
	k, err := c.dial(time.Now().Add(10 * time.Second))
	if err != nil {
		return nil, err
	}
	c.put(k)
	return c, nil
}

// Features returns the helper's last answer to HELLO.
func (c *Client) Features() wire.HelloAnswer {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hello
}

// Close closes the idle connections.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.idle {
		k.Close()
	}
	c.idle = nil
}

func (c *Client) dial(end time.Time) (*conn, error) {
	s, err := seqpacket.Dial(c.path)
	if err != nil {
		return nil, err
	}
	k := &conn{Conn: s}
	var hello wire.HelloAnswer
	if _, err := k.exchange(end, wire.Hello, &wire.HelloRequest{Version: wire.Version}, &hello, 0); err != nil {
		k.Close()
		return nil, fmt.Errorf("greeting the helper: %w", err)
	}
	if hello.Code != wire.OK {
		k.Close()
		return nil, &Error{Verb: wire.Hello, Code: hello.Code, Message: hello.Message, Denial: hello.Denial}
	}
	c.mu.Lock()
	c.hello = hello
	c.mu.Unlock()
	return k, nil
}

func (c *Client) put(k *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.idle) >= 2 { // few: each is a goroutine in the helper
		k.Close()
		return
	}
	c.idle = append(c.idle, k)
}

// exchange sends one request and reads its answer.
func (k *conn) exchange(end time.Time, verb wire.Verb, req, ans wire.Message, maxFDs int, fds ...int) ([]int, error) {
	k.seq++
	b, err := wire.Encode(verb, k.seq, req)
	if err != nil {
		return nil, err
	}
	if len(b) > wire.MaxRequest {
		return nil, fmt.Errorf("a request of %d bytes, at most %d", len(b), wire.MaxRequest)
	}
	if err := k.SetDeadline(end); err != nil {
		return nil, err
	}
	if err := k.Send(b, fds...); err != nil {
		return nil, err
	}
	if k.buf == nil {
		k.buf = make([]byte, 4<<10)
	}
	n, got, err := k.RecvGrow(&k.buf, wire.MaxAnswer)
	if err != nil {
		return nil, err
	}
	h, body, err := wire.DecodeHeader(k.buf[:n])
	if err == nil && (h.Verb != verb+1 || h.Sequence != k.seq || len(got) > maxFDs) {
		err = fmt.Errorf("%w: answer %d with %d fds to request %d", wire.ErrViolation, h.Verb, len(got), verb)
	}
	if err == nil {
		err = wire.Decode(body, ans)
	}
	if err != nil {
		seqpacket.CloseAll(got)
		return nil, err
	}
	return got, nil
}

type answer interface {
	wire.Message
	Outcome() *wire.Answer
}

// call does one request on a connection of its own. Only a request that the
// helper has certainly not seen is sent again: one on an idle connection that
// turns out to be closed.
func (c *Client) call(ctx context.Context, verb wire.Verb, req wire.Message, ans answer, maxFDs int, fds ...int) ([]int, error) {
	places := []chan struct{}{c.slots}
	if lane := c.lanes[verb]; lane != nil {
		places = []chan struct{}{lane, c.slots}
	}
	for _, place := range places {
		select {
		case place <- struct{}{}:
			defer func() { <-place }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	end := time.Now().Add(Timeout)
	if d, ok := ctx.Deadline(); ok && d.Before(end) {
		end = d
	}
	for {
		c.mu.Lock()
		var k *conn
		if n := len(c.idle); n > 0 {
			k, c.idle = c.idle[n-1], c.idle[:n-1]
		}
		c.mu.Unlock()
		reused := k != nil
		if k == nil {
			var err error
			if k, err = c.dial(end); err != nil {
				return nil, fmt.Errorf("the helper does not answer: %w", err)
			}
		}
		stop := context.AfterFunc(ctx, func() { k.SetDeadline(time.Unix(1, 0)) })
		got, err := k.exchange(end, verb, req, ans, maxFDs, fds...)
		quiet := stop()
		if err != nil {
			k.Close()
			if reused && errors.Is(err, unix.EPIPE) {
				continue
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return nil, fmt.Errorf("the helper did not answer: %w", err)
		}
		if quiet {
			c.put(k)
		} else { // cancelled just now: somebody may still shorten its deadline
			k.Close()
		}
		if o := ans.Outcome(); o.Code != wire.OK {
			seqpacket.CloseAll(got)
			return nil, &Error{Verb: verb, Code: o.Code, Message: o.Message, Denial: o.Denial}
		}
		return got, nil
	}
}

// callPlan is call with a sealed memfd of a plan and its claims.
func (c *Client) callPlan(ctx context.Context, verb wire.Verb, req wire.Message, ans answer, maxFDs int, planBytes []byte, claims plan.Claims) ([]int, error) {
	cb, err := plan.EncodeClaims(claims)
	if err != nil {
		return nil, err
	}
	fd, err := wire.MakeMemfd(wire.JoinSections(planBytes, cb))
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return c.call(ctx, verb, req, ans, maxFDs, fd)
}

func files(fds []int, name string) []*os.File {
	var out []*os.File
	for _, fd := range fds {
		unix.SetNonblock(fd, true) // so that deadlines work on pipes
		out = append(out, os.NewFile(uintptr(fd), name))
	}
	return out
}
