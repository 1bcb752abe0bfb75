package capability

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNumbers holds the table against the kernel's header: a shifted table would
// hand out the neighbour of what was asked for.
func TestNumbers(t *testing.T) {
	for name, want := range map[string]uint{
		"CHOWN": unix.CAP_CHOWN, "KILL": unix.CAP_KILL, "SETPCAP": unix.CAP_SETPCAP, "NET_BIND_SERVICE": unix.CAP_NET_BIND_SERVICE,
		"NET_ADMIN": unix.CAP_NET_ADMIN, "NET_RAW": unix.CAP_NET_RAW, "SYS_MODULE": unix.CAP_SYS_MODULE,
		"SYS_CHROOT": unix.CAP_SYS_CHROOT, "SYS_ADMIN": unix.CAP_SYS_ADMIN, "MKNOD": unix.CAP_MKNOD, "SETFCAP": unix.CAP_SETFCAP,
		"SYSLOG": unix.CAP_SYSLOG, "BPF": unix.CAP_BPF, "CHECKPOINT_RESTORE": unix.CAP_CHECKPOINT_RESTORE,
	} {
		if got, ok := Parse(name); !ok || got != want {
			t.Errorf("%s is %d, %v; want %d", name, got, ok, want)
		}
	}
	if len(names) != unix.CAP_LAST_CAP+1 {
		t.Errorf("%d names for %d capabilities", len(names), unix.CAP_LAST_CAP+1)
	}
}

func TestNames(t *testing.T) {
	for _, n := range []string{"net_raw", "CAP_NET_RAW", "cap_net_raw", "NET_RAW"} {
		if bit, ok := Parse(n); !ok || bit != unix.CAP_NET_RAW {
			t.Errorf("Parse(%q) = %d, %v", n, bit, ok)
		}
	}
	for _, n := range []string{"", "CAP_", "ALL", "NET_RAWX", "CAP_CAP_NET_RAW", " NET_RAW"} {
		if bit, ok := Parse(n); ok {
			t.Errorf("Parse(%q) = %d", n, bit)
		}
	}
	m, err := Mask([]string{"kill", "CAP_CHOWN"})
	if err != nil || !slices.Equal(Names(m), []string{"CHOWN", "KILL"}) {
		t.Errorf("Mask: %x, %v, %v", m, Names(m), err)
	}
	if m, err := Mask([]string{"all"}); err != nil || m != All || len(Names(m)) != len(names) {
		t.Errorf("all is %x, %v", m, err)
	}
	if _, err := Mask([]string{"KILL", "WALK"}); err == nil {
		t.Error("an unknown capability was taken")
	}
	if got := Names(1 << 63); len(got) != 0 {
		t.Errorf("a bit without a name is %v", got)
	}
}

func TestSets(t *testing.T) {
	if Restricted&^Baseline != 0 || Default&^Baseline != 0 {
		t.Error("a narrow set is not within the baseline")
	}
	for _, n := range []string{"NET_RAW", "SYS_ADMIN", "MKNOD", "NET_ADMIN", "SYS_PTRACE"} {
		if bit, _ := Parse(n); Default>>bit&1 == 1 {
			t.Errorf("%s is given by default", n)
		}
	}
}

func TestKernel(t *testing.T) {
	if m, err := Bounding(); err != nil || m == 0 {
		t.Errorf("bounding set %x, %v", m, err)
	}
}
