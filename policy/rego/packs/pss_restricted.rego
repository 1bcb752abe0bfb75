# Pod Security Standards, level "restricted": what comes on top of baseline.
package postern.packs.pss_restricted

import data.postern.lib

plugins := {
	"kubernetes.io~configmap", "kubernetes.io~downward-api", "kubernetes.io~empty-dir",
	"kubernetes.io~projected", "kubernetes.io~secret", "kubernetes.io~csi", "kubernetes.io~local-volume",
}

# METADATA
# custom:
#   id: PSS-R-VOLUME
#   severity: medium
#   message: this type of volume is not allowed
#   field: container.mounts
#   remediation: use configMap, csi, downwardAPI, emptyDir, ephemeral, persistentVolumeClaim, projected, secret or image
#   control: ["PSS:restricted/restrictedVolumes"]
deny contains lib.violation_with(rego.metadata.rule(), plugin) if {
	input.request.method == "CreateContainer"
	some m in input.derived.container.mounts
	m.root == "pod_volumes"
	startswith(m.rel, "volumes/")
	plugin := split(m.rel, "/")[1]
	not plugin in plugins
	not trim_prefix(plugin, "kubernetes.io~") in data.postern_config.extra_volume_plugins
}

# METADATA
# custom:
#   id: PSS-R-ESCALATION
#   severity: high
#   message: privilege escalation is not allowed
#   field: container.no_new_privs
#   remediation: set securityContext.allowPrivilegeEscalation to false
#   control: ["PSS:restricted/allowPrivilegeEscalation"]
deny contains lib.violation(rego.metadata.rule()) if {
	input.request.method == "CreateContainer"
	not input.derived.container.no_new_privs
}

# The uid is the one that the process will have, whether the pod or the image
# says so: this is stronger than what an admission controller can see.
# METADATA
# custom:
#   id: PSS-R-NONROOT
#   severity: high
#   message: running as root is not allowed
#   field: container.user.uid
#   remediation: set securityContext.runAsUser, or a USER other than root in the image, or hostUsers false
#   control: ["PSS:restricted/runAsNonRoot", "PSS:restricted/runAsUser"]
deny contains lib.violation(rego.metadata.rule()) if {
	input.request.method == "CreateContainer"
	input.derived.container.user.uid == 0
	not input.derived.pod.namespaces.user == "pod"
}

# METADATA
# custom:
#   id: PSS-R-CAPS
#   severity: medium
#   message: capabilities other than NET_BIND_SERVICE are not allowed
#   field: container.capabilities.bounding
#   remediation: set capabilities.drop to ["ALL"] and add NET_BIND_SERVICE at most
#   control: ["PSS:restricted/capabilities"]
deny contains lib.violation_with(rego.metadata.rule(), concat(" ", sort(more))) if {
	input.request.method == "CreateContainer"
	more := {c | some c in input.derived.container.capabilities.bounding} - {"NET_BIND_SERVICE"}
	count(more) > 0
}

# METADATA
# custom:
#   id: PSS-R-CAPS-AMBIENT
#   severity: medium
#   message: ambient capabilities other than NET_BIND_SERVICE are not allowed
#   field: container.capabilities.ambient
#   remediation: remove the ambient capabilities
#   control: ["PSS:restricted/capabilities"]
deny contains lib.violation_with(rego.metadata.rule(), concat(" ", sort(more))) if {
	input.request.method == "CreateContainer"
	more := {c | some c in input.derived.container.capabilities.ambient} - {"NET_BIND_SERVICE"}
	count(more) > 0
}

# METADATA
# custom:
#   id: PSS-R-PROCMOUNT
#   severity: high
#   message: an unmasked /proc is not allowed, not even with a user namespace
#   field: container.masked_paths
#   remediation: use procMount Default
#   control: ["PSS:restricted/procMount"]
deny contains lib.violation(rego.metadata.rule()) if {
	input.request.method == "CreateContainer"
	count(input.derived.container.masked_paths) == 0
}
