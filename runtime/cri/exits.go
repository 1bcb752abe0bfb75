package cri

import (
	"context"
	"sync"
	"time"

	"github.com/postern-cri/postern/privsep/keeper"
	"github.com/postern-cri/postern/runtime/store"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxUnclaimed bounds the exits kept for handles that nobody here knows yet.
const maxUnclaimed = 4096

// exitBox matches exits, which come from init in any order, with whoever waits:
// an exit can be reported before the answer that names its handle has arrived.
type exitBox struct {
	mu    sync.Mutex
	got   map[string]keeper.Exit
	order []string
	wait  map[string]chan keeper.Exit // execs
	ended map[string]chan struct{}    // containers, closed when they have ended
}

// put keeps an exit until it is taken.
func (b *exitBox) put(e keeper.Exit) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ch, ok := b.wait[e.Key]; ok {
		delete(b.wait, e.Key)
		ch <- e
		return
	}
	if b.got == nil {
		b.got = map[string]keeper.Exit{}
	}
	if _, ok := b.got[e.Key]; !ok {
		b.order = append(b.order, e.Key)
	}
	b.got[e.Key] = e
	for len(b.order) > maxUnclaimed {
		delete(b.got, b.order[0])
		b.order = b.order[1:]
	}
}

// take returns the exit of key, once.
func (b *exitBox) take(key string) (keeper.Exit, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.takeLocked(key)
}

func (b *exitBox) takeLocked(key string) (keeper.Exit, bool) {
	e, ok := b.got[key]
	if ok {
		delete(b.got, key)
		for i, k := range b.order {
			if k == key {
				b.order = append(b.order[:i], b.order[i+1:]...)
				break
			}
		}
	}
	return e, ok
}

// exec returns a channel that gets the exit of an exec handle; cancel gives up.
func (b *exitBox) exec(key string) (ch <-chan keeper.Exit, cancel func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := make(chan keeper.Exit, 1)
	if e, ok := b.takeLocked(key); ok {
		c <- e
		return c, func() {}
	}
	if b.wait == nil {
		b.wait = map[string]chan keeper.Exit{}
	}
	b.wait[key] = c
	return c, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.wait[key] == c {
			delete(b.wait, key)
		}
	}
}

// gone returns a channel that is closed when the container ends. The caller
// looks at the container's state after it asked.
func (b *exitBox) gone(id string) <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended == nil {
		b.ended = map[string]chan struct{}{}
	}
	ch, ok := b.ended[id]
	if !ok {
		ch = make(chan struct{})
		b.ended[id] = ch
	}
	return ch
}

func (b *exitBox) wake(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ch, ok := b.ended[id]; ok {
		close(ch)
		delete(b.ended, id)
	}
}

func (b *exitBox) forget(id string) {
	b.wake(id)
	b.take(id)
}

// Exited takes a report of init.
func (s *Server) Exited(e keeper.Exit) {
	s.exits.put(e)
	s.applyExit(e.Key)
}

// applyExit marks the container as exited where its exit has been reported and
// the container is known; whichever comes second does it.
func (s *Server) applyExit(id string) {
	c, err := s.store.Container(id)
	if err != nil || c.ID != id {
		return
	}
	e, ok := s.exits.take(id)
	if !ok {
		return
	}
	reason := "Error"
	switch {
	case e.Code == 0:
		reason = "Completed"
	case s.cgroups != nil && s.cgroups.OOMKilled(c.Cgroup):
		reason = "OOMKilled"
	}
	s.setExited(id, e.Time, e.Code, reason, "")
}

// setExited marks a container as exited, unless it is already, and tells all who
// wait.
func (s *Server) setExited(id string, at int64, code int32, reason, message string) {
	changed := false
	_, err := s.store.UpdateContainer(id, func(c *store.Container) bool {
		if c.State == store.Exited {
			return false
		}
		if c.Started == 0 && c.State == store.Running {
			c.Started = at
		}
		c.State, c.Finished, c.ExitCode, c.Reason, c.Message = store.Exited, at, code, reason, clip(message, 1024)
		changed = true
		return true
	})
	if err != nil {
		s.log.Error("storing an exit", "container", id, "error", err)
	}
	s.exits.wake(id)
	if changed {
		s.log.Info("exited", "container", id, "code", code, "reason", reason)
		s.event(id, cri.ContainerEventType_CONTAINER_STOPPED_EVENT)
	}
}

// lock makes starts of one container take turns.
func (s *Server) lock(id string) func() {
	m, _ := s.startOnce.LoadOrStore(id, &sync.Mutex{})
	mu := m.(*sync.Mutex)
	mu.Lock()
	return mu.Unlock
}

// waitExit waits for the exit of an exec.
func waitExit(ctx context.Context, ch <-chan keeper.Exit, limit time.Duration) (keeper.Exit, error) {
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	select {
	case e := <-ch:
		return e, nil
	case <-ctx.Done():
		return keeper.Exit{}, ctx.Err()
	}
}
