# Documents for the tests of rules. Each is one that restricted permits; a test
# changes what it is about:
#
#	deny with input as testing.create({"privileged": true}, {})
package postern.testing

digest := "sha256:1111111111111111111111111111111111111111111111111111111111111111"

request(method, class) := {
	"id": "01J00000000000000000000000", "method": method, "class": class,
	"phase": "", "time_ns": 1790000000000000000,
}

claimed := {
	"request_id": "01J00000000000000000000000", "method": "",
	"caller": {"uid": 0, "pid": 1},
	"pod": {"id": "", "name": "web-0", "namespace": "prod", "uid": "u", "attempt": 0, "labels": {}, "annotations": {}},
	"container": {"id": "", "name": "web", "attempt": 0, "labels": {}, "annotations": {}, "privileged": false},
	"image": {
		"requested": "registry.example.com/web:1", "registry": "", "repository": "", "tag": "",
		"digest": "", "platform": "", "status": "", "authorities": [], "epoch": "",
	},
	"exec": {"args": [], "tty": false, "stdin": false, "stdout": false, "stderr": false, "sync": false},
	"ports": [],
}

place := {"root": "invalid", "name": "", "rel": ""}

pod := {
	"class": "restricted", "uid": "u", "hostname": "web-0",
	"namespaces": {"network": "pod", "pid": "container", "ipc": "pod", "user": "node"},
	"uids": [], "gids": [], "sysctls": [], "ports": [],
	"dns": {"servers": [], "searches": [], "options": []},
	"cgroup_parent": place, "logs": place, "handler": "", "shm_bytes": 0,
	"selinux": {"user": "", "role": "", "type": "", "level": ""}, "privileged": false,
}

resources := {
	"cpu_shares": 0, "cpu_quota": 0, "cpu_period": 0, "cpuset_cpus": "", "cpuset_mems": "",
	"memory": 0, "memory_swap": 0, "oom_score_adj": 0, "pids": 0, "hugepages": [], "unified": [],
}

container := {
	"class": "restricted", "image": digest, "args": ["/web"], "env": [], "cwd": "/",
	"user": {"uid": 1000, "gid": 1000, "groups": []},
	"capabilities": {"bounding": [], "ambient": []},
	"privileged": false, "no_new_privs": true, "read_only_rootfs": false,
	"tty": false, "stdin": false, "stdin_once": false, "pid": "container", "target": "",
	"seccomp": {"kind": "runtime_default", "name": ""}, "apparmor": {"kind": "runtime_default", "name": ""},
	"selinux": {"user": "", "role": "", "type": "", "level": ""},
	"masked_paths": ["/proc/kcore", "/proc/keys", "/proc/timer_list"], "read_only_paths": ["/proc/sys"],
	"mounts": [], "devices": [], "cdi": [], "rlimits": [], "resources": resources, "log": "web/0.log", "stop_signal": 0,
}

image := {
	"manifest": digest, "index": "", "config": digest, "registry": "registry.example.com",
	"repository": "registry.example.com/web", "layers": [], "status": "verified",
	"authorities": [{"name": "ci", "type": "key", "identity": "k"}], "epoch": "e", "verified_at": "", "evidence": [],
}

document(req, role, derived) := {
	"schema": "postern.input/v1", "request": req, "asker": {"role": role},
	"derived": derived, "claimed": claimed,
}

# A RunPodSandbox whose pod is changed by p.
run(p) := document(request("RunPodSandbox", "create"), "helper", {"pod": object.union(pod, p)})

# A CreateContainer whose container is changed by c and whose pod by p.
create(c, p) := document(request("CreateContainer", "create"), "helper", {
	"pod": object.union(pod, p), "container": object.union(container, c), "image": image,
})

# A CreateContainer whose verification record is changed by i.
create_image(i) := object.union(create({}, {}), {"derived": {"image": object.union(image, i)}})

# A session (sync false) or a probe (sync true) in a container changed by c.
exec(sync, c, p) := document(request("Exec", "exec"), "helper", {
	"pod": object.union(pod, p), "container": object.union(container, c),
	"exec": {"args": ["sh"], "tty": false, "stdin": false, "stdout": true, "stderr": true, "sync": sync},
})

# A PullImage of repository before anything is fetched.
pull(repository) := document(
	object.union(request("PullImage", "image"), {"phase": "resolve", "image": {
		"reference": repository, "registry": split(repository, "/")[0], "repository": repository, "tag": "", "digest": "",
	}}),
	"fetch", {},
)

# The ids of a set of violations.
ids(violations) := {v.id | some v in violations}
