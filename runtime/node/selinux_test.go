package node

import (
	"os"
	"strings"
	"testing"

	"github.com/postern-cri/postern/privsep/layout"
	"github.com/postern-cri/postern/profiles/selinux"
	"github.com/postern-cri/postern/runtime/config"
)

// TestFileTypes: every directory that is made has a type, every program one by
// which it enters its domain, and the policy has them all.
func TestFileTypes(t *testing.T) {
	b, err := os.ReadFile("../../profiles/selinux/postern.cil")
	if err != nil {
		t.Fatal(err)
	}
	policy := string(b)
	has := func(kind string) {
		t.Helper()
		if !strings.Contains(policy, "(type "+kind+")") {
			t.Errorf("the policy has no type %s", kind)
		}
	}
	l := layout.New("")
	types := selinux.Files(l)
	for _, d := range directories("", l, layout.Users{}) {
		kind := types[d.path]
		if kind == "" {
			t.Errorf("%s has no type", d.path)
			continue
		}
		has(kind)
		if !strings.Contains(policy, d.path) && kind != types[l.Etc] && kind != types[l.Run] && kind != types[l.Lib] {
			t.Errorf("the policy's file contexts do not name %s", d.path)
		}
	}
	n := &Node{Bin: "/bin", Layout: l, Config: config.Default()}
	for _, p := range append([]string{"postern-init", "postern-launch", "postern-cni"}, n.programs()...) {
		has(selinux.Program(p))
		has(selinux.Domain(p))
		if !strings.Contains(policy, `/postern/`+p+`" file (system_u object_r `+selinux.Program(p)+" ") {
			t.Errorf("the policy's file contexts do not name %s", p)
		}
	}
	has(selinux.Helper)
}
