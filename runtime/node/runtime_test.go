package node

import (
	"os"
	"testing"

	"github.com/postern-cri/postern/privsep/ceiling"
	"github.com/postern-cri/postern/runtime/program"
)

// TestCheckRuntime: a ceiling that says more of a runtime than it can do is found
// before a pod is, and so is a runtime that cannot be executed.
func TestCheckRuntime(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: a runtime is asked as another user")
	}
	all := ceiling.Handler{Name: "runc", Path: "/usr/sbin/runc", UserNamespaces: true, RecursiveReadOnly: true}
	if got := checkRuntime(all); len(got) > 0 {
		t.Errorf("%v", got)
	}
	if got := checkRuntime(ceiling.Handler{Name: "x", Path: "/usr/sbin/not-there"}); !Failed(got) {
		t.Errorf("a runtime that is not there: %v", got)
	}
	off := false
	for want, can := range map[int]program.Features{0: {MountOptions: []string{"rro"}}, 2: {}, 3: {}} {
		if want == 0 {
			can.Linux.Namespaces = []string{"user"}
		}
		if want == 3 {
			can.Linux.Seccomp.Enabled = &off
		}
		if got := lacks(all, &can); len(got) != want {
			t.Errorf("%+v: %v, want %d findings", can, got, want)
		}
		if got := lacks(ceiling.Handler{}, &can); len(got) != max(0, want-2) {
			t.Errorf("%+v with nothing claimed: %v", can, got)
		}
	}
}
