package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/record"
	"github.com/postern-cri/postern/runtime/image"
)

// flight is one layer on its way in; pulls that need the same wait for it.
type flight struct {
	done chan struct{}
	err  error
}

// layers fetches the missing layers and has them admitted, several at once.
func (s *Server) layers(ctx context.Context, src *source, v *verifier, rec *record.Record, missing []int, progress func(image.Progress)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go v.receive()
	var done, total atomic.Int64
	for _, k := range missing {
		total.Add(rec.Layers[k].Size)
	}
	stop := make(chan struct{})
	var ticker sync.WaitGroup
	ticker.Add(1)
	go func() {
		defer ticker.Done()
		t := time.NewTicker(100 * time.Millisecond)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				progress(image.Progress{Stage: "download", Digest: rec.Manifest, Done: done.Load(), Total: total.Load()})
			case <-stop:
				return
			}
		}
	}()
	slots := make(chan struct{}, max(1, s.Parallel))
	seen := map[string]bool{}
	errs := make([]error, len(missing))
	var wg sync.WaitGroup
	for i, k := range missing {
		if seen[rec.Layers[k].DiffID] {
			continue // one image can have a layer twice
		}
		seen[rec.Layers[k].DiffID] = true
		wg.Add(1)
		go func() {
			defer wg.Done()
			if errs[i] = s.layer(ctx, src, v, rec, k, slots, &done); errs[i] != nil {
				cancel() // of the others
			}
		}()
	}
	wg.Wait()
	close(stop)
	ticker.Wait()
	return firstCause(errs)
}

// firstCause prefers the error that made the others stop.
func firstCause(errs []error) error {
	var first error
	for _, err := range errs {
		if err != nil && (first == nil || errors.Is(first, context.Canceled)) {
			first = err
		}
	}
	return first
}

func (s *Server) layer(ctx context.Context, src *source, v *verifier, rec *record.Record, k int, slots chan struct{}, done *atomic.Int64) error {
	l := rec.Layers[k]
	s.mu.Lock()
	for f := s.flights[l.DiffID]; f != nil; f = s.flights[l.DiffID] {
		s.mu.Unlock()
		select {
		case <-f.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		if f.err == nil {
			return nil
		}
		// The other pull failed, perhaps because nobody waited for it any more.
		s.mu.Lock()
	}
	f := &flight{done: make(chan struct{})}
	s.flights[l.DiffID] = f
	s.mu.Unlock()
	f.err = s.one(ctx, src, v, rec, k, slots, done)
	s.mu.Lock()
	delete(s.flights, l.DiffID)
	s.mu.Unlock()
	close(f.done)
	return f.err
}

func (s *Server) one(ctx context.Context, src *source, v *verifier, rec *record.Record, k int, slots chan struct{}, done *atomic.Int64) error {
	select {
	case slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	f, err := s.download(ctx, src, rec.Layers[k], done)
	<-slots
	if err != nil {
		return err
	}
	defer f.Close()
	return v.admit(rec.Manifest, k, int(f.Fd()))
}

// download fetches one blob to a file without a name, which goes when it is
// closed, however this process ends. A connection that breaks is taken up again
// where it stopped (by the transport). The digest is computed by who parses.
func (s *Server) download(ctx context.Context, src *source, l record.Layer, done *atomic.Int64) (*os.File, error) {
	r, err := src.blob(ctx, l.Digest)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	f, err := spoolFile(filepath.Join(s.store.dir, "spool"))
	if err != nil {
		return nil, fmt.Errorf("making a spool file: %w", err)
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{f}, io.LimitReader(counting{r, done}, l.Size+1), make([]byte, 256<<10))
	if err != nil {
		f.Close()
		return nil, classify(src.name.String(), err)
	}
	if n != l.Size {
		f.Close()
		return nil, image.Errorf(image.Invalid, "%s: layer %s: the registry sent %d bytes or more, the manifest says %d", src.name, l.Digest, n, l.Size)
	}
	return f, nil
}

type counting struct {
	io.Reader
	n *atomic.Int64
}

func (c counting) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.n.Add(int64(n))
	return n, err
}

// spoolFile makes a file that never had a name, or only for a moment where the
// filesystem cannot do that; the spool is cleared at the start for those.
func spoolFile(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		return os.NewFile(uintptr(fd), "blob"), nil
	}
	f, err := os.CreateTemp(dir, "blob-")
	if err != nil {
		return nil, err
	}
	return f, os.Remove(f.Name())
}
