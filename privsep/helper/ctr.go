package helper

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/postern-cri/postern/privsep/gate"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/record"
	"github.com/postern-cri/postern/privsep/wire"
)

func sortedKeys(after string, pods map[string]*pod, ctrs map[string]*ctr, execs map[string]*exec) []string {
	var ids []string
	for id := range pods {
		ids = append(ids, id)
	}
	for id := range ctrs {
		ids = append(ids, id)
	}
	for id := range execs {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	i, _ := slices.BinarySearch(ids, after+"\x00")
	return ids[i:]
}

func ctrCreate(r *request, q *wire.CtrCreateRequest) (wire.Message, error) {
	c := &ctr{ID: newHandle(), Pod: q.Pod, Plan: r.plan, Claims: r.claims}
	var err error
	if c.plan, err = plan.DecodeContainer(r.plan); err != nil {
		return nil, err
	}
	if c.claims, err = plan.DecodeClaims(r.claims); err != nil {
		return nil, err
	}
	if err := r.h.createCtr(c); err != nil {
		return &wire.CtrCreateAnswer{Answer: failure(err)}, nil
	}
	ans := &wire.CtrCreateAnswer{Container: c.ID, Cgroup: c.Out.Cgroup}
	for _, n := range c.Out.Notes[:min(len(c.Out.Notes), 64)] {
		ans.Notes = append(ans.Notes, clip(n))
	}
	return ans, nil
}

func (h *Helper) createCtr(c *ctr) error {
	p, err := h.findPod(c.Pod)
	if err != nil {
		return err
	}
	podPlan, podBytes, podOut, level, stopped := p.plan, p.Plan, p.Out, p.Level, p.Stopped
	p.op.Unlock() // containers of one pod are made side by side
	if stopped {
		return &answerError{fail(wire.Invalid, "the pod is stopped")}
	}
	s := subject{method: methodCreate, class: gate.ClassCreate, pod: c.Pod, ctr: c.ID, claims: &c.claims, planSHA256: sum(c.Plan), image: c.plan.Image}
	no := h.Ceiling.CheckContainer(&podPlan, &c.plan)
	var records map[string]*record.Record
	var recordBytes []byte
	if no == nil {
		records, recordBytes, no = h.records(&c.plan)
	}
	j, err := h.judge(s, no,
		gate.Section{Kind: gate.SectionPodPlan, Data: podBytes}, gate.Section{Kind: gate.SectionPlan, Data: c.Plan},
		gate.Section{Kind: gate.SectionClaims, Data: c.Claims}, gate.Section{Kind: gate.SectionRecord, Data: recordBytes})
	if err != nil {
		return err
	}
	tighten(&c.plan, j.decision.Obligations)
	err = h.makeCtr(c, CtrIn{ID: c.ID, PodID: c.Pod, Pod: &podPlan, Level: level, PodOut: &podOut, Plan: &c.plan, Records: records})
	j.done(err)
	return err
}

// records reads the verification record of the image and of every image volume,
// and refuses those that are missing or of another trust epoch.
func (h *Helper) records(p *plan.Plan) (map[string]*record.Record, []byte, *wire.Denial) {
	no := func(rule, manifest, format string, a ...any) *wire.Denial {
		return &wire.Denial{By: "image", Rule: rule, Field: "image", Remedy: "pull the image again", Message: manifest + ": " + fmt.Sprintf(format, a...)}
	}
	epoch, err := h.Kernel.Epoch()
	if err != nil {
		return nil, nil, no("IMG-EPOCH", p.Image, "the trust configuration cannot be read: %v", err)
	}
	out := map[string]*record.Record{}
	var main []byte
	manifests := []string{p.Image}
	for _, m := range p.Mounts {
		if m.From.Root == plan.RootImage {
			manifests = append(manifests, m.From.Name)
		}
	}
	for i, m := range manifests {
		if out[m] != nil {
			continue
		}
		rec, b, err := h.Kernel.Record(m)
		switch {
		case errors.Is(err, os.ErrNotExist):
			return nil, nil, no("IMG-NORECORD", m, "the image has no verification record")
		case err != nil:
			return nil, nil, no("IMG-RECORD", m, "its verification record is refused: %v", err)
		case rec.Epoch != epoch:
			return nil, nil, no("IMG-EPOCH", m, "it was verified under another trust configuration")
		}
		out[m] = rec
		if i == 0 {
			main = b
		}
	}
	return out, main, nil
}

// makeCtr makes the container, or leaves nothing.
func (h *Helper) makeCtr(c *ctr, in CtrIn) error {
	var err error
	if c.Tight, err = plan.EncodeContainer(c.plan); err != nil {
		return err
	}
	if c.plan.PID == plan.NamespaceTarget {
		t, err := h.findCtr(c.plan.Target)
		if err != nil {
			return err
		}
		in.Target = t.Out.Proc
		samePod := t.Pod == c.Pod
		t.op.Unlock()
		if !samePod || !h.Kernel.Alive(in.Target) {
			return &answerError{fail(wire.Invalid, "target: container %s is not a running container of the same pod", c.plan.Target)}
		}
	}
	c.op.Lock()
	defer c.op.Unlock()
	h.mu.Lock()
	full := int64(len(h.ctrs)) >= h.Ceiling.MaxContainers
	pod := h.pods[c.Pod]
	there := pod != nil && !pod.leaving && !pod.Stopped // it was, when the request began
	if there && !full {
		h.ctrs[c.ID] = c
	}
	h.mu.Unlock()
	if !there {
		return &answerError{fail(wire.Invalid, "the pod is being stopped")}
	}
	if full {
		return &answerError{fail(wire.Exhausted, "%d containers are the most that ceiling.toml allows (max_containers)", h.Ceiling.MaxContainers)}
	}
	if err = h.saveCtr(c); err == nil {
		var out CtrOut
		out, err = h.Kernel.CtrCreate(in)
		h.mu.Lock()
		c.Out, c.Ready = out, err == nil
		h.mu.Unlock()
	}
	if err == nil {
		err = h.saveCtr(c)
	}
	if err != nil {
		h.mu.Lock()
		c.Ready = false // where it cannot be removed now it can only be deleted
		h.mu.Unlock()
		err = errors.Join(err, h.removeCtr(c))
	}
	return err
}

// removeCtr removes a container whose lock is held.
func (h *Helper) removeCtr(c *ctr) error {
	if err := h.Kernel.CtrDelete(c.ID, c.Out); err != nil {
		return err
	}
	c.gone = true
	h.mu.Lock()
	delete(h.ctrs, c.ID)
	for id, x := range h.execs {
		if x.ctr == c.ID {
			delete(h.execs, id)
			h.Kernel.Forget(id)
		}
	}
	h.mu.Unlock()
	h.drop("ctr", c.ID)
	return nil
}

// judgeCtr judges a request about an existing container, whose lock is held.
func (h *Helper) judgeCtr(c *ctr, method string, class gate.Class, more ...gate.Section) (*judged, error) {
	s := []gate.Section{{Kind: gate.SectionPlan, Data: c.Plan}, {Kind: gate.SectionClaims, Data: c.Claims}}
	if p, ok := h.podOf(c); ok {
		s = append(s, gate.Section{Kind: gate.SectionPodPlan, Data: p.Plan})
	}
	return h.judge(subject{method: method, class: class, pod: c.Pod, ctr: c.ID, claims: &c.claims, image: c.plan.Image}, nil, append(s, more...)...)
}

// onCtr finds, judges, acts and records: the shape of every verb about one
// container.
func (h *Helper) onCtr(id, method string, class gate.Class, act func(*ctr) error) error {
	c, err := h.findCtr(id)
	if err != nil {
		return err
	}
	defer c.op.Unlock()
	j, err := h.judgeCtr(c, method, class)
	if err != nil {
		return err
	}
	err = act(c)
	j.done(err)
	return err
}

func ctrStart(r *request, q *wire.CtrStartRequest) (wire.Message, error) {
	err := r.h.onCtr(q.Container, "StartContainer", gate.ClassCreate, func(c *ctr) error {
		if !c.Ready {
			return &answerError{fail(wire.Invalid, "the container is half made: its creation failed")}
		}
		if c.Started {
			return Exists("the container was started already")
		}
		if err := r.h.Kernel.CtrStart(c.ID, c.Out.Proc); err != nil {
			return err
		}
		r.h.mu.Lock()
		c.Started = true
		r.h.mu.Unlock()
		return r.h.saveCtr(c)
	})
	return &wire.CtrStartAnswer{Answer: outcome(err)}, nil
}

func ctrSignal(r *request, q *wire.CtrSignalRequest) (wire.Message, error) {
	h := r.h
	if q.All && !signalKill(q.Signal) {
		return nil, fmt.Errorf("%w: signal %d to all", wire.ErrViolation, q.Signal)
	}
	h.mu.Lock()
	x := h.execs[q.Target]
	h.mu.Unlock()
	target := q.Target
	if x != nil {
		target = x.ctr
	}
	err := h.onCtr(target, "StopContainer", gate.ClassTeardown, func(c *ctr) error {
		switch {
		case x != nil:
			return h.Kernel.Signal("", x.proc, q.Signal)
		case q.All:
			return h.Kernel.KillAll(c.Out.Cgroup)
		}
		return h.Kernel.Signal(c.ID, c.Out.Proc, q.Signal)
	})
	return &wire.CtrSignalAnswer{Answer: outcome(err)}, nil
}

func ctrDelete(r *request, q *wire.CtrDeleteRequest) (wire.Message, error) {
	err := r.h.onCtr(q.Container, "RemoveContainer", gate.ClassTeardown, func(c *ctr) error {
		if c.Started && r.h.Kernel.Alive(c.Out.Proc) {
			return &answerError{fail(wire.Invalid, "the container still runs: stop it first")}
		}
		return r.h.removeCtr(c)
	})
	var a *answerError
	if errors.As(err, &a) && a.Code == wire.NotFound {
		err = nil // gone already is what was asked for
	}
	return &wire.CtrDeleteAnswer{Answer: outcome(err)}, nil
}

func ctrUpdate(r *request, q *wire.CtrUpdateRequest) (wire.Message, error) {
	res, err := plan.DecodeResources(q.Resources)
	if err != nil {
		return nil, err
	}
	return &wire.CtrUpdateAnswer{Answer: outcome(r.h.update(q.Container, q.Resources, &res))}, nil
}

func (h *Helper) update(id string, b []byte, res *plan.Resources) error {
	c, err := h.findCtr(id)
	if err != nil {
		return err
	}
	defer c.op.Unlock()
	if no := h.Ceiling.CheckResources(&c.plan, res); no != nil {
		_, err := h.judge(subject{method: "UpdateContainerResources", class: gate.ClassUpdate, pod: c.Pod, ctr: id, claims: &c.claims}, no)
		return err
	}
	j, err := h.judgeCtr(c, "UpdateContainerResources", gate.ClassUpdate, gate.Section{Kind: gate.SectionResources, Data: b})
	if err != nil {
		return err
	}
	err = h.Kernel.CtrUpdate(id, res)
	j.done(err)
	return err
}

func ctrUsage(r *request, q *wire.CtrUsageRequest) (wire.Message, error) {
	c, err := r.h.findCtr(q.Container)
	if err != nil {
		return &wire.CtrUsageAnswer{Answer: failure(err)}, nil
	}
	c.op.Unlock() // a walk takes long; the container may go meanwhile
	bytes, inodes, err := r.h.Kernel.CtrUsage(q.Container)
	return &wire.CtrUsageAnswer{Answer: outcome(err), Bytes: bytes, Inodes: inodes}, nil
}

func logReopen(r *request, q *wire.LogReopenRequest) (wire.Message, error) {
	h := r.h
	err := h.onCtr(q.Container, "ReopenContainerLog", gate.ClassTeardown, func(c *ctr) error {
		p, ok := h.podOf(c)
		if !ok || c.plan.Log == "" {
			return &answerError{fail(wire.Invalid, "the container has no log file")}
		}
		return h.Kernel.LogReopen(c.ID, &p.plan, &c.plan)
	})
	return &wire.LogReopenAnswer{Answer: outcome(err)}, nil
}
