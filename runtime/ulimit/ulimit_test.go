package ulimit

import (
	"math"
	"testing"

	"github.com/postern-cri/postern/privsep/plan"
)

func TestParse(t *testing.T) {
	for s, want := range map[string]plan.Rlimit{
		"nofile=1024:4096":    {Name: "nofile", Soft: 1024, Hard: 4096},
		"core=0":              {Name: "core"},
		"memlock=5:unlimited": {Name: "memlock", Soft: 5, Hard: math.MaxUint64},
	} {
		if got, err := Parse(s); got != want || err != nil {
			t.Errorf("%s: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "nofile", "files=1", "nofile=", "nofile=2:1", "nofile=-1", "nofile=1:2:3"} {
		if got, err := Parse(s); err == nil {
			t.Errorf("%q was taken as %v", s, got)
		}
	}
}
