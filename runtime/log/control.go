package logd

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/seqpacket"
)

const (
	maxMessage = 4 << 10
	maxPeers   = 64
	// drainTime is how long remove waits for what is still in the pipes.
	drainTime = 2 * time.Second
)

// Request is any request.
type Request struct {
	Op        string   `json:"op"`
	ID        string   `json:"id"`
	TTY       bool     `json:"tty"`
	Stdin     bool     `json:"stdin"`
	Stdout    bool     `json:"stdout"`
	Stderr    bool     `json:"stderr"`
	StdinOnce bool     `json:"stdin_once"`
	Names     []string `json:"names"`
}

// Answer is the answer to any request.
type Answer struct {
	OK    bool     `json:"ok"`
	Error string   `json:"error,omitempty"`
	Names []string `json:"names,omitempty"` // of the fds beside it
}

// listener accepts peers.
type listener struct{}

// peer is one control connection.
type peer struct {
	fd   int
	role Peer
}

func (listener) ready(d *Daemon, fd int, _ uint32) {
	nfd, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
	if err != nil {
		if err != unix.EAGAIN && err != unix.EINTR && err != unix.ECONNABORTED {
			d.opts.Printf("accepting a connection: %v", err)
			time.Sleep(10 * time.Millisecond) // out of fds: the loop must not spin on it
		}
		return
	}
	p := &peer{fd: nfd}
	cred, err := unix.GetsockoptUcred(nfd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err == nil {
		p.role = d.opts.Peer(cred)
	}
	if p.role == Nobody || d.peers >= maxPeers {
		unix.Close(nfd)
		return
	}
	if err := d.watch(nfd, unix.EPOLLIN, p); err != nil {
		unix.Close(nfd)
		return
	}
	d.peers++
}

// ready serves one request.
func (p *peer) ready(d *Daemon, _ int, _ uint32) {
	n, fds, err := receive(p.fd, d.message)
	if err == unix.EAGAIN {
		return
	}
	if err != nil {
		if err != io.EOF {
			d.opts.Printf("receiving a request: %v", err)
		}
		d.dropPeer(p)
		return
	}
	var r Request
	if err := decodeStrict(d.message[:n], &r); err != nil {
		seqpacket.CloseAll(fds)
		d.opts.Printf("a request that cannot be read: %v", err)
		d.dropPeer(p)
		return
	}
	names, give, later, err := d.serve(p, &r, fds)
	if later {
		return
	}
	a := Answer{OK: err == nil, Names: names}
	if err != nil {
		a.Error = err.Error()
	}
	d.answer(p, a, give)
	seqpacket.CloseAll(give)
}

// serve performs r. The fds are taken over. later says that the answer will come
// by itself.
func (d *Daemon) serve(p *peer, r *Request, fds []int) (names []string, give []int, later bool, err error) {
	kept := false
	defer func() {
		if !kept {
			seqpacket.CloseAll(fds)
		}
	}()
	if p.role != Helper && r.Op != "attach" {
		return nil, nil, false, fmt.Errorf("operation %q is not for this peer", r.Op)
	}
	if r.Op == "add" {
		kept = true
		a := &Announcement{Op: r.Op, ID: r.ID, TTY: r.TTY, Stdin: r.Stdin, StdinOnce: r.StdinOnce, Names: r.Names}
		return nil, nil, false, d.add(a, fds, nil)
	}
	c, ok := d.containers[r.ID]
	if !ok {
		if r.Op == "remove" {
			return nil, nil, false, nil // already gone: removing never fails
		}
		return nil, nil, false, errors.New("no such container")
	}
	switch r.Op {
	case "attach":
		names, give, err = d.serveAttach(c, r)
	case "reopen":
		if len(fds) != 1 {
			return nil, nil, false, fmt.Errorf("reopen takes one fd, not %d", len(fds))
		}
		if c.stateFD < 0 {
			return nil, nil, false, errors.New("container has no log")
		}
		if err = d.reopen(c, fds[0]); err == nil {
			kept = true
			d.unblock(c)
		}
	case "remove":
		if c.removing != nil {
			return nil, nil, false, errors.New("already being removed")
		}
		c.removing, c.removeEnd = p, time.Now().Add(drainTime)
		d.timed[c] = struct{}{}
		return nil, nil, true, nil
	default:
		err = fmt.Errorf("unknown operation %q", r.Op)
	}
	return names, give, false, err
}

func (d *Daemon) serveAttach(c *container, r *Request) ([]string, []int, error) {
	switch {
	case len(c.clients) >= maxClients:
		return nil, nil, errors.New("too many clients are attached")
	case c.finished() && c.outputs[Stdout].tty < 0:
		return nil, nil, errors.New("container has no output left")
	case r.Stdin && c.stdin < 0:
		return nil, nil, errors.New("container has no stdin")
	}
	want := [2]bool{r.Stdout && c.outputs[Stdout].src >= 0, r.Stderr && c.outputs[Stderr].src >= 0}
	return d.attach(c, r.Stdin, want)
}

// finishRemove logs what is left, incomplete lines too, and forgets c.
func (d *Daemon) finishRemove(c *container) {
	c.flush = true
	for i := range c.outputs {
		for range 64 {
			more, err := d.step(&c.outputs[i])
			if err != nil {
				d.opts.Printf("container %s: at its removal: %v", c.id, err)
			}
			if !more || err != nil {
				break
			}
		}
	}
	p := c.removing
	d.close(c)
	delete(d.containers, c.id)
	delete(d.timed, c)
	if p != nil && p.fd >= 0 {
		d.answer(p, Answer{OK: true}, nil)
	}
}

// answer sends a to p; a peer that does not take it is dropped.
func (d *Daemon) answer(p *peer, a Answer, fds []int) {
	b, err := json.Marshal(a)
	if err == nil {
		var oob []byte
		if len(fds) > 0 {
			oob = unix.UnixRights(fds...)
		}
		err = unix.Sendmsg(p.fd, b, oob, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
	}
	if err != nil {
		d.dropPeer(p)
	}
}

func (d *Daemon) dropPeer(p *peer) {
	if p.fd >= 0 {
		d.unwatch(&p.fd)
		d.peers--
	}
}

// receive is one datagram with its fds.
func receive(fd int, b []byte) (int, []int, error) {
	var oob [256]byte
	n, oobn, flags, _, err := unix.Recvmsg(fd, b, oob[:], unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if err == unix.EINTR {
		err = unix.EAGAIN // level triggered: it comes again
	}
	if err != nil {
		return 0, nil, err
	}
	var fds []int
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	for i := range msgs {
		if got, e := unix.ParseUnixRights(&msgs[i]); e == nil {
			fds = append(fds, got...)
		}
	}
	switch {
	case err != nil:
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		err = seqpacket.ErrTruncated
	case n == 0:
		err = io.EOF
	default:
		return n, fds, nil
	}
	seqpacket.CloseAll(fds)
	return 0, nil, err
}

func decodeStrict(b []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("left-over bytes")
	}
	return nil
}

// Restore takes in a container that init kept for a predecessor.
func (d *Daemon) Restore(id string, meta []byte, fds, index []int) error {
	var r Request
	if err := decodeStrict(meta, &r); err != nil {
		seqpacket.CloseAll(fds)
		return fmt.Errorf("what is kept of %s: %w", id, err)
	}
	if r.ID != id {
		seqpacket.CloseAll(fds)
		return fmt.Errorf("what is kept of %s says it is %q", id, r.ID)
	}
	a := &Announcement{Op: r.Op, ID: r.ID, TTY: r.TTY, Stdin: r.Stdin, StdinOnce: r.StdinOnce, Names: r.Names}
	if err := d.add(a, fds, index); err != nil {
		return fmt.Errorf("what is kept of %s: %w", id, err)
	}
	return nil
}
