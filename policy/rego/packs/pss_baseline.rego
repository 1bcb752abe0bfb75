# Pod Security Standards, level "baseline", judged on what will run. Rules on the
# pod apply to its containers too: a policy that was tightened since holds for
# every new container of an old pod.
package postern.packs.pss_baseline

import data.postern.lib

pod_methods := {"RunPodSandbox", "CreateContainer"}

# METADATA
# custom:
#   id: PSS-B-HOSTNS-NET
#   severity: high
#   message: the host's network namespace is not allowed
#   field: pod.namespaces.network
#   remediation: remove hostNetwork from the pod
#   control: ["PSS:baseline/hostNamespaces"]
deny contains lib.violation(rego.metadata.rule()) if {
	input.request.method in pod_methods
	input.derived.pod.namespaces.network == "node"
}

# METADATA
# custom:
#   id: PSS-B-HOSTNS-PID
#   severity: high
#   message: the host's PID namespace is not allowed
#   field: pod.namespaces.pid
#   remediation: remove hostPID from the pod
#   control: ["PSS:baseline/hostNamespaces"]
deny contains lib.violation(rego.metadata.rule()) if {
	input.request.method in pod_methods
	input.derived.pod.namespaces.pid == "node"
}

# METADATA
# custom:
#   id: PSS-B-HOSTNS-IPC
#   severity: high
#   message: the host's IPC namespace is not allowed
#   field: pod.namespaces.ipc
#   remediation: remove hostIPC from the pod
#   control: ["PSS:baseline/hostNamespaces"]
deny contains lib.violation(rego.metadata.rule()) if {
	input.request.method in pod_methods
	input.derived.pod.namespaces.ipc == "node"
}

# METADATA
# custom:
#   id: PSS-B-HOSTNS-CTR
#   severity: high
#   message: a container in the host's PID namespace is not allowed
#   field: container.pid
#   remediation: remove hostPID from the pod
#   control: ["PSS:baseline/hostNamespaces"]
deny contains lib.violation(rego.metadata.rule()) if {
	input.request.method == "CreateContainer"
	input.derived.container.pid == "node"
}

# METADATA
# custom:
#   id: PSS-B-PRIV-POD
#   severity: critical
#   message: pods with privileged containers are not allowed
#   field: pod.privileged
#   remediation: drop securityContext.privileged from every container of the pod
#   control: ["PSS:baseline/privileged"]
deny contains lib.violation(rego.metadata.rule()) if {
	input.request.method == "RunPodSandbox"
	input.derived.pod.privileged
}

# METADATA
# custom:
#   id: PSS-B-PRIV
#   severity: critical
#   message: privileged containers are not allowed
#   field: container.privileged
#   remediation: drop securityContext.privileged, and name the capabilities that are needed
#   control: ["PSS:baseline/privileged"]
deny contains lib.violation(rego.metadata.rule()) if {
	input.request.method == "CreateContainer"
	input.derived.container.privileged
}

capabilities := {
	"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD",
	"NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
}

# METADATA
# custom:
#   id: PSS-B-CAPS
#   severity: high
#   message: a capability beyond the baseline is not allowed
#   field: container.capabilities.bounding
#   remediation: remove it from capabilities.add
#   control: ["PSS:baseline/capabilities"]
deny contains lib.violation_with(rego.metadata.rule(), name) if {
	input.request.method == "CreateContainer"
	some name in input.derived.container.capabilities.bounding
	not name in capabilities
	not name in data.postern_config.extra_capabilities
}

# METADATA
# custom:
#   id: PSS-B-CAPS-AMBIENT
#   severity: high
#   message: an ambient capability beyond the baseline is not allowed
#   field: container.capabilities.ambient
#   remediation: remove it from the ambient capabilities
#   control: ["PSS:baseline/capabilities"]
deny contains lib.violation_with(rego.metadata.rule(), name) if {
	input.request.method == "CreateContainer"
	some name in input.derived.container.capabilities.ambient
	not name in capabilities
	not name in data.postern_config.extra_capabilities
}

# METADATA
# custom:
#   id: PSS-B-HOSTPATH
#   severity: high
#   message: host paths are not allowed
#   field: container.mounts
#   remediation: use a volume of another type
#   control: ["PSS:baseline/hostPathVolumes"]
deny contains lib.violation_with(rego.metadata.rule(), m.to) if {
	input.request.method == "CreateContainer"
	some m in input.derived.container.mounts
	m.root in {"host_path", "log", "cgroup", "invalid"}
}

# METADATA
# custom:
#   id: PSS-B-HOSTPORT
#   severity: medium
#   message: host ports are not allowed
#   field: pod.ports
#   remediation: use a Service in place of hostPort
#   control: ["PSS:baseline/hostPorts"]
deny contains lib.violation_with(rego.metadata.rule(), p.host_port) if {
	input.request.method in pod_methods
	some p in input.derived.pod.ports
	p.host_port != 0
}

# METADATA
# custom:
#   id: PSS-B-APPARMOR
#   severity: high
#   message: running without AppArmor confinement is not allowed
#   field: container.apparmor.kind
#   remediation: use the profile RuntimeDefault or Localhost
#   control: ["PSS:baseline/appArmorProfile"]
deny contains lib.violation(rego.metadata.rule()) if {
	input.request.method == "CreateContainer"
	not input.derived.container.apparmor.kind in {"runtime_default", "localhost"}
}

selinux_types := {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}

# METADATA
# custom:
#   id: PSS-B-SELINUX-POD
#   severity: high
#   message: this SELinux label is not allowed
#   field: pod.selinux
#   remediation: leave user and role empty and the type empty or one of container_t, container_init_t, container_kvm_t, container_engine_t
#   control: ["PSS:baseline/seLinuxOptions"]
deny contains lib.violation_with(rego.metadata.rule(), l) if {
	input.request.method in pod_methods
	l := input.derived.pod.selinux
	custom_label(l)
}

# METADATA
# custom:
#   id: PSS-B-SELINUX
#   severity: high
#   message: this SELinux label is not allowed
#   field: container.selinux
#   remediation: leave user and role empty and the type empty or one of container_t, container_init_t, container_kvm_t, container_engine_t
#   control: ["PSS:baseline/seLinuxOptions"]
deny contains lib.violation_with(rego.metadata.rule(), l) if {
	input.request.method == "CreateContainer"
	l := input.derived.container.selinux
	custom_label(l)
}

custom_label(l) if not l.type in selinux_types

custom_label(l) if l.user != ""

custom_label(l) if l.role != ""

# Paths that the kubelet asks to mask for procMount Default and that matter most:
# a container that lacks one of them was asked for unmasked.
masked := {"/proc/kcore", "/proc/keys", "/proc/timer_list"}

# METADATA
# custom:
#   id: PSS-B-PROCMOUNT
#   severity: high
#   message: an unmasked /proc is not allowed
#   field: container.masked_paths
#   remediation: use procMount Default, or hostUsers false
#   control: ["PSS:baseline/procMount"]
deny contains lib.violation(rego.metadata.rule()) if {
	input.request.method == "CreateContainer"
	not input.derived.container.privileged
	not input.derived.pod.namespaces.user == "pod"
	not proc_masked
}

proc_masked if {
	every p in masked {
		p in input.derived.container.masked_paths
	}
	count(input.derived.container.read_only_paths) > 0
}

# METADATA
# custom:
#   id: PSS-B-SECCOMP
#   severity: high
#   message: running without a seccomp profile is not allowed
#   field: container.seccomp.kind
#   remediation: use the profile RuntimeDefault or Localhost
#   control: ["PSS:baseline/seccompProfile"]
deny contains lib.violation(rego.metadata.rule()) if {
	input.request.method == "CreateContainer"
	not input.derived.container.seccomp.kind in {"runtime_default", "localhost"}
}

sysctls := {
	"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies",
	"net.ipv4.ping_group_range", "net.ipv4.ip_unprivileged_port_start", "net.ipv4.ip_local_reserved_ports",
	"net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl",
	"net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem",
}

# METADATA
# custom:
#   id: PSS-B-SYSCTL
#   severity: high
#   message: this sysctl is not allowed
#   field: pod.sysctls
#   remediation: remove it from securityContext.sysctls
#   control: ["PSS:baseline/sysctls"]
deny contains lib.violation_with(rego.metadata.rule(), s.name) if {
	input.request.method in pod_methods
	some s in input.derived.pod.sysctls
	not s.name in sysctls
}

# METADATA
# custom:
#   id: PSS-B-CGROUP
#   severity: high
#   message: raw cgroup values are not allowed
#   field: container.resources.unified
#   remediation: use the limits that Kubernetes has fields for
deny contains lib.violation_with(rego.metadata.rule(), u.name) if {
	input.request.method in {"CreateContainer", "UpdateContainerResources"}
	some u in unified
	not u.name in {"memory.min", "memory.low", "memory.high", "memory.oom.group", "memory.swap.max"}
}

unified contains u if some u in input.derived.container.resources.unified

unified contains u if some u in input.derived.update.unified
