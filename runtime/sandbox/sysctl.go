package sandbox

import (
	"slices"
	"strings"

	"github.com/postern-cri/postern/privsep/plan"
)

// Sysctls translates namespaced kernel parameters. A parameter whose namespace
// the pod shares with the host would be written on the host (CVE-2022-0532) and
// is refused, and so is any byte that a later reader could take for the end of
// the value (CVE-2022-0811).
func Sysctls(in map[string]string, network, ipc plan.NamespaceMode) ([]plan.Sysctl, error) {
	var out []plan.Sysctl
	for name, value := range in {
		field := "linux.sysctls[" + strings.ToValidUTF8(name, "?") + "]"
		if name == "" || len(name) > 128 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_.-") != "" ||
			strings.Contains(name, "..") || strings.HasPrefix(name, ".") || strings.HasSuffix(name, ".") {
			return nil, Refuse(field, "%q is no sysctl name in dotted lower case", name)
		}
		if value == "" || len(value) > 256 || strings.Trim(value, alnum+" .,:_-") != "" {
			return nil, Refuse(field, "value %q has a character other than letters, digits, space and . , : _ -", value)
		}
		switch {
		case strings.HasPrefix(name, "net."):
			if network == plan.NamespaceNode {
				return nil, Refuse(field, "the pod has the host's network namespace: this would change the host")
			}
		case isIPC(name):
			if ipc == plan.NamespaceNode {
				return nil, Refuse(field, "the pod has the host's IPC namespace: this would change the host")
			}
		default:
			return nil, Refuse(field, "not a namespaced sysctl: only net.*, kernel.shm*, kernel.msg*, kernel.sem and fs.mqueue.* are")
		}
		out = append(out, plan.Sysctl{Name: name, Value: value})
	}
	slices.SortFunc(out, func(a, b plan.Sysctl) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

func isIPC(name string) bool {
	return strings.HasPrefix(name, "kernel.shm") || strings.HasPrefix(name, "kernel.msg") ||
		name == "kernel.sem" || strings.HasPrefix(name, "fs.mqueue.")
}
