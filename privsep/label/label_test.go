package label

import (
	"strconv"
	"testing"

	"github.com/postern-cri/postern/privsep/plan"
)

func TestFresh(t *testing.T) {
	used := map[string]bool{}
	for range 2000 {
		l := Fresh(used)
		p := Pair(l)
		if p == "" || used[p] {
			t.Fatalf("level %q", l)
		}
		used[p] = true
	}
	// All but one pair are taken: that one or none, never a taken one.
	for x := range 1024 {
		for y := range x {
			used[strconv.Itoa(y)+" "+strconv.Itoa(x)] = true
		}
	}
	delete(used, Pair("s0:c3,c7"))
	if l := Fresh(used); l != "" && l != "s0:c3,c7" {
		t.Errorf("a taken pair: %s", l)
	}
}

// TestPair: every way to write two categories is the same pair.
func TestPair(t *testing.T) {
	for _, same := range []string{"s0:c4,c5", "s0:c5,c4", "s0-s0:c4,c5", "s0:c4.c5"} {
		if p := Pair(same); p != "4 5" {
			t.Errorf("%s: %q", same, p)
		}
	}
	for _, none := range []string{"", "s0", "s0:c4", "x", "s0:c,c"} {
		if p := Pair(none); p != "" {
			t.Errorf("%s: %q", none, p)
		}
	}
}

// TestOf looks at the labels alone: without SELinux the kernel knows none, and
// that is an error, too.
func TestOf(t *testing.T) {
	for _, tt := range []struct {
		pod, ctr      plan.SELinux
		privileged    bool
		process, file string
	}{
		{process: "system_u:system_r:container_t:s0:c1,c2", file: "system_u:object_r:container_file_t:s0:c1,c2"},
		{privileged: true, process: "system_u:system_r:spc_t:s0", file: "system_u:object_r:container_file_t:s0:c1,c2"},
		{pod: plan.SELinux{Level: "s0:c8,c9"}, process: "system_u:system_r:container_t:s0:c8,c9", file: "system_u:object_r:container_file_t:s0:c8,c9"},
		{pod: plan.SELinux{Level: "s0:c8,c9", Type: "a_t"}, ctr: plan.SELinux{Type: "b_t", User: "u", Role: "r"},
			process: "u:r:b_t:s0:c8,c9", file: "system_u:object_r:container_file_t:s0:c8,c9"},
		{ctr: plan.SELinux{Level: "s0:c3,c4"}, privileged: true, process: "system_u:system_r:spc_t:s0:c3,c4", file: "system_u:object_r:container_file_t:s0:c3,c4"},
	} {
		process, file, err := Of(tt.pod, tt.ctr, "s0:c1,c2", tt.privileged)
		if process != tt.process || file != tt.file {
			t.Errorf("%+v: %s, %s", tt, process, file)
		}
		if !Enabled() && err == nil {
			t.Error("a label was found good without a kernel that knows labels")
		}
	}
	if p, f, err := Of(plan.SELinux{}, plan.SELinux{}, "", false); err == nil || p != "" || f != "" {
		t.Errorf("without categories: %q, %q, %v", p, f, err)
	}
}
