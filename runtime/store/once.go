package store

import (
	"context"
)

// flight is one creation under way.
type flight struct {
	request string
	done    chan struct{}
	id      string
	err     error
}

// Once makes the thing called key at most once. Where it exists already,
// existing decides what to answer; where a creation of the same request is under
// way, the caller waits for that one's answer. A caller that goes away does not
// stop the creation: the kubelet tries again and then gets the thing instead of
// "name is reserved". conflict is the answer to another request of that name.
func (s *Store) Once(ctx context.Context, key, request string, existing func(id string) (string, error),
	conflict func() error, create func(context.Context) (string, error)) (string, error) {
	s.flightMu.Lock()
	if f, ok := s.flights[key]; ok {
		s.flightMu.Unlock()
		if f.request != request {
			return "", conflict()
		}
		return f.wait(ctx)
	}
	s.mu.RLock()
	id, ok := s.name[key]
	s.mu.RUnlock()
	if ok {
		s.flightMu.Unlock()
		return existing(id)
	}
	f := &flight{request: request, done: make(chan struct{})}
	s.flights[key] = f
	s.flightMu.Unlock()
	go func() {
		f.id, f.err = create(context.WithoutCancel(ctx))
		s.flightMu.Lock()
		delete(s.flights, key)
		s.flightMu.Unlock()
		close(f.done)
	}()
	return f.wait(ctx)
}

func (f *flight) wait(ctx context.Context) (string, error) {
	select {
	case <-f.done:
		return f.id, f.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}
