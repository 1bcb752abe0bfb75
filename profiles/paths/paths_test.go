package paths

import (
	"path"
	"slices"
	"strings"
	"testing"
)

func TestLists(t *testing.T) {
	for _, list := range [][]string{Masked(), ReadOnly()} {
		if !slices.IsSorted(list) || len(slices.Compact(slices.Clone(list))) != len(list) {
			t.Errorf("not sorted or not unique: %v", list)
		}
		for _, p := range list {
			if path.Clean(p) != p || !strings.HasPrefix(p, "/proc/") && !strings.HasPrefix(p, "/sys/") {
				t.Errorf("%q does not belong here", p)
			}
		}
	}
	Masked()[0] = "/"
	if Masked()[0] == "/" {
		t.Error("the list can be changed by a caller")
	}
}
