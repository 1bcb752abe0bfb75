package cri

import (
	"sync"

	"github.com/postern-cri/postern/privsep/plan"
)

// usernsIDs is how many ids a pod gets that did not ask for a user namespace: as
// many as the kubelet gives one that did.
const usernsIDs = 1 << 16

// idBlocks are the ids of pods that are being made, and in no store yet.
type idBlocks struct {
	mu   sync.Mutex
	held map[uint32]bool
}

// autoUserNS gives a pod a user namespace that did not ask for one, where the
// operator's ceiling says so, and the pod shares no namespace of the host. Its ids
// are no other pod's. What comes of it is judged like a pod that did ask: where it
// is not allowed the pod stays as it was, and the ceiling says whether it may.
func (s *Server) autoUserNS(p *plan.PodPlan) (release func()) {
	release = func() {}
	first, last := s.places.AutoUserNS()
	if first == 0 || p.UserNS || p.Privileged || p.Handler != "" ||
		p.Network == plan.NamespaceNode || p.PID == plan.NamespaceNode || p.IPC == plan.NamespaceNode {
		return release
	}
	b := &s.blocks
	b.mu.Lock()
	defer b.mu.Unlock()
	for at := uint64(first); at+usernsIDs-1 <= uint64(last); at += usernsIDs {
		block := uint32(at)
		if b.held[block] || s.idsTaken(block) {
			continue
		}
		with := *p
		with.UserNS, with.UIDs = true, []plan.IDMap{{Host: block, Length: usernsIDs}}
		with.GIDs = with.UIDs
		if !s.places.FitPod(&with) {
			return release
		}
		*p = with
		if b.held == nil {
			b.held = map[uint32]bool{}
		}
		b.held[block] = true
		return func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			delete(b.held, block)
		}
	}
	return release
}

// idsTaken reports whether a pod that is known has one of the ids from block on.
func (s *Server) idsTaken(block uint32) bool {
	for _, p := range s.store.Pods() {
		for _, m := range append(p.UIDs[:len(p.UIDs):len(p.UIDs)], p.GIDs...) {
			if uint64(m.Host) < uint64(block)+usernsIDs && uint64(block) < uint64(m.Host)+uint64(m.Length) {
				return true
			}
		}
	}
	return false
}
