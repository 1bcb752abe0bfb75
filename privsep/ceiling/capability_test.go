package ceiling

import (
	"testing"

	"github.com/postern-cri/postern/profiles/capability"
)

// TestCapabilityTable: the privileged side imports no package of the other
// sides, so it has a table of its own; the two must not differ by a bit.
func TestCapabilityTable(t *testing.T) {
	if all, _ := capabilityMask("ALL"); all != capability.All {
		t.Errorf("all of them are %x here and %x there", all, capability.All)
	}
	for i, n := range capability.Names(capability.All) {
		if mask, ok := capabilityMask(n); !ok || mask != 1<<i {
			t.Errorf("%s is %x, %v here and bit %d there", n, mask, ok, i)
		}
	}
}
