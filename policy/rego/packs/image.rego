# Where images come from and who vouches for them.
package postern.packs.image

import data.postern.lib

# A prefix matches a whole part of the name: "registry.example.com" does not let
# "registry.example.com.evil.example" in.
allowed(_) if count(data.postern_config.allowed_registries) == 0

allowed(repository) if {
	some prefix in data.postern_config.allowed_registries
	startswith(sprintf("%s/", [repository]), sprintf("%s/", [trim_right(prefix, "/")]))
}

# METADATA
# custom:
#   id: IMG-REGISTRY-PULL
#   severity: high
#   message: images from here are not allowed
#   field: request.image.repository
#   remediation: use an image of an allowed registry (data.json, allowed_registries)
deny contains lib.violation_with(rego.metadata.rule(), input.request.image.repository) if {
	input.request.method == "PullImage"
	not allowed(input.request.image.repository)
}

# METADATA
# custom:
#   id: IMG-REGISTRY
#   severity: high
#   message: images from here are not allowed
#   field: image.repository
#   remediation: use an image of an allowed registry (data.json, allowed_registries)
deny contains lib.violation_with(rego.metadata.rule(), input.derived.image.repository) if {
	input.request.method in {"PullImage", "CreateContainer"}
	not allowed(input.derived.image.repository)
}

# METADATA
# custom:
#   id: IMG-RECORD
#   severity: critical
#   message: the image has no verification record
#   field: image
#   remediation: pull the image through this runtime
deny contains lib.violation(rego.metadata.rule()) if {
	input.request.method == "CreateContainer"
	not input.derived.image
}

# METADATA
# custom:
#   id: IMG-RECORD-OTHER
#   severity: critical
#   message: the verification record is another image's
#   field: image.manifest
#   remediation: this is never right; look into the audit log
deny contains lib.violation(rego.metadata.rule()) if {
	input.request.method == "CreateContainer"
	input.derived.image.manifest != input.derived.container.image
}

# METADATA
# custom:
#   id: IMG-SIGNATURE
#   severity: critical
#   message: the image is not signed by an authority that this node trusts
#   field: image.status
#   remediation: sign the image, or add its authority to trust.toml
deny contains lib.violation_with(rego.metadata.rule(), input.derived.image.repository) if {
	input.request.method in {"PullImage", "CreateContainer"}
	data.postern_config.require_signature
	input.derived.image.status != "verified"
}

# METADATA
# custom:
#   id: IMG-SIGNATURE-PULL
#   severity: critical
#   message: a pull whose verification is over has no record
#   field: image
#   remediation: this is never right; look into the audit log
deny contains lib.violation(rego.metadata.rule()) if {
	input.request.method == "PullImage"
	input.request.phase == "verified"
	not input.derived.image
}
