package postern.packs.exec_test

import data.postern.packs.exec
import data.postern.testing

denied(doc) := ids if ids := testing.ids(exec.deny) with input as doc

test_plain_exec if denied(testing.exec(false, {}, {})) == set()

test_privileged if {
	denied(testing.exec(false, {"privileged": true}, {})) == {"EXEC-PRIVILEGED"}
	denied(testing.exec(true, {"privileged": true}, {})) == set()
}

test_host_namespace if {
	denied(testing.exec(false, {"pid": "node"}, {})) == {"EXEC-HOSTNS"}
	denied(testing.exec(false, {}, {"namespaces": {"ipc": "node"}})) == {"EXEC-HOSTNS"}
	denied(testing.exec(true, {"pid": "node"}, {})) == set()
}

test_attach if {
	doc := testing.document(testing.request("Attach", "exec"), "front", {})
	denied(doc) == set()
	denied(object.union(doc, {"claimed": {"container": {"privileged": true}}})) == {"EXEC-ATTACH-PRIVILEGED"}
}

test_namespace if {
	doc := testing.exec(false, {}, {})
	denied(doc) == {"EXEC-NAMESPACE"} with data.postern_config.exec_denied_namespaces as ["prod"]
	denied(doc) == set() with data.postern_config.exec_denied_namespaces as ["other"]
}
