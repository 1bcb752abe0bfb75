package helper

import (
	"log"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/gate"
	"github.com/postern-cri/postern/privsep/label"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/wire"
)

func podCreate(r *request, _ *wire.PodCreateRequest) (wire.Message, error) {
	p := &pod{ID: newHandle(), Plan: r.plan, Claims: r.claims}
	var err error
	if p.plan, err = plan.DecodePod(r.plan); err != nil {
		return nil, err
	}
	if p.claims, err = plan.DecodeClaims(r.claims); err != nil {
		return nil, err
	}
	if err := r.h.createPod(p); err != nil {
		return &wire.PodCreateAnswer{Answer: failure(err)}, nil
	}
	ans := &wire.PodCreateAnswer{Pod: p.ID, Cgroup: p.Out.Cgroup}
	for _, ip := range p.Out.IPs { // a plugin wrote them
		if a, err := netip.ParseAddr(ip); err == nil && a.Zone() == "" && len(ans.IPs) < 16 {
			ans.IPs = append(ans.IPs, a.String())
		}
	}
	return ans, nil
}

func (h *Helper) createPod(p *pod) error {
	j, err := h.judge(subject{method: "RunPodSandbox", class: gate.ClassCreate, pod: p.ID, claims: &p.claims, planSHA256: sum(p.Plan)},
		h.Ceiling.CheckPod(&p.plan),
		gate.Section{Kind: gate.SectionPodPlan, Data: p.Plan}, gate.Section{Kind: gate.SectionClaims, Data: p.Claims})
	if err != nil {
		return err
	}
	p.op.Lock()
	defer p.op.Unlock()
	h.mu.Lock()
	err = h.admit(p)
	h.mu.Unlock()
	if err != nil {
		j.done(err)
		return err
	}
	if err = h.savePod(p); err == nil {
		var out PodOut
		out, err = h.Kernel.PodCreate(p.in())
		h.mu.Lock()
		p.Out, p.Ready = out, err == nil
		h.mu.Unlock()
	}
	if err == nil {
		err = h.savePod(p)
	}
	j.done(err)
	if err != nil {
		h.teardown(p)
	}
	return err
}

// admit puts a pod on the list, before the effect: teardown and recovery can find
// it there. The lock is held.
func (h *Helper) admit(p *pod) error {
	if int64(len(h.pods)) >= h.Ceiling.MaxPods {
		return &answerError{fail(wire.Exhausted, "%d pods are the most that ceiling.toml allows (max_pods)", h.Ceiling.MaxPods)}
	}
	for _, other := range h.pods {
		// The uid names the volumes: a second live pod of it would share them.
		if other.plan.UID == p.plan.UID && !other.Stopped {
			return Exists("pod %s has the uid %s and is not stopped", other.ID, p.plan.UID)
		}
	}
	if p.Level = label.Fresh(h.pairs()); p.Level == "" {
		return &answerError{fail(wire.Exhausted, "no pair of SELinux categories is left")}
	}
	h.pods[p.ID] = p
	return nil
}

// pairs are the SELinux categories that the pods have or asked for.
func (h *Helper) pairs() map[string]bool {
	used := map[string]bool{}
	for _, p := range h.pods {
		used[label.Pair(p.Level)], used[label.Pair(p.plan.SELinux.Level)] = true, true
	}
	for _, c := range h.ctrs {
		used[label.Pair(c.plan.SELinux.Level)] = true
	}
	return used
}

// teardown removes a pod. Where its network cannot be torn down now, the pod
// stays on the list of things to retry, and the caller is told so.
func (h *Helper) teardown(p *pod) (deferred bool) {
	if err := h.Kernel.PodDelete(p.in(), p.Out); err != nil {
		log.Printf("removing pod %s: %v", p.ID, err)
		deferred = true
	}
	if err := h.Kernel.NetworkDelete(p.in()); err != nil {
		log.Printf("tearing the network of pod %s down (try %d): %v", p.ID, p.Tries+1, err)
		deferred = true
	}
	if deferred {
		h.mu.Lock()
		p.Stopped = true
		h.mu.Unlock()
		p.Tries++
		p.next = time.Now().Add(min(time.Second<<min(p.Tries-1, 8), 5*time.Minute))
		if err := h.savePod(p); err != nil {
			log.Printf("pod %s: %v", p.ID, err)
		}
		return true
	}
	p.gone = true
	h.mu.Lock()
	delete(h.pods, p.ID)
	h.mu.Unlock()
	h.drop("pod", p.ID)
	return false
}

// retryTeardown finishes, sooner or later, what could not be torn down.
func (h *Helper) retryTeardown() {
	for range time.Tick(time.Second) {
		var due []*pod
		h.mu.Lock()
		for _, p := range h.pods {
			due = append(due, p)
		}
		h.mu.Unlock()
		for _, p := range due {
			if !p.op.TryLock() {
				continue
			}
			if p.Stopped && !p.gone && time.Now().After(p.next) {
				h.teardown(p)
			}
			p.op.Unlock()
		}
		h.pruneExecs()
	}
}

func podDelete(r *request, q *wire.PodDeleteRequest) (wire.Message, error) {
	deferred, err := r.h.deletePod(q.Pod)
	if err != nil {
		return &wire.PodDeleteAnswer{Answer: failure(err)}, nil
	}
	return &wire.PodDeleteAnswer{Deferred: deferred}, nil
}

func (h *Helper) deletePod(id string) (bool, error) {
	p, err := h.findPod(id)
	if err != nil {
		return false, err
	}
	defer p.op.Unlock()
	if p.Stopped {
		return true, nil
	}
	h.mu.Lock()
	p.leaving = true // whoever makes a container now finds the pod gone
	var inside []*ctr
	for _, c := range h.ctrs {
		if c.Pod == id {
			inside = append(inside, c)
		}
	}
	h.mu.Unlock()
	defer func() { // a pod that stays takes containers again
		h.mu.Lock()
		p.leaving = false
		h.mu.Unlock()
	}()
	for _, c := range inside {
		c.op.Lock() // one that is half made is waited for
		alive := h.Kernel.Alive(c.Out.Proc)
		c.op.Unlock()
		if alive {
			return false, &answerError{fail(wire.Invalid, "container %s of the pod still runs: stop it first", c.ID)}
		}
	}
	j, err := h.judge(subject{method: "StopPodSandbox", class: gate.ClassTeardown, pod: id, claims: &p.claims}, nil,
		gate.Section{Kind: gate.SectionPodPlan, Data: p.Plan}, gate.Section{Kind: gate.SectionClaims, Data: p.Claims})
	if err != nil {
		return false, err
	}
	deferred := h.teardown(p)
	j.done(nil)
	return deferred, nil
}

func podSocket(r *request, q *wire.PodSocketRequest) (wire.Message, error) {
	fd, err := r.h.makeSocket(q)
	if err != nil {
		return &wire.PodSocketAnswer{Answer: failure(err)}, nil
	}
	r.out = append(r.out, fd)
	return &wire.PodSocketAnswer{}, nil
}

func (h *Helper) makeSocket(q *wire.PodSocketRequest) (int, error) {
	p, err := h.findPod(q.Pod)
	if err != nil {
		return -1, err
	}
	defer p.op.Unlock()
	if p.plan.Network != plan.NamespacePod || p.Stopped {
		return -1, &answerError{fail(wire.Invalid, "the pod has no network namespace of its own")}
	}
	method, class := "PortForward", gate.ClassExec
	if q.Kind == wire.SocketNetDev { // statistics: as any read
		method, class = "PodSandboxStats", gate.ClassRead
	}
	j, err := h.judge(subject{method: method, class: class, pod: q.Pod, claims: &p.claims}, nil,
		gate.Section{Kind: gate.SectionPodPlan, Data: p.Plan}, gate.Section{Kind: gate.SectionClaims, Data: p.Claims})
	if err != nil {
		return -1, err
	}
	fd, err := h.Kernel.PodSocket(q.Pod, q.Kind)
	if class != gate.ClassRead {
		j.done(err)
	}
	return fd, err
}

func list(r *request, q *wire.ListRequest) (wire.Message, error) {
	return r.h.page(q.After), nil
}

// pageSize keeps an answer below its limit: an entry is at most about 1.2 KiB.
const pageSize = 40

func (h *Helper) page(after string) *wire.ListAnswer {
	h.mu.Lock()
	defer h.mu.Unlock() // what is listed was so at one moment
	pods, ctrs, execs := h.pods, h.ctrs, h.execs
	ans := &wire.ListAnswer{}
	for _, id := range sortedKeys(after, pods, ctrs, execs) {
		if len(ans.Entries) == pageSize {
			ans.More = true
			break
		}
		var e wire.Entry
		if p := pods[id]; p != nil {
			e = wire.Entry{Kind: wire.EntryPod, Handle: id, State: wire.StateReady, Cgroup: p.Out.Cgroup}
			if p.Stopped || !p.Ready {
				e.State = wire.StateStopped
			}
		} else if c := ctrs[id]; c != nil {
			e = wire.Entry{Kind: wire.EntryContainer, Handle: id, Pod: c.Pod, State: h.ctrState(c), Cgroup: c.Out.Cgroup}
		} else if x := execs[id]; x != nil {
			e = wire.Entry{Kind: wire.EntryExec, Handle: id, Pod: x.ctr, State: wire.StateStopped}
			if h.Kernel.Alive(x.proc) {
				e.State = wire.StateRunning
			}
		}
		ans.Entries = append(ans.Entries, e)
	}
	return ans
}

func (h *Helper) ctrState(c *ctr) wire.State {
	switch {
	case !h.Kernel.Alive(c.Out.Proc):
		return wire.StateStopped
	case c.Started:
		return wire.StateRunning
	}
	return wire.StateCreated
}

func signalKill(s uint8) bool { return s == uint8(unix.SIGKILL) }
