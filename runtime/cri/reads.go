package cri

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/postern-cri/postern/policy/facts"
	"github.com/postern-cri/postern/privsep/gate"
)

// readsEvery is how often the counts of allowed reads go to the audit log. The
// kubelet asks several times a second: a record each would bury the rest.
const readsEvery = time.Minute

type readKey struct {
	method string
	uid    uint32
}

// readCounter counts allowed reads by method and caller.
type readCounter struct {
	mu sync.Mutex
	n  map[readKey]uint64
}

func (r *readCounter) count(method string, uid uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.n == nil {
		r.n = map[readKey]uint64{}
	}
	r.n[readKey{method, uid}]++
}

func (r *readCounter) take() map[readKey]uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.n
	r.n = nil
	return n
}

func (s *Server) flushReads(ctx context.Context) {
	for k, n := range s.reads.take() {
		b, err := json.Marshal(auditRecord{
			Kind: "reads", Method: k.method, Class: gate.ClassRead.String(), Caller: &facts.Caller{UID: k.uid}, Count: n,
		})
		if err == nil {
			_, err = s.audit.Commit(ctx, gate.StageEvent, b, true)
		}
		if err != nil {
			s.log.Warn("audit record of reads", "error", err)
		}
	}
}

// countReads flushes the counts until ctx ends.
func (s *Server) countReads(ctx context.Context) {
	t := time.NewTicker(readsEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			s.flushReads(ctx)
		}
	}
}
