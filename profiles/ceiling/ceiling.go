// Package ceiling holds the three ceilings that are shipped.
package ceiling

import "embed"

//go:embed restricted.toml baseline.toml conformance.toml
var files embed.FS

// Names lists the shipped ceilings, narrow to wide.
func Names() []string { return []string{"restricted", "baseline", "conformance"} }

// Shipped returns the ceiling.toml of a profile.
func Shipped(name string) ([]byte, bool) {
	b, err := files.ReadFile(name + ".toml")
	return b, err == nil
}
