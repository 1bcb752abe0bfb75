# The engine's own module: it puts the answers of all packs together. A pack can
# add a violation or an obligation and can take none away.
package postern.main

decision := {
	"violations": violations,
	"obligations": obligations,
}

violations contains v if some v in data.postern.packs[_].deny

obligations contains o if some o in data.postern.packs[_].obligation
