package logd

import (
	"encoding/json"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// clientBuffer is what the kernel holds for a client that is slow to read,
	// clientBacklog what we hold beside it. A client that lets both fill up, or
	// takes nothing for clientPatience, is dropped: the log never waits for one.
	clientBuffer   = 256 << 10
	clientBacklog  = 256 << 10
	clientPatience = 5 * time.Second
	maxClients     = 16 // of one container
)

// client is somebody attached to a container.
type client struct {
	c        *container
	control  int     // SEQPACKET: resize requests; its end is the client's end
	stdin    int     // read end of what the client types
	outputs  [2]sink // what it is shown
	deadline time.Time
}

// sink is one stream on its way to a client.
type sink struct {
	fd      int // our end of a socket pair, or -1
	backlog []byte
	ended   bool // close after the backlog
}

// sinkReady and the like route events to their client.
type (
	sinkReady struct {
		cl     *client
		stream Stream
	}
	stdinReady   struct{ cl *client }
	controlReady struct{ cl *client }
)

// AttachRequest asks for a container's streams.
type AttachRequest struct {
	Op     string `json:"op"` // "attach"
	ID     string `json:"id"`
	Stdin  bool   `json:"stdin"`
	Stdout bool   `json:"stdout"`
	Stderr bool   `json:"stderr"`
	TTY    bool   `json:"tty"`
}

// attach makes a client and returns its ends with their names, which the caller
// sends and closes.
func (d *Daemon) attach(c *container, stdin bool, want [2]bool) (names []string, fds []int, err error) {
	cl := &client{c: c, control: -1, stdin: -1, outputs: [2]sink{{fd: -1}, {fd: -1}}}
	c.clients = append(c.clients, cl)
	defer func() {
		if err != nil {
			d.dropClient(cl)
			for _, fd := range fds {
				unix.Close(fd)
			}
			names, fds = nil, nil
		}
	}()
	pair := func(kind int, name string, ours *int, events uint32, h handler) error {
		p, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		*ours = p[0]
		names, fds = append(names, name), append(fds, p[1])
		if err := unix.SetNonblock(p[0], true); err != nil {
			return err
		}
		return d.watch(p[0], events|unix.EPOLLET, h)
	}
	if stdin {
		var p [2]int
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
			return names, fds, err
		}
		cl.stdin = p[0]
		names, fds = append(names, NameStdin), append(fds, p[1])
		if err := unix.SetNonblock(p[0], true); err != nil {
			return names, fds, err
		}
		if err := d.watch(p[0], unix.EPOLLIN|unix.EPOLLET, stdinReady{cl}); err != nil {
			return names, fds, err
		}
	}
	for _, s := range []Stream{Stdout, Stderr} {
		if !want[s] {
			continue
		}
		if err := pair(unix.SOCK_STREAM, s.String(), &cl.outputs[s].fd, unix.EPOLLOUT, sinkReady{cl, s}); err != nil {
			return names, fds, err
		}
		unix.SetsockoptInt(cl.outputs[s].fd, unix.SOL_SOCKET, unix.SO_SNDBUF, clientBuffer)
	}
	err = pair(unix.SOCK_SEQPACKET, NameControl, &cl.control, unix.EPOLLIN, controlReady{cl})
	return names, fds, err
}

// show gives data of o to every client that wants it.
func (d *Daemon) show(o *output, data []byte) {
	for i := len(o.c.clients) - 1; i >= 0; i-- { // dropping one moves only later ones
		d.give(o.c.clients[i], o.stream, data)
	}
}

func (d *Daemon) give(cl *client, stream Stream, data []byte) {
	s := &cl.outputs[stream]
	if s.fd < 0 {
		return
	}
	if len(s.backlog) == 0 {
		n, err := sendSome(s.fd, data)
		if err != nil {
			d.dropClient(cl)
			return
		}
		data = data[n:]
	}
	if len(data) == 0 {
		return
	}
	if len(s.backlog)+len(data) > clientBacklog {
		d.opts.Printf("container %s: an attached client is too slow: dropped", cl.c.id)
		d.dropClient(cl)
		return
	}
	s.backlog = append(s.backlog, data...)
	if cl.deadline.IsZero() {
		cl.deadline = time.Now().Add(clientPatience)
		d.timed[cl.c] = struct{}{}
	}
}

// ready continues with what a client had no room for.
func (r sinkReady) ready(d *Daemon, _ int, events uint32) {
	s := &r.cl.outputs[r.stream]
	if events&(unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		d.unwatch(&s.fd) // the client does not want this stream any more
		s.backlog = nil
		r.cl.settled()
		return
	}
	if len(s.backlog) == 0 {
		return
	}
	n, err := sendSome(s.fd, s.backlog)
	if err != nil {
		d.dropClient(r.cl)
		return
	}
	if n > 0 {
		r.cl.deadline = time.Now().Add(clientPatience)
	}
	s.backlog = s.backlog[n:]
	if len(s.backlog) == 0 {
		s.backlog = nil
		if s.ended {
			d.unwatch(&s.fd)
		}
		r.cl.settled()
		d.pumpStdin(r.cl.c) // it was held back
	}
}

// waits reports whether the client has yet to read what it was given.
func (cl *client) waits() bool {
	return len(cl.outputs[Stdout].backlog) > 0 || len(cl.outputs[Stderr].backlog) > 0
}

// settled takes the deadline off a client that has read everything.
func (cl *client) settled() {
	if !cl.waits() {
		cl.deadline = time.Time{}
	}
}

// endOutput closes a stream that has ended, once the client has all of it.
func (d *Daemon) endOutput(cl *client, stream Stream) {
	s := &cl.outputs[stream]
	s.ended = true
	if len(s.backlog) == 0 {
		d.unwatch(&s.fd)
	}
}

// ready reads resize requests, and notices the client's end.
func (r controlReady) ready(d *Daemon, fd int, events uint32) {
	for {
		n, err := ignoringEINTR(func() (int, error) {
			n, _, err := unix.Recvfrom(fd, d.message, unix.MSG_TRUNC)
			return n, err
		})
		if err == unix.EAGAIN {
			return
		}
		if err != nil || n == 0 || n > len(d.message) {
			d.leave(r.cl)
			return
		}
		var m struct {
			Resize struct {
				W uint16 `json:"w"`
				H uint16 `json:"h"`
			} `json:"resize"`
		}
		if json.Unmarshal(d.message[:n], &m) != nil {
			d.dropClient(r.cl)
			return
		}
		if tty := r.cl.c.outputs[Stdout].tty; tty >= 0 {
			unix.IoctlSetWinsize(tty, unix.TIOCSWINSZ, &unix.Winsize{Row: m.Resize.H, Col: m.Resize.W})
		}
	}
}

// leave is the client's own leaving: what it has typed still goes to the
// container, and then it is forgotten.
func (d *Daemon) leave(cl *client) {
	d.unwatch(&cl.control)
	for i := range cl.outputs {
		d.unwatch(&cl.outputs[i].fd)
		cl.outputs[i].backlog = nil
	}
	cl.deadline = time.Time{}
	d.pump(cl)
	if cl.stdin < 0 {
		d.forgetClient(cl)
	}
}

// dropClient ends a client at once.
func (d *Daemon) dropClient(cl *client) {
	d.leave(cl)
	d.endStdin(cl)
	d.forgetClient(cl)
}

func (d *Daemon) forgetClient(cl *client) {
	for i, other := range cl.c.clients {
		if other == cl {
			cl.c.clients = append(cl.c.clients[:i], cl.c.clients[i+1:]...)
			return
		}
	}
}

// sendSome writes what fits. A client that went away is an error.
func sendSome(fd int, b []byte) (int, error) {
	sent := 0
	for sent < len(b) {
		n, err := ignoringEINTR(func() (int, error) {
			return unix.SendmsgN(fd, b[sent:], nil, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
		})
		if err == unix.EAGAIN {
			return sent, nil
		}
		if err != nil {
			return sent, err
		}
		sent += n
	}
	return sent, nil
}
