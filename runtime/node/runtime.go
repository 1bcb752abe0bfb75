package node

import (
	"slices"

	"github.com/postern-cri/postern/privsep/ceiling"
	"github.com/postern-cri/postern/runtime/program"
)

// checkRuntime looks at an OCI runtime as postern-launch will, and holds what the
// ceiling says of it against what it says itself, where it is new enough for that.
func checkRuntime(h ceiling.Handler) []Finding {
	f, err := program.Open(h.Path)
	if err != nil {
		return []Finding{{Error: true, What: "handler " + h.Name, Text: err.Error(), Remedy: "install it as root, and name it by a path without links"}}
	}
	defer f.Close()
	can, err := program.Ask(f, h.Args...)
	if err != nil {
		return nil
	}
	return lacks(h, can)
}

func lacks(h ceiling.Handler, can *program.Features) (out []Finding) {
	found := func(lacking bool, what, remedy string) {
		if lacking {
			out = append(out, Finding{Error: true, What: "handler " + h.Name, Text: h.Path + " says that it has no " + what, Remedy: remedy})
		}
	}
	on := can.Linux.Seccomp.Enabled
	found(on != nil && !*on, "seccomp", "use a build that has it: containers without a filter are not made")
	found(h.UserNamespaces && !slices.Contains(can.Linux.Namespaces, "user"), "user namespaces", "set user_namespaces = false")
	found(h.RecursiveReadOnly && !slices.Contains(can.MountOptions, "rro"), "recursively read-only mounts", "set recursive_read_only = false")
	return out
}
