package helper

import (
	"testing"

	"github.com/postern-cri/postern/privsep/label"
	"github.com/postern-cri/postern/privsep/plan"
)

// TestPairs: categories are taken by pods that have them, by pods that asked for
// them, and by containers that did. That no two pods have the same the model
// checks, over restarts.
func TestPairs(t *testing.T) {
	asked := func(level string) plan.PodPlan { return plan.PodPlan{SELinux: plan.SELinux{Level: level}} }
	h := &Helper{pods: map[string]*pod{"a": {Level: "s0:c1,c2", plan: asked("s0:c4,c3")}, "b": {Level: "s0:c5,c6"}},
		ctrs: map[string]*ctr{"c": {plan: plan.Plan{SELinux: plan.SELinux{Level: "s0-s0:c7,c8"}}}}}
	used := h.pairs()
	for _, p := range []string{"1 2", "3 4", "5 6", "7 8"} {
		if !used[p] {
			t.Errorf("%s is not taken", p)
		}
	}
	p := &pod{ID: "d", plan: plan.PodPlan{UID: "u"}}
	h.Ceiling = newBench(t).h.Ceiling
	if err := h.admit(p); err != nil || p.Level == "" || used[label.Pair(p.Level)] {
		t.Errorf("a new pod has the level %q, %v", p.Level, err)
	}
}
