package fetch

import (
	"context"
	"errors"
	"runtime/metrics"
	"sync"
	"time"
)

// maxHeap is more than all pulls at a time need for what they keep in memory:
// manifests, configurations and evidence, which are bounded each.
const maxHeap = 256 << 20

var errTooMuch = errors.New("the registry's answer is too large")

// guard ends requests while too much memory is used. The library reads the body of
// an error to its end, wherever that is, and offers no way to read less.
type guard struct {
	mu      sync.Mutex
	next    int
	waiting map[int]context.CancelCauseFunc
}

var memory = guard{waiting: map[int]context.CancelCauseFunc{}}

// enter has a request ended when it must be, until leave is called.
func (g *guard) enter(ctx context.Context) (guarded context.Context, leave func()) {
	guarded, cancel := context.WithCancelCause(ctx)
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.next
	g.next++
	if g.waiting[n] = cancel; len(g.waiting) == 1 {
		go g.watch()
	}
	return guarded, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.waiting, n)
	}
}

// watch looks as long as somebody waits.
func (g *guard) watch() {
	heap := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	for {
		time.Sleep(20 * time.Millisecond)
		metrics.Read(heap)
		g.mu.Lock()
		if len(g.waiting) == 0 {
			g.mu.Unlock()
			return
		}
		if heap[0].Value.Uint64() > maxHeap {
			for _, cancel := range g.waiting {
				cancel(errTooMuch)
			}
		}
		g.mu.Unlock()
	}
}
