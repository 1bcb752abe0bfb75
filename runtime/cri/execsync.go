package cri

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/wire"
	"github.com/postern-cri/postern/runtime/store"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// maxOutput is the most bytes of each stream that ExecSync returns
	// (CVE-2022-1708, CVE-2022-31030); the rest is read and thrown away.
	maxOutput = 16 << 20
	// smallOutput is what an exec may keep without waiting for a place: probes
	// stay below it, and a hundred flooding ones cannot fill the memory.
	smallOutput = 256 << 10
	// largeOutputs is how many execs may keep more than that at a time.
	largeOutputs = 2
	// drain is how long output is still read after the process has ended: a child
	// that it left behind may hold the pipe for ever.
	drain = 300 * time.Millisecond
)

var largeSlots = make(chan struct{}, largeOutputs)

// ExecSync runs a process in a container and returns its output. It is decided
// at the boundary.
func (s *Server) ExecSync(ctx context.Context, r *cri.ExecSyncRequest) (*cri.ExecSyncResponse, error) {
	const method = "ExecSync"
	c, err := s.running(r.ContainerId)
	if err != nil {
		return nil, fail(method, err)
	}
	if len(r.Cmd) == 0 {
		return nil, invalid("cmd: empty")
	}
	if r.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(min(r.Timeout, 1<<31))*time.Second)
		defer cancel()
	}
	a, files, err := s.exec(ctx, method, c, plan.ExecPlan{Args: r.Cmd, Stdout: true, Stderr: true, Sync: true})
	if err != nil {
		return nil, fail(method, err)
	}
	defer closeAll(files)
	if len(files) != 2 {
		return nil, status.Errorf(codes.Internal, "%s: %d streams from the privileged side, want 2", method, len(files))
	}
	ended, cancel := s.exits.exec(a.Exec)
	defer cancel()

	large := &slot{}
	defer large.release()
	var out [2]output
	var wg sync.WaitGroup
	for i := range out {
		f, err := pollable(files[i])
		if err != nil {
			s.kill(ctx, a.Exec)
			return nil, fail(method, err)
		}
		defer f.Close()
		out[i].f, out[i].slot = f, large
		wg.Go(func() { out[i].read(ctx) })
	}
	e, err := waitExit(ctx, ended, 0)
	if err != nil {
		s.kill(ctx, a.Exec)
		for i := range out {
			out[i].f.SetReadDeadline(time.Now())
		}
		wg.Wait()
		if errors.Is(err, context.DeadlineExceeded) {
			return nil, status.Errorf(codes.DeadlineExceeded, "command %q timed out and was killed", clip(r.Cmd[0], 256))
		}
		return nil, fail(method, err)
	}
	for i := range out {
		out[i].f.SetReadDeadline(time.Now().Add(drain))
	}
	wg.Wait()
	return &cri.ExecSyncResponse{Stdout: out[0].kept, Stderr: out[1].kept, ExitCode: e.Code}, nil
}

func (s *Server) running(id string) (*store.Container, error) {
	c, err := s.store.Container(id)
	if err != nil {
		return nil, err
	}
	if c.State != store.Running {
		return nil, status.Errorf(codes.FailedPrecondition, "container_id: container %s is not running", c.ID)
	}
	return c, nil
}

func (s *Server) exec(ctx context.Context, method string, c *store.Container, p plan.ExecPlan) (*wire.CtrExecAnswer, []*os.File, error) {
	claims := s.claims(ctx, method)
	claimContainer(&claims, c)
	if pod, err := s.store.Pod(c.Pod); err == nil {
		claimPod(&claims, pod)
	}
	// Started is started: a caller that gives up in the middle must not leave a
	// process whose handle nobody knows. The privileged side bounds the launch.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	return s.helper.CtrExec(ctx, c.ID, p, claims)
}

// kill ends an exec whose caller has gone or waited long enough.
func (s *Server) kill(ctx context.Context, exec string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := s.helper.CtrSignal(ctx, exec, 9, false); err != nil && !isHelper(err, wire.NotFound) {
		s.log.Warn("killing an exec", "exec", exec, "error", err)
	}
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// pollable returns a duplicate of f whose reads obey a deadline.
func pollable(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// slot is one exec's place among those that keep much output.
type slot struct {
	mu   sync.Mutex
	held bool
}

func (l *slot) acquire(ctx context.Context) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held {
		return true
	}
	select {
	case largeSlots <- struct{}{}:
		l.held = true
		return true
	case <-ctx.Done():
		return false
	}
}

func (l *slot) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held {
		<-largeSlots
		l.held = false
	}
}

// output collects one stream, exactly its first maxOutput bytes.
type output struct {
	f    *os.File
	slot *slot
	kept []byte
}

func (o *output) read(ctx context.Context) {
	buf := make([]byte, 16<<10)
	for {
		n, err := o.f.Read(buf)
		if !o.keep(ctx, buf[:n]) {
			return
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			o.rest(ctx, buf)
			return
		case err != nil:
			if !errors.Is(err, io.EOF) {
				o.f.Close()
			}
			return
		}
	}
}

func (o *output) keep(ctx context.Context, b []byte) bool {
	if room := maxOutput - len(o.kept); room > 0 && len(b) > 0 {
		if len(o.kept)+len(b) > smallOutput && !o.slot.acquire(ctx) {
			return false
		}
		o.kept = append(o.kept, b[:min(len(b), room)]...)
	}
	return true
}

// rest reads what is in the pipe when its time is over: on a busy node, or after a
// wait for a place, that is output which was there in time.
func (o *output) rest(ctx context.Context, buf []byte) {
	raw, err := o.f.SyscallConn()
	if err != nil {
		return
	}
	for left := 1 << 20; left > 0; { // what a pipe holds; who still writes is not waited for
		n := 0
		raw.Control(func(fd uintptr) { n, err = unix.Read(int(fd), buf) })
		if err == unix.EINTR {
			continue
		}
		if n <= 0 || !o.keep(ctx, buf[:n]) {
			return
		}
		left -= n
	}
}
