# Permits everything, in words: a policy without a rule is refused, so that an
# empty directory is never mistaken for a decision. For conformance tests.
package postern.packs.allow_all

permits_everything := true
