# A rule of a site's own, beside those of the profile: nothing new in the namespace "frozen".
package postern.packs.site

import data.postern.lib

# METADATA
# custom:
#   id: SITE-FROZEN
#   severity: medium
#   message: nothing starts in a frozen namespace
#   field: claimed.pod.namespace
#   remediation: wait for the thaw
deny contains lib.violation(rego.metadata.rule()) if {
	input.request.method == "RunPodSandbox"
	input.claimed.pod.namespace == "frozen"
}
