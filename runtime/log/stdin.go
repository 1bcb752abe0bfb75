package logd

import "golang.org/x/sys/unix"

// input is a container in its quality of having a stdin.
type input container

// ready goes on when the container has read some, and notices that it never will
// again.
func (in *input) ready(d *Daemon, _ int, events uint32) {
	c := (*container)(in)
	if events&(unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		d.closeStdin(c)
		return
	}
	d.pumpStdin(c)
}

// ready moves what a client has typed.
func (r stdinReady) ready(d *Daemon, _ int, _ uint32) { d.pump(r.cl) }

// pumpStdin moves what every client has typed.
func (d *Daemon) pumpStdin(c *container) {
	for i := len(c.clients) - 1; i >= 0; i-- {
		if i < len(c.clients) {
			d.pump(c.clients[i])
		}
	}
}

// pump moves what cl has typed to the container, by splice: the two pipes are
// the only buffer there is. A client that does not read what it is shown is not
// listened to either, so that a copy through the container goes at its pace.
func (d *Daemon) pump(cl *client) {
	for cl.stdin >= 0 && !cl.waits() {
		to := cl.c.stdin
		if to < 0 {
			d.endStdin(cl)
			return
		}
		n, err := splice(cl.stdin, to, maxRaw)
		switch {
		case err == unix.EAGAIN: // either end will tell
			return
		case err == nil && n == 0:
			d.endStdin(cl)
			return
		case err != nil:
			d.closeStdin(cl.c)
			return
		}
	}
}

// endStdin notes that cl will type no more.
func (d *Daemon) endStdin(cl *client) {
	if cl.stdin < 0 {
		return
	}
	d.unwatch(&cl.stdin)
	if cl.control < 0 {
		d.forgetClient(cl) // it had left but for this
	}
	if cl.c.stdinOnce {
		d.closeStdin(cl.c)
	}
}

// closeStdin lets the container see the end of its stdin: init's duplicate must
// go as well. A terminal has no such end.
func (d *Daemon) closeStdin(c *container) {
	if c.tty || c.stdin < 0 {
		return
	}
	d.unwatch(&c.stdin)
	for _, cl := range append([]*client(nil), c.clients...) {
		d.endStdin(cl)
	}
	if d.opts.Drop != nil {
		if err := d.opts.Drop(c.id, c.stdinIndex); err != nil {
			d.opts.Printf("container %s: closing init's end of stdin: %v", c.id, err)
		}
	}
}
