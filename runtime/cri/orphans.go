package cri

import (
	"context"
	"sync"
	"time"
)

// underWay knows the creations under way, so that what one of them has just made
// is not taken for an orphan.
type underWay struct {
	mu  sync.Mutex
	all map[chan struct{}]bool
}

// begin notes a creation; the result ends it, once what it made is stored.
func (u *underWay) begin() (end func()) {
	done := make(chan struct{})
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.all == nil {
		u.all = map[chan struct{}]bool{}
	}
	u.all[done] = true
	return func() {
		u.mu.Lock()
		delete(u.all, done)
		u.mu.Unlock()
		close(done)
	}
}

// wait waits for those that have begun, and for no later one.
func (u *underWay) wait() {
	u.mu.Lock()
	var now []chan struct{}
	for c := range u.all {
		now = append(now, c)
	}
	u.mu.Unlock()
	for _, c := range now {
		<-c
	}
}

// doubt is told of the error of a creation. One that is no answer leaves open
// whether something was made: the privileged side died, or took too long. It would
// hold memory and addresses, and keep its pod from being stopped.
func (s *Server) doubt(err error) {
	if _, _, _, answered := helperError(err); err != nil && !answered {
		s.seekOrphans()
	}
}

func (s *Server) seekOrphans() {
	select {
	case s.doubts <- struct{}{}:
	default: // it is looked into already
	}
}

// clearDoubts deletes what creations left whose outcome nobody knows.
func (s *Server) clearDoubts(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.doubts:
		}
		for wait := time.Second; ; wait = min(2*wait, time.Minute) {
			entries, err := s.helper.List(ctx)
			if err == nil {
				s.creating.wait() // what is wanted of the list is stored after that
				err = s.deleteUnknown(ctx, entries)
			}
			if err == nil {
				break
			}
			s.log.Error("deleting what nobody knows", "error", err)
			if !pause(ctx, wait) {
				return
			}
		}
	}
}
