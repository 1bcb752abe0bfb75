package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containers/image/v5/types"

	"github.com/postern-cri/postern/privsep/record"
	"github.com/postern-cri/postern/runtime/image"
)

// flight is one layer on its way in; pulls that need the same wait for it.
type flight struct {
	done chan struct{}
	err  error
}

// layers fetches the missing layers and has them admitted, several at once.
func (s *Server) layers(ctx context.Context, src *source, v *verifier, rec *record.Record, missing []int, report func(image.Progress)) error {
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
				report(image.Progress{Stage: "download", Digest: rec.Manifest, Done: done.Load(), Total: total.Load()})
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

// errShort is a blob that has a proper end, too early.
var errShort = fmt.Errorf("the blob is too short: %w", io.ErrUnexpectedEOF)

// progress is how much one connection must bring to be more than another way to
// keep a pull waiting.
const progress = 256 << 10

// one fetches one layer, from one place after another, and has it admitted.
func (s *Server) one(ctx context.Context, src *source, v *verifier, rec *record.Record, k int, slots chan struct{}, done *atomic.Int64) error {
	l := rec.Layers[k]
	b, err := s.parts.open(l.Digest, l.Size)
	if err != nil {
		return err
	}
	keep := true
	defer func() { b.close(keep) }()
	done.Add(b.have)
	for place := 0; ; {
		resumed := b.have > 0
		err := s.fill(ctx, src, place, rec.Manifest, l, b, slots, done)
		if err == nil {
			if err = v.admit(rec.Manifest, k, int(b.Fd())); err == nil {
				keep = false
				return nil
			}
			if image.AsError(err).Code != image.Invalid {
				keep = ctx.Err() != nil // else the node has no space for it, perhaps
				return err
			}
			// The bytes are wrong. Where they came from two connections, it may be that they
			// do not belong together.
			done.Add(-b.have)
			if rerr := b.reset(); rerr != nil {
				return rerr
			}
			if resumed {
				continue
			}
		}
		if ctx.Err() != nil {
			return err
		}
		if image.AsError(err).Code == image.Internal { // ours, too
			keep = false
			return err
		}
		place++
		if next, _ := src.other(rec.Manifest, place-1); next == nil {
			return err
		}
	}
}

// fill fetches what is missing of a blob. The digest is computed by who parses.
func (s *Server) fill(ctx context.Context, src *source, place int, manifest string, l record.Layer, b *part, slots chan struct{}, done *atomic.Int64) error {
	select {
	case slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-slots }()
	for pause := 0; b.have < l.Size; {
		from, err := src.place(ctx, manifest, place)
		if err != nil {
			return err
		}
		n, err := s.copy(ctx, from, l, b, done)
		if b.have += n; b.have > l.Size {
			done.Add(-b.have)
			if err := b.reset(); err != nil {
				return err
			}
			return image.Errorf(image.Invalid, "%s: layer %s: the registry sends more than the %d bytes of the manifest", src.name, l.Digest, l.Size)
		}
		if n >= progress {
			pause = 0 // what moves on is gone on with, however often it breaks
		}
		if err == nil || ctx.Err() == nil && passing(err) && pause < len(pauses) && sleep(ctx, pauses[pause]) {
			pause++
			continue
		}
		if errors.Is(err, errShort) {
			return image.Errorf(image.Invalid, "%s: layer %s: the registry sent %d bytes, the manifest says %d", src.name, l.Digest, b.have, l.Size)
		}
		return classify(src.name.String(), err)
	}
	return nil
}

// copy fetches a blob from where b ends, as far as the registry sends it.
func (s *Server) copy(ctx context.Context, from types.ImageSource, l record.Layer, b *part, done *atomic.Int64) (int64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := newSteady(nil, s.Paths.Stall, func() { cancel(&stallError{s.Paths.Stall}) })
	defer watch.timer.Stop()
	ctx, leave := memory.enter(ctx)
	r, err := blobFrom(ctx, from, l.Digest, b.have, l.Size)
	leave() // what is copied from here is not kept
	if err != nil {
		return 0, because(ctx, err)
	}
	// Cancelled before it is closed: the library reads to the end of what it closes.
	defer r.Close()
	defer cancel(nil)
	watch.Reader = r
	n, err := io.CopyBuffer(struct{ io.Writer }{b.File}, io.LimitReader(counting{watch, done}, l.Size-b.have+1), make([]byte, 256<<10))
	if err == nil && b.have+n < l.Size {
		err = errShort
	}
	return n, because(ctx, err)
}

type counting struct {
	io.Reader
	n *atomic.Int64
}

// Read implements io.Reader.
func (c counting) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.n.Add(int64(n))
	return n, err
}
