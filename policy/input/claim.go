package input

import (
	"fmt"

	"github.com/postern-cri/postern/policy/facts"
	"github.com/postern-cri/postern/privsep/plan"
)

func (b *builder) claims(c *plan.Claims) {
	d := &b.doc.Claimed
	d.RequestID, d.Method = c.RequestID, c.Method
	d.Caller = ClaimedCaller{c.CallerUID, c.CallerPID}
	d.Pod.Name, d.Pod.Namespace, d.Pod.UID, d.Pod.Attempt = c.PodName, c.Namespace, c.PodUID, c.PodAttempt
	d.Pod.Labels, d.Pod.Annotations = b.pairs(c.Labels), b.pairs(c.Annotations)
	d.Container.Name, d.Container.Attempt = c.Container, c.Attempt
	d.Container.Labels, d.Container.Annotations = b.pairs(c.CtrLabels), b.pairs(c.CtrNotes)
	d.Image.Requested = c.ImageRef
}

func (b *builder) pairs(kv []plan.KV) map[string]string {
	m := make(map[string]string, len(kv))
	for _, p := range kv {
		m[p.Key] = p.Value
	}
	return b.values(m)
}

// maxValue is the most bytes of a label's or annotation's value: tools store whole
// manifests in annotations, which no rule wants to read. maxPairs is the most of all
// values of one map: where they come to more, the long ones are cut earlier, so that
// Kubernetes' 256 KiB of annotations do not make a document that cannot be recorded.
const (
	maxValue = 1 << 10
	maxPairs = 16 << 10
)

func (b *builder) values(in map[string]string) map[string]string {
	limit := maxValue
	for limit > 1 && cutSize(in, limit) > maxPairs {
		limit /= 2
	}
	m := make(map[string]string, len(in))
	for k, v := range in {
		if len(v) > limit {
			m[k] = fmt.Sprintf("[%d bytes]", len(v))
			continue
		}
		m[k], _ = b.r.Value(k, v)
	}
	return m
}

// cutSize is the size of all values where those longer than limit are cut.
func cutSize(in map[string]string, limit int) int {
	n := 0
	for _, v := range in {
		if len(v) <= limit {
			n += len(v)
		}
	}
	return n
}

func (b *builder) facts(f *facts.Facts) {
	d := &b.doc.Claimed
	if f.RequestID != "" {
		d.RequestID = f.RequestID
	}
	if c := f.Caller; c != nil {
		d.Caller = ClaimedCaller{c.UID, c.PID}
	}
	if p := f.Pod; p != nil {
		d.Pod = ClaimedPod{p.ID, p.Name, p.Namespace, p.UID, p.Attempt, b.values(p.Labels), b.values(p.Annotations)}
	}
	if c := f.Container; c != nil {
		d.Container = ClaimedContainer{
			c.ID, c.Name, c.Attempt, b.values(c.Labels), b.values(c.Annotations), c.Privileged,
		}
		d.Image.Requested = c.Image
	}
	if i := f.Image; i != nil {
		d.Image = ClaimedImage{
			Requested: i.Requested, Registry: i.Registry, Repository: i.Repository,
			Tag: i.Tag, Digest: i.Digest, Platform: i.Platform,
		}
		if v := i.Verification; v != nil {
			d.Image.Status, d.Image.Authorities, d.Image.Epoch = v.Status, v.Authorities, v.Epoch
		}
	}
	if e := f.Exec; e != nil {
		d.Exec = Exec{b.argv(e.Args), e.TTY, e.Stdin, e.Stdout, e.Stderr, e.Sync}
	}
	if p := f.PortForward; p != nil {
		d.Ports = p.Ports
	}
	if p := f.PodResources; p != nil {
		d.Update = ClaimedUpdate{maybe(p.Overhead, resourcesOf), maybe(p.Resources, resourcesOf)}
	}
}

func maybe[A, B any](in *A, f func(*A) B) *B {
	if in == nil {
		return nil
	}
	out := f(in)
	return &out
}
