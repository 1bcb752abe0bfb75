package logd

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// container is what is known of one container: the fds that were handed over.
type container struct {
	id        string
	tty       bool
	stdinOnce bool

	log     int // -1 where output goes to attached clients only
	stateFD int
	state   state
	outputs [2]output

	stdin      int // write end of the container's stdin; the pty master for a terminal; -1 after its end
	stdinIndex int // its place among what init keeps

	clients   []*client
	blocked   bool      // the log could not be written
	retry     time.Time // when to try again
	warned    bool      // and our own log says so
	flush     bool      // partial lines do not wait any longer
	removing  *peer     // who waits for the answer to remove
	removeEnd time.Time
}

// Announcement is what the helper says of a container when it hands over its
// fds, and what init keeps beside them.
type Announcement struct {
	Op        string   `json:"op"` // "add"
	ID        string   `json:"id"`
	TTY       bool     `json:"tty,omitempty"`
	Stdin     bool     `json:"stdin,omitempty"`
	StdinOnce bool     `json:"stdin_once,omitempty"`
	Names     []string `json:"names"` // of the fds, in order
}

// Names of fds. A terminal's container has NamePTY in place of the three pipes,
// and both journals: the second is where its output waits for the end of a line.
const (
	NameStdout  = "stdout"
	NameStderr  = "stderr"
	NameStdin   = "stdin"
	NamePTY     = "pty"
	NameLog     = "log"
	NameOutR    = "journal-out-r"
	NameOutW    = "journal-out-w"
	NameErrR    = "journal-err-r"
	NameErrW    = "journal-err-w"
	NameState   = "state"
	NameControl = "control"
)

// ttySlots is how many buffers a terminal's pipes should have: every read from a
// terminal takes one, be it a single character.
const ttySlots = 64

// newContainer adopts fds, whose places are index (nil: as named). On an error
// they are the caller's still.
func newContainer(a *Announcement, fds, index []int) (_ *container, failed error) {
	if a.ID == "" || len(a.ID) > 128 {
		return nil, errors.New("bad id")
	}
	if index == nil {
		if len(fds) != len(a.Names) {
			return nil, fmt.Errorf("%d fds for %d names", len(fds), len(a.Names))
		}
		for i := range fds {
			index = append(index, i)
		}
	}
	have, place := map[string]int{}, map[string]int{}
	for i, fd := range fds {
		if i >= len(index) || index[i] < 0 || index[i] >= len(a.Names) {
			return nil, errors.New("an fd without a name")
		}
		name := a.Names[index[i]]
		if _, twice := have[name]; twice {
			return nil, fmt.Errorf("two fds named %q", name)
		}
		have[name], place[name] = fd, index[i]
	}
	for _, name := range a.Names {
		switch name {
		case NameStdout, NameStderr, NameStdin, NamePTY, NameLog, NameOutR, NameOutW, NameErrR, NameErrW, NameState:
		default:
			return nil, fmt.Errorf("unknown fd name %q", name)
		}
	}
	get := func(name string) int {
		if fd, ok := have[name]; ok {
			return fd
		}
		return -1
	}
	c := &container{id: a.ID, tty: a.TTY, stdinOnce: a.StdinOnce, log: get(NameLog), stateFD: get(NameState),
		stdin: get(NameStdin), stdinIndex: place[NameStdin]}
	out, err := &c.outputs[Stdout], &c.outputs[Stderr]
	*out = output{c: c, stream: Stdout, src: get(NameStdout), tty: -1, ttyStage: -1,
		journal: journal{get(NameOutR), get(NameOutW)}}
	*err = output{c: c, stream: Stderr, src: get(NameStderr), tty: -1, ttyStage: -1,
		journal: journal{get(NameErrR), get(NameErrW)}}
	if a.TTY {
		if e := c.adoptTerminal(get(NamePTY), out, err); e != nil {
			return nil, e
		}
		defer func() {
			if failed != nil && out.ownStage {
				closeFD(&out.src)
				closeFD(&out.ttyStage)
			}
		}()
	}
	if c.log >= 0 {
		if c.stateFD < 0 {
			return nil, errors.New("a log without a state")
		}
		for i := range c.outputs {
			if o := &c.outputs[i]; o.src >= 0 && (o.journal.r < 0 || o.journal.w < 0) {
				return nil, fmt.Errorf("%s without a journal", o.stream)
			}
		}
		s, e := loadState(c.stateFD)
		if e != nil {
			return nil, e
		}
		c.state = s
	}
	for _, fd := range []int{c.stdin, out.src, err.src, out.tty, out.journal.r, err.journal.r} {
		if fd >= 0 {
			if e := unix.SetNonblock(fd, true); e != nil {
				return nil, fmt.Errorf("making an fd non-blocking: %w", e)
			}
		}
	}
	return c, nil
}

// adoptTerminal makes the second journal the source of the first: a terminal can
// not be looked at without taking, but splice takes from it into a pipe in one
// system call, that a kill does not cut in two.
func (c *container) adoptTerminal(pty int, out, err *output) error {
	switch {
	case pty < 0:
		return errors.New("a terminal without its fd")
	case out.src >= 0 || err.src >= 0 || c.stdin >= 0:
		return errors.New("a terminal with pipes")
	case err.journal.r < 0 || err.journal.w < 0:
		// Without a log there is nothing to lose, and a pipe of our own does. With
		// one, what waits for its newline is lost if we are killed.
		var p [2]int
		if e := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); e != nil {
			return fmt.Errorf("making a pipe: %w", e)
		}
		err.journal = journal{p[0], p[1]}
		out.ownStage = true
	}
	out.tty, out.src, out.ttyStage = pty, err.journal.r, err.journal.w
	err.journal = journal{-1, -1}
	c.stdin = pty
	// The journal must hold all that the source can; the kernel may say no to
	// either, then long prompts are logged in more pieces.
	if _, e := unix.FcntlInt(uintptr(out.journal.w), unix.F_SETPIPE_SZ, ttySlots*os.Getpagesize()); e == nil {
		unix.FcntlInt(uintptr(out.ttyStage), unix.F_SETPIPE_SZ, ttySlots*os.Getpagesize())
	}
	return nil
}

// fill moves what the terminal has into the source, and reports whether that is
// full. Where the last process has closed the terminal, hup is set until another
// opens it.
//
// Expected syscalls: splice, poll.
func (o *output) fill() (full bool, err error) {
	for range 64 {
		n, err := splice(o.tty, o.ttyStage, maxRaw)
		switch {
		case err == unix.EIO || err == nil && n == 0:
			o.hup = true
			return false, nil
		case err == unix.EAGAIN:
			p := []unix.PollFd{{Fd: int32(o.ttyStage), Events: unix.POLLOUT}}
			if _, err := unix.Poll(p, 0); err != nil && err != unix.EINTR {
				return false, err
			}
			return p[0].Revents&unix.POLLOUT == 0, nil
		case err != nil:
			return false, fmt.Errorf("reading a terminal: %w", err)
		}
		o.hup = false
	}
	return true, nil
}

// reopen puts fd in the place of the log. A line that was cut by a full disk goes
// to the new file as a whole.
func (d *Daemon) reopen(c *container, fd int) error {
	if c.state.phase != idle {
		if err := d.settle(c); err != nil && c.state.phase == writing {
			if err := d.rebase(c, fd); err != nil {
				return err
			}
		}
	}
	closeFD(&c.log)
	c.log = fd
	return nil
}

// rebase moves a half-written batch to the log fd: records that are whole in the
// old file stay there, the cut one is taken back from it if possible.
func (d *Daemon) rebase(c *container, fd int) error {
	out, err := d.reformat(c)
	if err != nil {
		return err
	}
	done, err := c.written()
	if err != nil {
		return err
	}
	whole := done
	for whole > 0 && out[whole-1] != '\n' {
		whole--
	}
	if whole < done {
		unix.Ftruncate(c.log, c.state.base+int64(whole))
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("measuring a log: %w", err)
	}
	s := c.state
	s.base, s.inode = st.Size-int64(whole), st.Ino
	if err := s.save(c.stateFD); err != nil {
		return err
	}
	c.state = s
	return nil
}

// ended notes that o will never have output again, or for a terminal, that it has
// none now.
func (d *Daemon) ended(o *output) {
	if o.tty < 0 {
		d.unwatch(&o.src)
	}
	for _, cl := range append([]*client(nil), o.c.clients...) {
		d.endOutput(cl, o.stream)
	}
}

// finished reports whether nothing is left to log.
func (c *container) finished() bool {
	if c.state.phase != idle {
		return false
	}
	for i := range c.outputs {
		o := &c.outputs[i]
		if o.tty >= 0 {
			n, err := pending(o.src)
			return err != nil || n == 0 && !o.queued
		}
		if o.src >= 0 {
			return false
		}
	}
	return true
}

// close gives up every fd.
func (d *Daemon) close(c *container) {
	for len(c.clients) > 0 {
		d.dropClient(c.clients[0])
	}
	if c.stdin == c.outputs[Stdout].tty {
		c.stdin = -1
	}
	d.unwatch(&c.stdin)
	for i := range c.outputs {
		o := &c.outputs[i]
		d.unwatch(&o.tty)
		d.unwatch(&o.src)
		closeFD(&o.ttyStage)
		closeFD(&o.journal.r)
		closeFD(&o.journal.w)
	}
	closeFD(&c.log)
	closeFD(&c.stateFD)
}

func closeFD(fd *int) {
	if *fd >= 0 {
		unix.Close(*fd)
		*fd = -1
	}
}
