package stream

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"sync"
	"time"
)

const (
	// tokenLife is how long a URL waits for its client; the library forgets its own
	// after the same time.
	tokenLife = time.Minute
	// maxWaiting bounds the URLs that wait, maxActive the sessions.
	maxWaiting = 512
	maxActive  = 256
)

// kind is what a session does. It is the first part of its URL's path.
type kind = string

const (
	kindExec    kind = "exec"
	kindAttach  kind = "attach"
	kindForward kind = "portforward"
)

// session is one URL and, later, its client.
type session struct {
	token                 string
	grant                 string
	kind                  kind
	tty                   bool
	stdin, stdout, stderr bool

	path      string // where the library expects the client
	expires   time.Time
	websocket bool
	conn      *watchedConn    // the client's
	gone      <-chan struct{} // closed when it ends

	mu       sync.Mutex // of granted
	granted  *granted   // a port-forward's, for all of its ports
	forwards int        // its open connections
}

// table holds the sessions. A token is 256 random bits and serves once: any
// process of the node can reach the port.
type table struct {
	mu      sync.Mutex
	waiting map[string]*session
	active  map[string]*session
	used    time.Time // when something was last in it
}

func newTable() *table {
	return &table{waiting: map[string]*session{}, active: map[string]*session{}, used: time.Now()}
}

func newToken() string {
	var b [32]byte
	rand.Read(b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// sweep drops what has expired. The caller holds mu.
func (t *table) sweep(now time.Time) {
	for token, s := range t.waiting {
		if now.After(s.expires) {
			delete(t.waiting, token)
		}
	}
}

// add lets s wait for its client.
func (t *table) add(s *session) error {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sweep(now)
	if len(t.waiting) >= maxWaiting {
		return errors.New("too many sessions wait for their clients")
	}
	s.expires = now.Add(tokenLife)
	t.waiting[s.token] = s
	t.used = now
	return nil
}

// take gives the session of a token to the client that brought it.
func (t *table) take(k kind, token string) *session {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sweep(now)
	s := t.waiting[token]
	if s == nil || s.kind != k || len(t.active) >= maxActive {
		return nil
	}
	delete(t.waiting, token)
	t.active[token] = s
	t.used = now
	return s
}

// get returns an active session.
func (t *table) get(token string) (*session, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.active[token]; s != nil {
		return s, nil
	}
	return nil, errors.New("session has ended")
}

func (t *table) done(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.active, s.token)
	t.used = time.Now()
}

// idle returns for how long there has been nothing in the table.
func (t *table) idle() time.Duration {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sweep(now)
	if len(t.waiting)+len(t.active) > 0 {
		t.used = now
	}
	return now.Sub(t.used)
}
