package cri

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"sync"
	"time"

	"github.com/postern-cri/postern/privsep/plan"
)

// grantLife is how long a grant waits for its client.
const grantLife = time.Minute

// maxGrants bounds the grants that wait.
const maxGrants = 1024

// grant is one permission that the streaming server may use once: it names
// everything, so that the streaming server can ask for nothing else.
type grant struct {
	kind      string
	ctx       context.Context // the request's values
	container string
	pod       string
	exec      plan.ExecPlan
	tty       bool
	stdin     bool
	stdout    bool
	stderr    bool
	ports     []int32
	until     time.Time
}

type grants struct {
	mu   sync.Mutex
	open map[string]*grant
}

func (g *grants) add(n *grant) string {
	var b [32]byte
	rand.Read(b[:])
	id := hex.EncodeToString(b[:])
	now := time.Now()
	n.until = now.Add(grantLife)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open == nil {
		g.open = map[string]*grant{}
	}
	for k, v := range g.open {
		// An expired one is dropped; among too many any one is.
		if now.After(v.until) || len(g.open) >= maxGrants {
			delete(g.open, k)
		}
	}
	g.open[id] = n
	return id
}

func (g *grants) drop(id string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.open, id)
}

// redeem takes a grant; it can be taken once.
func (g *grants) redeem(id string) (*grant, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n, ok := g.open[id]
	delete(g.open, id)
	return n, ok && time.Now().Before(n.until)
}
