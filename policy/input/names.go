package input

import (
	"strconv"

	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/profiles/capability"
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

// capabilityNames names the capabilities of a mask.
func capabilityNames(mask uint64) []string {
	out := capability.Names(mask)
	for i := range 64 {
		if mask&^capability.All>>i&1 == 1 {
			out = append(out, "UNKNOWN_"+strconv.Itoa(i))
		}
	}
	return out
}
