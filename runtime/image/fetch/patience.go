package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/containers/image/v5/docker"
	"github.com/docker/distribution/registry/api/errcode"
)

// pauses are waited between tries: registries that are restarted, or that have
// too much to do, answer a moment later.
var pauses = []time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second}

// patiently does what a registry may fail at for the moment, again and again.
func patiently(ctx context.Context, do func() error) error {
	for _, pause := range pauses {
		err := do()
		if err == nil || !passing(err) {
			return err
		}
		if !sleep(ctx, pause) {
			return err
		}
	}
	return do()
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// passing says whether an error is one that may be gone the next time. That
// nobody is there, or that nothing comes any more, took its time already.
func passing(err error) bool {
	var status docker.UnexpectedHTTPStatusError
	if errors.As(err, &status) {
		return status.StatusCode >= 500
	}
	var code errcode.ErrorCoder
	if errors.As(err, &code) {
		return code.ErrorCode().Descriptor().HTTPStatusCode >= 500
	}
	var stalled *stallError
	var dial *net.OpError
	switch {
	case errors.As(err, &stalled), errors.As(err, &dial) && dial.Op == "dial":
		return false
	}
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// stallError is a registry that says nothing more.
type stallError struct{ after time.Duration }

// Error implements error.
func (e *stallError) Error() string {
	return fmt.Sprintf("the registry did not answer for %v", e.after)
}

// bounded is for what is small: all of it must come in the time in which
// something must come of a layer.
func (p Paths) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, leave := memory.enter(ctx)
	ctx, cancel := context.WithTimeoutCause(ctx, p.Stall, &stallError{p.Stall})
	return ctx, func() { cancel(); leave() }
}

// because puts the reason why ctx has ended in the place of what that led to.
func because(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// enough is what must come in the time after which a transfer counts as stalled:
// one that brings a byte now and then would keep its place among the pulls for ever.
const enough = 64 << 10

// steady reads, and has stop called when not enough came for a while.
type steady struct {
	io.Reader
	timer *time.Timer
	after time.Duration
	n     int
}

func newSteady(r io.Reader, after time.Duration, stop func()) *steady {
	return &steady{Reader: r, timer: time.AfterFunc(after, stop), after: after}
}

// Read implements io.Reader.
func (s *steady) Read(b []byte) (int, error) {
	n, err := s.Reader.Read(b)
	if s.n += n; s.n >= enough {
		s.timer.Reset(s.after)
		s.n = 0
	}
	return n, err
}
