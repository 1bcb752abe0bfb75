package gate

import (
	"log"
	"sync"
	"time"
)

// admission counts the connections of each uid, and the complaints about those
// that are not let in: anybody on the machine can connect, and must not fill the
// disk with what is said about it.
type admission struct {
	mu    sync.Mutex
	peers map[uint32]int
	last  time.Time
}

func (a *admission) enter(uid uint32) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if uid != 0 && a.peers[uid] >= maxPeers {
		return false
	}
	a.peers[uid]++
	return true
}

func (a *admission) leave(uid uint32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.peers[uid]--; a.peers[uid] == 0 {
		delete(a.peers, uid)
	}
}

// complain logs, at most once a second.
func (a *admission) complain(format string, v ...any) {
	a.mu.Lock()
	quiet := time.Since(a.last) < time.Second
	if !quiet {
		a.last = time.Now()
	}
	a.mu.Unlock()
	if !quiet {
		log.Printf(format, v...)
	}
}
