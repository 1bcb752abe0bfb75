package cri

import (
	"context"
	"sync"
	"time"

	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/wire"
	"github.com/postern-cri/postern/runtime/stats"
	"github.com/postern-cri/postern/runtime/store"
)

// usageEvery is how often the writable layers are measured, each a walk on the
// privileged side. Requests are answered from what was measured last.
const usageEvery = 15 * time.Second

type layerUsage struct {
	bytes, inodes uint64
	at            int64
}

// usageCache is the size of every writable layer when it was last measured.
type usageCache struct {
	mu     sync.Mutex
	layers map[string]layerUsage
	net    map[string]netUsage // by pod
	asked  time.Time
	kick   chan struct{} // a layer was asked for that has not been measured yet
}

type netUsage struct {
	list []stats.Interface
	at   int64
}

func (u *usageCache) get(id string) (bytes, inodes uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	l := u.layers[id]
	return l.bytes, l.inodes
}

func (u *usageCache) layer(id string) layerUsage {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.asked = time.Now()
	l, ok := u.layers[id]
	if !ok {
		select {
		case u.kick <- struct{}{}:
		default:
		}
	}
	return l
}

func (u *usageCache) forget(id string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.layers, id)
	delete(u.net, id)
}

// wanted reports whether somebody has asked lately: on a node whose statistics
// nobody reads nothing is measured.
func (u *usageCache) wanted() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return time.Since(u.asked) < 5*time.Minute
}

// measure keeps the cache fresh until ctx ends.
func (s *Server) measure(ctx context.Context) {
	t := time.NewTicker(usageEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.usage.kick:
			s.measureAll(ctx, true)
			// A layer that cannot be measured must not make us try without end.
			if !pause(ctx, time.Second) {
				return
			}
		case <-t.C:
			if s.usage.wanted() {
				s.measureAll(ctx, false)
			}
		}
	}
}

func (s *Server) measureAll(ctx context.Context, onlyNew bool) {
	for _, c := range s.store.Containers("") {
		if ctx.Err() != nil {
			return
		}
		if c.State != store.Exited && !onlyNew || s.usage.missing(c.ID) {
			s.measureOne(ctx, c.ID)
		}
	}
	s.rates.sample(s)
}

func (u *usageCache) missing(id string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	_, ok := u.layers[id]
	return !ok
}

func (s *Server) measureOne(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	a, err := s.helper.CtrUsage(ctx, id)
	if err != nil {
		return
	}
	s.usage.mu.Lock()
	defer s.usage.mu.Unlock()
	if s.usage.layers == nil {
		s.usage.layers = map[string]layerUsage{}
	}
	s.usage.layers[id] = layerUsage{a.Bytes, a.Inodes, time.Now().UnixNano()}
}

// netFor is how long a pod's interface counters are believed.
const netFor = 5 * time.Second

// network returns the interface counters of a pod.
func (s *Server) network(ctx context.Context, p *store.Pod) netUsage {
	if p.Network == plan.NamespaceNode {
		return netUsage{} // the node's interfaces are not the pod's
	}
	u := &s.usage
	u.mu.Lock()
	n, ok := u.net[p.ID]
	u.mu.Unlock()
	if ok && time.Now().UnixNano()-n.at < int64(netFor) {
		return n
	}
	f, err := s.helper.PodSocket(ctx, p.ID, wire.SocketNetDev)
	if err != nil {
		return n
	}
	defer f.Close()
	list, err := stats.NetDev(f)
	if err != nil {
		return n
	}
	n = netUsage{list, time.Now().UnixNano()}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.net == nil {
		u.net = map[string]netUsage{}
	}
	u.net[p.ID] = n
	return n
}

// rateCache turns counters of processor time into a rate.
type rateCache struct {
	mu   sync.Mutex
	last map[string]rate
}

type rate struct {
	nanos uint64
	at    time.Time
	cores uint64 // nanocores over the last interval
}

// minRate is the shortest interval that a rate is computed over.
const minRate = time.Second

func (r *rateCache) cores(id string, nanos uint64, now time.Time) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == nil {
		r.last = map[string]rate{}
	}
	old, ok := r.last[id]
	if !ok {
		r.last[id] = rate{nanos: nanos, at: now}
		return 0
	}
	d := now.Sub(old.at)
	if d < minRate {
		return old.cores
	}
	n := rate{nanos: nanos, at: now}
	if nanos > old.nanos {
		n.cores = uint64(float64(nanos-old.nanos) / d.Seconds())
	}
	r.last[id] = n
	return n.cores
}

func (r *rateCache) forget(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.last, id)
}

// sample takes a reading of everything that runs, so that a client which asks
// rarely still gets a recent rate.
func (r *rateCache) sample(s *Server) {
	for _, c := range s.store.Containers("") {
		if c.State == store.Running {
			if u, err := s.cgroups.CPU(c.Cgroup); err == nil {
				r.cores(c.ID, u.UsageNanos, time.Now())
			}
		}
	}
}
