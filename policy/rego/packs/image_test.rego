package postern.packs.image_test

import data.postern.packs.image
import data.postern.testing

denied(doc) := ids if ids := testing.ids(image.deny) with input as doc

test_verified_image if {
	denied(testing.create({}, {})) == set()
	denied(testing.pull("registry.example.com/web")) == set()
}

test_registries if {
	denied(testing.pull("registry.example.com/web")) == set() with data.postern_config.allowed_registries as ["registry.example.com"]
	denied(testing.pull("registry.example.com/team/web")) == set() with data.postern_config.allowed_registries as ["registry.example.com/team/"]
	denied(testing.pull("registry.example.com/teams/web")) == {"IMG-REGISTRY-PULL"} with data.postern_config.allowed_registries as ["registry.example.com/team"]
	denied(testing.pull("registry.example.com.evil.example/web")) == {"IMG-REGISTRY-PULL"} with data.postern_config.allowed_registries as ["registry.example.com"]
	denied(testing.create({}, {})) == {"IMG-REGISTRY"} with data.postern_config.allowed_registries as ["other.example"]
}

test_unsigned if {
	denied(testing.create_image({"status": "accepted-unsigned"})) == {"IMG-SIGNATURE"}
	denied(testing.create_image({"status": "accepted-unsigned"})) == set() with data.postern_config.require_signature as false
}

test_no_record if {
	doc := testing.document(testing.request("CreateContainer", "create"), "helper", {"pod": testing.pod, "container": testing.container})
	denied(doc) == {"IMG-RECORD"}
}

test_other_record if denied(testing.create_image({"manifest": "sha256:22"})) == {"IMG-RECORD-OTHER"}

test_verified_pull_needs_a_record if {
	doc := object.union(testing.pull("registry.example.com/web"), {"request": {"phase": "verified"}})
	denied(doc) == {"IMG-SIGNATURE-PULL"}
	denied(object.union(doc, {"derived": {"image": testing.image}})) == set()
	denied(object.union(doc, {"derived": {"image": object.union(testing.image, {"status": "accepted-unsigned"})}})) == {"IMG-SIGNATURE"}
}
