package logd

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Peer says what a connecting process may ask for.
type Peer uint8

// Peers.
const (
	Nobody Peer = iota
	Front       // attach
	Helper      // everything
)

// Options configure a Daemon.
type Options struct {
	Listener int                              // SEQPACKET listener
	Peer     func(*unix.Ucred) Peer           // who a connection is from
	Drop     func(id string, index int) error // asks init to close a kept fd; may be nil
	Printf   func(format string, args ...any) // the process's own log; may be nil
}

// Daemon is the log process.
type Daemon struct {
	opts       Options
	epoll      int
	watches    map[int32]watch
	generation int32
	containers map[string]*container
	queue      []*output               // streams with something to do, in turn
	spare      []*output               // the queue's other buffer
	timed      map[*container]struct{} // those that something becomes due for
	scratch    *scratch                // looks at pipes
	wide       *scratch                // looks at terminals' sources
	out        []byte                  // records
	message    []byte                  // one request
	peers      int
}

// watch is who gets an fd's events. The generation tells an event of a closed fd
// from one of its number's next holder.
type watch struct {
	handler    handler
	generation int32
}

// handler gets the events of an fd.
type handler interface {
	ready(d *Daemon, fd int, events uint32)
}

// New returns a daemon that serves opts.Listener.
func New(opts Options) (*Daemon, error) {
	if opts.Printf == nil {
		opts.Printf = func(string, ...any) {}
	}
	d := &Daemon{opts: opts, watches: map[int32]watch{}, containers: map[string]*container{},
		timed: map[*container]struct{}{},
		out:   make([]byte, 0, maxOut), message: make([]byte, maxMessage)}
	var err error
	if d.scratch, err = newScratch(peekSlots); err != nil {
		return nil, err
	}
	if d.wide, err = newScratch(ttySlots); err != nil {
		return nil, err
	}
	d.wide.buf = d.scratch.buf // one look at a time
	if d.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("making an epoll set: %w", err)
	}
	if err := unix.SetNonblock(opts.Listener, true); err != nil {
		return nil, err
	}
	// Level triggered: connections that could not be accepted for want of fds are
	// tried again.
	return d, d.watch(opts.Listener, unix.EPOLLIN, listener{})
}

// look returns the scratch that takes in all that o's journal can hold.
func (d *Daemon) look(o *output) *scratch {
	if o.tty >= 0 {
		return d.wide
	}
	return d.scratch
}

// watch has events of fd handled by h.
func (d *Daemon) watch(fd int, events uint32, h handler) error {
	d.generation++
	ev := unix.EpollEvent{Events: events, Fd: int32(fd), Pad: d.generation}
	if err := unix.EpollCtl(d.epoll, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return fmt.Errorf("watching an fd: %w", err)
	}
	d.watches[int32(fd)] = watch{h, d.generation}
	return nil
}

// unwatch closes *fd. The fd must be taken out of the epoll set first: init holds
// duplicates, so that closing does not take it out.
func (d *Daemon) unwatch(fd *int) {
	if *fd < 0 {
		return
	}
	if _, ok := d.watches[int32(*fd)]; ok {
		unix.EpollCtl(d.epoll, unix.EPOLL_CTL_DEL, *fd, nil)
		delete(d.watches, int32(*fd))
	}
	closeFD(fd)
}

// add takes a container in. On an error the fds are closed.
func (d *Daemon) add(a *Announcement, fds, index []int) (err error) {
	defer func() {
		if err != nil {
			for _, fd := range fds {
				unix.Close(fd)
			}
		}
	}()
	if _, ok := d.containers[a.ID]; ok {
		return errors.New("container is known already")
	}
	c, err := newContainer(a, fds, index)
	if err != nil {
		return err
	}
	d.containers[c.id] = c
	defer func() {
		if err != nil {
			delete(d.containers, c.id)
			for i := range c.outputs {
				delete(d.watches, int32(c.outputs[i].src))
				delete(d.watches, int32(c.outputs[i].tty))
			}
		}
	}()
	for i := range c.outputs {
		o := &c.outputs[i]
		switch {
		case o.tty >= 0:
			err = d.watch(o.tty, unix.EPOLLIN|unix.EPOLLOUT|unix.EPOLLET, o)
		case o.src >= 0:
			err = d.watch(o.src, unix.EPOLLIN|unix.EPOLLET, o)
		}
		if err != nil {
			return err
		}
		d.enqueue(o) // a predecessor's batch may be waiting
	}
	if c.stdin >= 0 && !c.tty {
		return d.watch(c.stdin, unix.EPOLLOUT|unix.EPOLLET, (*input)(c))
	}
	return nil
}

// ready queues the stream: something was written or the last writer left.
func (o *output) ready(d *Daemon, _ int, events uint32) {
	if events&(unix.EPOLLHUP|unix.EPOLLERR) != 0 && o.tty < 0 {
		o.hup = true
	}
	if o.tty >= 0 && events&unix.EPOLLOUT != 0 {
		d.pumpStdin(o.c)
	}
	d.enqueue(o)
}

func (d *Daemon) enqueue(o *output) {
	if !o.queued {
		o.queued = true
		d.queue = append(d.queue, o)
	}
}

// Run serves until the listener fails.
func (d *Daemon) Run() error {
	events := make([]unix.EpollEvent, 64)
	for {
		n, err := unix.EpollWait(d.epoll, events, d.timeout())
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("waiting for events: %w", err)
		}
		for i := range max(n, 0) {
			ev := &events[i]
			if w, ok := d.watches[ev.Fd]; ok && w.generation == ev.Pad {
				w.handler.ready(d, int(ev.Fd), ev.Events)
			}
		}
		d.turn()
		d.timers(time.Now())
	}
}

// turn gives each queued stream one batch: no stream keeps another waiting for
// longer than a batch takes.
func (d *Daemon) turn() {
	turn := d.queue
	if len(turn) == 0 {
		return
	}
	d.queue, d.spare = d.spare[:0], turn
	for _, o := range turn {
		o.queued = false
		if o.c.blocked || d.containers[o.c.id] != o.c {
			continue
		}
		more, err := d.step(o)
		if err != nil {
			d.block(o.c, err)
			continue
		}
		o.c.warned = false
		if more {
			d.enqueue(o)
		}
	}
}

// retryAfter is how long a log that cannot be written is left alone.
const retryAfter = time.Second

// block leaves c alone for a second. Its output waits in its pipes.
func (d *Daemon) block(c *container, err error) {
	if !c.warned {
		d.opts.Printf("container %s: %v", c.id, err)
	}
	c.warned = true
	c.blocked, c.retry = true, time.Now().Add(retryAfter)
	d.timed[c] = struct{}{}
}

// unblock has c tried again.
func (d *Daemon) unblock(c *container) {
	c.blocked = false
	for i := range c.outputs {
		d.enqueue(&c.outputs[i])
	}
}

// due returns when something has to happen for c, or the zero time.
func (c *container) due() time.Time {
	var next time.Time
	earlier := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	if c.blocked {
		earlier(c.retry)
	}
	if c.removing != nil {
		earlier(c.removeEnd)
	}
	for _, cl := range c.clients {
		earlier(cl.deadline)
	}
	return next
}

// timeout returns how long to wait for events, in ms.
func (d *Daemon) timeout() int {
	if len(d.queue) > 0 {
		return 0
	}
	wait := -1
	for c := range d.timed {
		due := c.due()
		if due.IsZero() {
			delete(d.timed, c)
			continue
		}
		if ms := int(max(0, time.Until(due)/time.Millisecond)) + 1; wait < 0 || ms < wait {
			wait = ms
		}
	}
	return wait
}

// timers does what is due.
func (d *Daemon) timers(now time.Time) {
	for c := range d.timed {
		if c.blocked && !now.Before(c.retry) {
			d.unblock(c)
		}
		for _, cl := range append([]*client(nil), c.clients...) {
			if !cl.deadline.IsZero() && !now.Before(cl.deadline) {
				d.opts.Printf("container %s: an attached client does not read: dropped", c.id)
				d.dropClient(cl)
			}
		}
		if c.removing != nil && (c.finished() || !now.Before(c.removeEnd)) {
			d.finishRemove(c)
		}
	}
}
