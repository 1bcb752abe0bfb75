package postern.packs.pss_restricted_test

import data.postern.packs.pss_restricted
import data.postern.testing

denied(doc) := ids if ids := testing.ids(pss_restricted.deny) with input as doc

test_plain_container if denied(testing.create({}, {})) == set()

test_volumes if {
	denied(testing.create({"mounts": [{"root": "pod_volumes", "rel": "volumes/kubernetes.io~secret/s", "to": "/s"}]}, {})) == set()
	denied(testing.create({"mounts": [{"root": "pod_volumes", "rel": "etc-hosts", "to": "/etc/hosts"}]}, {})) == set()
	denied(testing.create({"mounts": [{"root": "image", "rel": "", "to": "/i"}]}, {})) == set()
	doc := testing.create({"mounts": [{"root": "pod_volumes", "rel": "volumes/kubernetes.io~nfs/v", "to": "/v"}]}, {})
	denied(doc) == {"PSS-R-VOLUME"}
	denied(doc) == set() with data.postern_config.extra_volume_plugins as ["nfs"]
}

test_escalation if denied(testing.create({"no_new_privs": false}, {})) == {"PSS-R-ESCALATION"}

test_root if {
	denied(testing.create({"user": {"uid": 0}}, {})) == {"PSS-R-NONROOT"}
	denied(testing.create({"user": {"uid": 0}}, {"namespaces": {"user": "pod"}})) == set()
}

test_capabilities if {
	denied(testing.create({"capabilities": {"bounding": ["NET_BIND_SERVICE"], "ambient": ["NET_BIND_SERVICE"]}}, {})) == set()
	denied(testing.create({"capabilities": {"bounding": ["CHOWN"]}}, {})) == {"PSS-R-CAPS"}
	denied(testing.create({"capabilities": {"ambient": ["CHOWN"]}}, {})) == {"PSS-R-CAPS-AMBIENT"}
}

test_proc_mount if denied(testing.create({"masked_paths": []}, {"namespaces": {"user": "pod"}})) == {"PSS-R-PROCMOUNT"}
