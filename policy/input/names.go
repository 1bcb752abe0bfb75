package input

import (
	"strconv"

	"github.com/postern-cri/postern/privsep/plan"
)

// The names of the plan's enums. An unknown value never gets here, since the
// plan's decoder refuses it; were it to, it would be named "invalid", which no
// rule permits.
const invalid = "invalid"

func className(c plan.Class) string {
	return pick(int(c), invalid, "restricted", "baseline", "system")
}

func namespaceName(m plan.NamespaceMode) string {
	return pick(int(m), invalid, "pod", "container", "node", "target")
}

func protocolName(p plan.Protocol) string { return pick(int(p), invalid, "tcp", "udp", "sctp") }

func profileName(k plan.ProfileKind) string {
	return pick(int(k), invalid, "runtime_default", "localhost", "unconfined")
}

func rootName(k plan.RootKind) string {
	return pick(int(k), invalid, "pod_volumes", "host_path", "log", "cgroup", "scratch", "pod_file", "pod_shm", "image")
}

func propagationName(p plan.Propagation) string {
	return pick(int(p), invalid, "private", "host_to_container", "bidirectional")
}

func pick(i int, names ...string) string {
	if i <= 0 || i >= len(names) {
		return invalid
	}
	return names[i]
}

// capabilities are the kernel's names by bit.
var capabilities = [...]string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
	"LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
	"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
	"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
	"MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
	"CHECKPOINT_RESTORE",
}

// CapabilityNames names the capabilities of a mask.
func CapabilityNames(mask uint64) []string {
	var out []string
	for i := 0; i < 64; i++ {
		if mask&(1<<i) == 0 {
			continue
		}
		if i < len(capabilities) {
			out = append(out, capabilities[i])
		} else {
			out = append(out, "UNKNOWN_"+strconv.Itoa(i))
		}
	}
	return out
}

// CapabilityBit returns the mask of one name without CAP_.
func CapabilityBit(name string) (uint64, bool) {
	for i, n := range capabilities {
		if n == name {
			return 1 << i, true
		}
	}
	return 0, false
}
