# What every pack may use.
package postern.lib

# The violation of a rule, from the rule's own metadata.
violation(meta) := {
	"id": meta.custom.id,
	"severity": meta.custom.severity,
	"message": meta.custom.message,
	"field": meta.custom.field,
	"remediation": meta.custom.remediation,
}

# The same with what was found: "message: detail".
violation_with(meta, detail) := object.union(
	violation(meta),
	{"message": sprintf("%s: %v", [meta.custom.message, detail])},
)

# The same with the very field.
violation_at(meta, detail, field) := object.union(violation_with(meta, detail), {"field": field})
