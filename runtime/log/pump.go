package logd

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// journal is one stream's pipe between source and log.
type journal struct{ r, w int }

// output is one output stream of a container.
type output struct {
	c       *container
	stream  Stream
	src     int // pipe that holds what the container wrote; -1 after its end
	journal journal
	hup     bool // no writer is left
	queued  bool // stands in the daemon's queue
	shown   int  // bytes at the head of src that attached clients have been given

	tty      int  // pty master that src is filled from, or -1
	ttyStage int  // write end of src
	ownStage bool // that was not handed over
}

// errBlocked says that the log cannot be written now: come back in a second.
var errBlocked = errors.New("log cannot be written")

// step moves one batch of o to the log and reports whether more may be waiting.
// errBlocked leaves everything where it is.
func (d *Daemon) step(o *output) (more bool, err error) {
	c := o.c
	if err := d.settle(c); err != nil {
		return false, err
	}
	if o.src < 0 {
		return false, nil
	}
	full := false
	if o.tty >= 0 {
		if full, err = o.fill(); err != nil {
			return false, err
		}
	}
	hup := o.hup // before the look: what a writer left before it went is seen
	held, err := pending(o.src)
	if err != nil {
		return false, fmt.Errorf("measuring a pipe: %w", err)
	}
	if held == 0 {
		if hup {
			d.ended(o)
		}
		return false, nil
	}
	raw, err := d.look(o).peek(o.src, maxRaw)
	if err != nil || len(raw) == 0 {
		return false, err
	}
	if len(raw) > o.shown {
		d.show(o, raw[o.shown:])
		o.shown = len(raw)
	}
	if c.log < 0 {
		return true, d.discard(o, len(raw))
	}
	force := full || (hup && len(raw) >= held) || c.flush
	now := time.Now()
	out, n := format(d.out[:0], maxOut, raw, now, o.stream, force)
	if n == 0 {
		if !o.cramped(len(raw), held) {
			return false, nil
		}
		out, n = format(d.out[:0], maxOut, raw, now, o.stream, true)
	}
	looked := len(raw)
	c.state = state{phase: moving, stream: o.stream, raw: n}
	if err := c.state.save(c.stateFD); err != nil {
		c.state = state{}
		return false, err
	}
	if err := o.move(n); err != nil {
		return false, err
	}
	if err := c.begin(now, len(out)); err != nil {
		return false, err
	}
	if err := c.append(out); err != nil {
		return false, err
	}
	if err := d.consume(c); err != nil {
		return false, err
	}
	return looked < held || n < looked && len(out) > maxOut/2 || hup || full, nil
}

// cramped reports whether the source may have no room for the newline that it
// is waited for, though it holds less than a line: its buffers are many and tiny,
// or the container made its pipe small.
func (o *output) cramped(looked, held int) bool {
	if looked < held {
		return true
	}
	if o.tty >= 0 {
		return false
	}
	size, err := unix.FcntlInt(uintptr(o.src), unix.F_GETPIPE_SZ, 0)
	if err != nil || size > peekSlots*os.Getpagesize() {
		return false
	}
	_, err = unix.FcntlInt(uintptr(o.src), unix.F_SETPIPE_SZ, 2*peekSlots*os.Getpagesize())
	return err != nil
}

// move moves n bytes from the source to the journal.
func (o *output) move(n int) error {
	for n > 0 {
		m, err := splice(o.src, o.journal.w, n)
		if err != nil {
			return fmt.Errorf("moving to the journal: %w", err)
		}
		if m == 0 {
			return errors.New("moving to the journal: source is shorter than it was")
		}
		n -= m
		o.shown = max(0, o.shown-m)
	}
	return nil
}

// discard drops n bytes of a source that has no log.
func (d *Daemon) discard(o *output, n int) error {
	for n > 0 {
		m, err := ignoringEINTR(func() (int, error) { return unix.Read(o.src, d.scratch.buf[:min(n, maxRaw)]) })
		if err == unix.EAGAIN || err == nil && m == 0 {
			break
		}
		if err != nil {
			return err
		}
		n -= m
	}
	o.shown = 0
	return nil
}

// begin enters phase writing: size bytes of records will follow what the log has.
func (c *container) begin(now time.Time, size int) error {
	var st unix.Stat_t
	if err := unix.Fstat(c.log, &st); err != nil {
		return fmt.Errorf("measuring a log: %w", err)
	}
	s := c.state
	s.phase, s.stamp, s.size, s.base, s.inode = writing, now.UnixNano(), size, st.Size, st.Ino
	if err := s.save(c.stateFD); err != nil {
		return err
	}
	c.state = s
	return nil
}

// append writes rest, the end of the batch's records, and enters phase consuming.
func (c *container) append(rest []byte) error {
	for len(rest) > 0 {
		n, err := ignoringEINTR(func() (int, error) { return unix.Write(c.log, rest) })
		if err != nil || n <= 0 {
			return fmt.Errorf("%w: %w", errBlocked, err)
		}
		rest = rest[n:]
	}
	s := c.state
	s.phase = consuming
	if err := s.save(c.stateFD); err != nil {
		return err
	}
	c.state = s
	return nil
}

// consume empties the journal of a batch that is in the log.
func (d *Daemon) consume(c *container) error {
	if err := d.scratch.drain(c.outputs[c.state.stream].journal.r); err != nil {
		return fmt.Errorf("emptying the journal: %w", err)
	}
	c.state.phase = idle // the record may say consuming: of an empty journal that is the same
	return nil
}

// settle brings the batch in flight to its end, whoever began it. See phase.
func (d *Daemon) settle(c *container) error {
	if c.state.phase == idle {
		return nil
	}
	o := &c.outputs[c.state.stream]
	if o.journal.r < 0 {
		c.state.phase = idle
		return errors.New("state names a stream without a journal")
	}
	held, err := pending(o.journal.r)
	if err != nil {
		return fmt.Errorf("measuring the journal: %w", err)
	}
	switch c.state.phase {
	case moving:
		if held == 0 {
			c.state.phase = idle // nothing was moved: look again
			return nil
		}
		if o.src >= 0 && held < c.state.raw {
			if err := o.move(c.state.raw - held); err != nil {
				return err
			}
		}
	case writing:
		err := d.rewrite(c)
		if err == nil || errors.Is(err, errBlocked) {
			if err == nil {
				err = d.consume(c)
			}
			return err
		}
		// The journal is not what the record says. Only a fault of ours or of the
		// fds' keeper leads here: what is there is logged as new, rather twice than
		// never.
		d.opts.Printf("container %s: %v", c.id, err)
	case consuming:
		return d.consume(c)
	}
	return d.restart(c)
}

// restart logs what the journal holds, of which nothing has been written.
func (d *Daemon) restart(c *container) error {
	o := &c.outputs[c.state.stream]
	raw, err := d.look(o).peek(o.journal.r, maxRaw)
	if err != nil {
		return err
	}
	now := time.Now()
	out, n := format(d.out[:0], maxOut, raw, now, o.stream, true)
	if n != len(raw) {
		return fmt.Errorf("journal holds more than a batch: %d bytes", len(raw))
	}
	if c.log < 0 || n == 0 {
		return d.consume(c)
	}
	c.state.raw = n
	if err := c.begin(now, len(out)); err != nil {
		return err
	}
	if err := c.append(out); err != nil {
		return err
	}
	return d.consume(c)
}

// rewrite appends what the log lacks of the journal's batch.
func (d *Daemon) rewrite(c *container) error {
	if c.log < 0 {
		return nil
	}
	out, err := d.reformat(c)
	if err != nil {
		return err
	}
	done, err := c.written()
	if err != nil {
		return fmt.Errorf("%w: %w", errBlocked, err)
	}
	return c.append(out[done:])
}

// reformat makes the records of the journal's batch once more.
func (d *Daemon) reformat(c *container) ([]byte, error) {
	o := &c.outputs[c.state.stream]
	raw, err := d.look(o).peek(o.journal.r, maxRaw)
	if err != nil {
		return nil, err
	}
	out, n := format(d.out[:0], maxOut, raw, time.Unix(0, c.state.stamp), o.stream, true)
	if len(raw) != c.state.raw || n != len(raw) || len(out) != c.state.size {
		return nil, fmt.Errorf("journal holds %d bytes for %d of records, state says %d for %d",
			len(raw), len(out), c.state.raw, c.state.size)
	}
	return out, nil
}

// written returns how many bytes of the batch's records are in the log.
func (c *container) written() (int, error) {
	var st unix.Stat_t
	if err := unix.Fstat(c.log, &st); err != nil {
		return 0, fmt.Errorf("measuring a log: %w", err)
	}
	if st.Ino != c.state.inode || st.Size <= c.state.base {
		// Another file, or one that somebody cut: all of the batch goes there. The
		// base moves, so that a next attempt knows what this one wrote.
		if st.Ino != c.state.inode || st.Size < c.state.base {
			s := c.state
			s.base, s.inode = st.Size, st.Ino
			if err := s.save(c.stateFD); err != nil {
				return 0, err
			}
			c.state = s
		}
		return 0, nil
	}
	return int(min(st.Size-c.state.base, int64(c.state.size))), nil
}
