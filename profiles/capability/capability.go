// Package capability holds the names and numbers of the Linux capabilities and
// the sets that the runtime hands out.
//
// A set is a mask with one bit per capability, so that "may only tighten" is one
// AND and a set compares with ==.
package capability

import (
	"fmt"
	"math/bits"
	"os"
	"strconv"
	"strings"
)

// names are the capabilities in the order of their numbers in the kernel's ABI.
var names = [...]string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
	"LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
	"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
	"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
	"MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
	"CHECKPOINT_RESTORE",
}

// The sets.
var (
	// All is every capability that this program knows by name.
	All = uint64(1)<<len(names) - 1

	// Default is what a container has that asks for nothing. NET_RAW is not in it
	// (it lets a pod forge router advertisements for the node), nor MKNOD,
	// SYS_CHROOT, SETFCAP and AUDIT_WRITE, which no ordinary image needs.
	Default = must("CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "SETGID", "SETUID", "SETPCAP", "NET_BIND_SERVICE", "KILL")

	// Baseline is the most that the baseline Pod Security Standard lets a
	// container ask for.
	Baseline = must("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE",
		"SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT")

	// Restricted is the same of the restricted standard.
	Restricted = must("NET_BIND_SERVICE")
)

// Parse returns the number of the capability called name, in any case and with
// or without CAP_ before it.
func Parse(name string) (bit uint, ok bool) {
	name = strings.TrimPrefix(strings.ToUpper(name), "CAP_")
	for i, n := range names {
		if n == name {
			return uint(i), true
		}
	}
	return 0, false
}

// Names returns the names of a set, without CAP_, in the order of their
// numbers. A bit that has no name is left out.
func Names(mask uint64) []string {
	mask &= All
	list := make([]string, 0, bits.OnesCount64(mask))
	for i, n := range names {
		if mask>>i&1 == 1 {
			list = append(list, n)
		}
	}
	return list
}

// Mask returns the set of the capabilities called list. "ALL" is every one.
func Mask(list []string) (uint64, error) {
	var mask uint64
	for _, n := range list {
		if strings.EqualFold(n, "ALL") {
			mask |= All
			continue
		}
		bit, ok := Parse(n)
		if !ok {
			return 0, fmt.Errorf("unknown capability %q", n)
		}
		mask |= 1 << bit
	}
	return mask, nil
}

// Bounding is the bounding set of this process: a container cannot have more
// than its launcher had.
func Bounding() (uint64, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "CapBnd:"); ok {
			return strconv.ParseUint(strings.TrimSpace(v), 16, 64)
		}
	}
	return 0, fmt.Errorf("no bounding set in /proc/self/status")
}

func must(list ...string) uint64 {
	m, err := Mask(list)
	if err != nil {
		panic(err)
	}
	return m
}
