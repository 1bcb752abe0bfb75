# Who may enter a running container.
package postern.packs.exec

import data.postern.lib

# Probes and hooks (ExecSync) are part of the pod; a session from outside is not.
# METADATA
# custom:
#   id: EXEC-PRIVILEGED
#   severity: high
#   message: a session in a privileged container is not allowed
#   field: container.privileged
#   remediation: debug with an ephemeral container that is not privileged
deny contains lib.violation(rego.metadata.rule()) if {
	input.request.method in {"Exec", "ExecSync"}
	not input.derived.exec.sync
	input.derived.container.privileged
}

# METADATA
# custom:
#   id: EXEC-ATTACH-PRIVILEGED
#   severity: high
#   message: attaching to a privileged container is not allowed
#   field: container.privileged
#   remediation: read its log in place of attaching
deny contains lib.violation(rego.metadata.rule()) if {
	input.request.method == "Attach"
	input.claimed.container.privileged
}

# METADATA
# custom:
#   id: EXEC-HOSTNS
#   severity: high
#   message: a session in a container that shares a namespace with the host is not allowed
#   field: pod.namespaces
#   remediation: debug with a pod of its own
deny contains lib.violation(rego.metadata.rule()) if {
	input.request.method in {"Exec", "ExecSync"}
	not input.derived.exec.sync
	"node" in {
		input.derived.pod.namespaces.pid, input.derived.pod.namespaces.ipc,
		input.derived.container.pid,
	}
}

# METADATA
# custom:
#   id: EXEC-NAMESPACE
#   severity: medium
#   message: sessions in this namespace are not allowed
#   field: claimed.pod.namespace
#   remediation: ask who runs the namespace (data.json, exec_denied_namespaces)
deny contains lib.violation_with(rego.metadata.rule(), input.claimed.pod.namespace) if {
	input.request.method in {"Exec", "Attach", "PortForward"}
	input.claimed.pod.namespace in data.postern_config.exec_denied_namespaces
}
