package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/utils/exec"
)

// executor is the library's view of the server. The ids that it gets are tokens.
type executor struct{ s *Server }

// errGone ends a session whose client is not there any more.
var errGone = errors.New("client has gone")

// drainPause is how long nothing may come from a command that has ended before
// its output is taken for complete, though some process that it left behind holds
// the other end open.
const drainPause = 500 * time.Millisecond

// client is the client's side of exec and attach.
type client struct {
	in       io.Reader
	out, err io.WriteCloser
	resize   <-chan remotecommand.TerminalSize
}

// Exec runs a granted command.
func (e *executor) Exec(_ context.Context, id string, _ []string, in io.Reader, out, err io.WriteCloser, _ bool,
	resize <-chan remotecommand.TerminalSize) error {
	n, gerr := e.s.sessions.get(id)
	if gerr != nil {
		return gerr
	}
	return e.s.exec(n, client{in, out, err, resize})
}

// Attach attaches to a granted container.
func (e *executor) Attach(_ context.Context, id string, in io.Reader, out, err io.WriteCloser, _ bool,
	resize <-chan remotecommand.TerminalSize) error {
	n, gerr := e.s.sessions.get(id)
	if gerr != nil {
		return gerr
	}
	return e.s.attach(n, client{in, out, err, resize})
}

func (s *Server) exec(n *session, c client) error {
	g, err := s.redeem(n, 0)
	if err != nil {
		return err
	}
	defer g.Close()
	x := n.start(g, c, func(w, h uint16) {
		if pty := g.files["pty"]; pty != nil {
			control(pty, func(fd int) {
				unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: h, Col: w})
			})
		}
	})
	type result struct {
		code int32
		err  error
	}
	exited := make(chan result, 1)
	go func() {
		code, err := g.exit()
		exited <- result{code, err}
	}()
	var r result
	select {
	case r = <-exited:
		if r.err == nil {
			x.drain()
		}
	case <-n.gone:
		return errGone
	}
	select {
	case <-x.finished:
	case <-n.gone:
		return errGone
	}
	if r.err != nil {
		return r.err
	}
	if r.code != 0 {
		return exec.CodeExitError{Err: fmt.Errorf("exit status %d", r.code), Code: int(r.code)}
	}
	return nil
}

func (s *Server) attach(n *session, c client) error {
	g, err := s.redeem(n, 0)
	if err != nil {
		return err
	}
	defer g.Close()
	x := n.start(g, c, func(w, h uint16) {
		if control := g.files["control"]; control != nil {
			fmt.Fprintf(control, `{"resize":{"w":%d,"h":%d}}`, w, h)
		}
	})
	finished := x.finished
	if !x.shows {
		finished = x.typed // nothing to see: the session is its input
	}
	select {
	case <-finished:
		return nil
	case <-n.gone:
		return errGone
	}
}

// copies are a session's copiers. Each has one buffer, and waits for whoever it
// writes to: what is slow slows down its own source.
type copies struct {
	finished chan struct{} // all output has been copied
	typed    chan struct{} // input has ended
	shows    bool          // there is output
	draining atomic.Bool
	outputs  []*os.File
}

var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// start starts to copy between g's files and the client.
func (n *session) start(g *granted, c client, resize func(w, h uint16)) *copies {
	x := &copies{finished: make(chan struct{}), typed: make(chan struct{})}
	in, out, errOut := g.files["stdin"], g.files["stdout"], g.files["stderr"]
	if pty := g.files["pty"]; pty != nil {
		in, out = pty, pty
	}
	var writers sync.WaitGroup
	output := func(wanted bool, w io.WriteCloser, f *os.File) {
		if f == nil {
			return
		}
		x.shows = x.shows || wanted
		x.outputs = append(x.outputs, f)
		if !wanted || w == nil {
			w = nil // read all the same: a command must not wait for somebody to look
		}
		writers.Go(func() { x.show(w, f) })
	}
	output(n.stdout, c.out, out)
	output(n.stderr, c.err, errOut)
	go func() {
		writers.Wait()
		close(x.finished)
	}()
	go func() {
		defer close(x.typed)
		if n.stdin && c.in != nil && in != nil {
			b := buffers.Get().(*[32 << 10]byte)
			defer buffers.Put(b)
			copyAll(in, taking{c.in, n.conn}, b[:])
		}
		if f := g.files["stdin"]; f != nil {
			f.Close() // half of the session is over; a terminal has no halves
		}
	}()
	if c.resize != nil {
		go func() {
			for {
				select {
				case size, ok := <-c.resize:
					if !ok {
						return
					}
					n.conn.taken(0)
					resize(size.Width, size.Height)
				case <-n.gone:
					return
				}
			}
		}()
	}
	return x
}

// show copies f to the client until its end.
func (x *copies) show(w io.WriteCloser, f *os.File) {
	b := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(b)
	for {
		if x.draining.Load() {
			f.SetReadDeadline(time.Now().Add(drainPause))
		}
		n, err := f.Read(b[:])
		if n > 0 && w != nil {
			if _, werr := w.Write(b[:n]); werr != nil {
				w = nil // the client's going is noticed elsewhere
			}
		}
		if err != nil {
			return // a terminal ends with EIO
		}
	}
}

// drain has the copiers stop when nothing more comes.
func (x *copies) drain() {
	x.draining.Store(true)
	for _, f := range x.outputs {
		f.SetReadDeadline(time.Now().Add(drainPause))
	}
}

// copyAll is io.Copy through b, whatever the two could do by themselves.
func copyAll(w io.Writer, r io.Reader, b []byte) error {
	for {
		n, err := r.Read(b)
		if n > 0 {
			if _, werr := w.Write(b[:n]); werr != nil {
				return werr
			}
		}
		if err != nil {
			return err
		}
	}
}

// control calls do with f's fd, which stays non-blocking.
func control(f *os.File, do func(fd int)) {
	if rc, err := f.SyscallConn(); err == nil {
		rc.Control(func(fd uintptr) { do(int(fd)) })
	}
}
