package postern.packs.pss_baseline_test

import data.postern.packs.pss_baseline
import data.postern.testing

denied(doc) := ids if ids := testing.ids(pss_baseline.deny) with input as doc

test_plain_pod_and_container if {
	denied(testing.run({})) == set()
	denied(testing.create({}, {})) == set()
}

test_host_namespaces if {
	denied(testing.run({"namespaces": {"network": "node"}})) == {"PSS-B-HOSTNS-NET"}
	denied(testing.run({"namespaces": {"pid": "node"}})) == {"PSS-B-HOSTNS-PID"}
	denied(testing.create({}, {"namespaces": {"ipc": "node"}})) == {"PSS-B-HOSTNS-IPC"}
	denied(testing.create({"pid": "node"}, {})) == {"PSS-B-HOSTNS-CTR"}
}

test_privileged if {
	denied(testing.run({"privileged": true})) == {"PSS-B-PRIV-POD"}
	denied(testing.create({"privileged": true}, {})) == {"PSS-B-PRIV"}
	denied(testing.create({}, {"privileged": true})) == set()
}

test_capabilities if {
	denied(testing.create({"capabilities": {"bounding": ["CHOWN", "SYS_CHROOT"]}}, {})) == set()
	denied(testing.create({"capabilities": {"bounding": ["CHOWN", "SYS_ADMIN"]}}, {})) == {"PSS-B-CAPS"}
	denied(testing.create({"capabilities": {"ambient": ["NET_ADMIN"]}}, {})) == {"PSS-B-CAPS-AMBIENT"}
}

test_extra_capabilities if {
	doc := testing.create({"capabilities": {"bounding": ["NET_RAW"], "ambient": ["NET_RAW"]}}, {})
	denied(doc) == set() with data.postern_config.extra_capabilities as ["NET_RAW"]
	denied(doc) == {"PSS-B-CAPS", "PSS-B-CAPS-AMBIENT"} with data.postern_config.extra_capabilities as []
}

test_host_path if {
	denied(testing.create({"mounts": [{"root": "host_path", "name": "dev", "rel": "", "to": "/dev"}]}, {})) == {"PSS-B-HOSTPATH"}
	denied(testing.create({"mounts": [{"root": "pod_volumes", "name": "", "rel": "etc-hosts", "to": "/etc/hosts"}]}, {})) == set()
}

test_host_port if {
	denied(testing.run({"ports": [{"protocol": "tcp", "container_port": 80, "host_port": 80, "host_ip": ""}]})) == {"PSS-B-HOSTPORT"}
	denied(testing.run({"ports": [{"protocol": "tcp", "container_port": 80, "host_port": 0, "host_ip": ""}]})) == set()
}

test_profiles if {
	denied(testing.create({"apparmor": {"kind": "unconfined"}}, {})) == {"PSS-B-APPARMOR"}
	denied(testing.create({"seccomp": {"kind": "unconfined"}}, {})) == {"PSS-B-SECCOMP"}
	denied(testing.create({"seccomp": {"kind": "localhost", "name": "x"}}, {})) == set()
}

test_selinux if {
	denied(testing.create({"selinux": {"type": "spc_t"}}, {})) == {"PSS-B-SELINUX"}
	denied(testing.create({"selinux": {"user": "root"}}, {})) == {"PSS-B-SELINUX"}
	denied(testing.create({"selinux": {"type": "container_init_t"}}, {})) == set()
	denied(testing.run({"selinux": {"role": "r"}})) == {"PSS-B-SELINUX-POD"}
}

test_proc_mount if {
	denied(testing.create({"masked_paths": []}, {})) == {"PSS-B-PROCMOUNT"}
	denied(testing.create({"masked_paths": ["/proc/acpi"]}, {})) == {"PSS-B-PROCMOUNT"}
	denied(testing.create({"read_only_paths": []}, {})) == {"PSS-B-PROCMOUNT"}
	denied(testing.create({"masked_paths": []}, {"namespaces": {"user": "pod"}})) == set()
}

test_sysctl if {
	denied(testing.run({"sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}]})) == set()
	denied(testing.run({"sysctls": [{"name": "kernel.msgmax", "value": "1"}]})) == {"PSS-B-SYSCTL"}
}

test_unified if {
	denied(testing.create({"resources": {"unified": [{"name": "memory.high", "value": "1"}]}}, {})) == set()
	denied(testing.create({"resources": {"unified": [{"name": "cpu.max", "value": "max"}]}}, {})) == {"PSS-B-CGROUP"}
	update := testing.document(testing.request("UpdateContainerResources", "update"), "helper", {
		"container": testing.container,
		"update": object.union(testing.resources, {"unified": [{"name": "io.max", "value": "x"}]}),
	})
	denied(update) == {"PSS-B-CGROUP"}
}
