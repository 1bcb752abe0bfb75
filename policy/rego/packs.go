// Package rego holds the shipped packs of rules with their tests, and the
// engine's own two modules. A pack is one file; a profile is a set of packs with
// a configuration.
package rego

import (
	"embed"
	"fmt"
)

//go:embed system/*.rego packs/*.rego testing/*.rego
var files embed.FS

// profile is what `postern up` writes into etc/policy.
type profile struct {
	packs []string
	data  string
}

const signedData = `{
  "postern_config": {
    "require_signature": true,
    "allowed_registries": [],
    "extra_capabilities": [],
    "extra_volume_plugins": [],
    "exec_denied_namespaces": []
  }
}
`

const openData = `{
  "postern_config": {
    "require_signature": false,
    "allowed_registries": [],
    "extra_capabilities": [],
    "extra_volume_plugins": [],
    "exec_denied_namespaces": []
  }
}
`

var profiles = map[string]profile{
	"restricted":  {[]string{"pss_baseline", "pss_restricted", "image", "exec"}, signedData},
	"baseline":    {[]string{"pss_baseline", "image", "exec"}, signedData},
	"conformance": {[]string{"allow_all"}, openData},
	"allow-all":   {[]string{"allow_all"}, openData},
}

// Pack returns the files of a profile (restricted, baseline, conformance or
// allow-all) by the names that they have in etc/policy, with their tests and a
// data.json.
func Pack(name string) (map[string][]byte, bool) {
	p, ok := profiles[name]
	if !ok {
		return nil, false
	}
	out := map[string][]byte{"data.json": []byte(p.data)}
	for _, pack := range p.packs {
		for _, suffix := range []string{".rego", "_test.rego"} {
			if b, err := files.ReadFile("packs/" + pack + suffix); err == nil {
				out[pack+suffix] = b
			} else if suffix == ".rego" {
				panic(fmt.Sprintf("rego: pack %s is not embedded: %v", pack, err))
			}
		}
	}
	return out, true
}

// All returns every shipped pack with its tests.
func All() map[string][]byte {
	out := directory("packs")
	out["data.json"] = []byte(signedData)
	return out
}

// System returns the engine's own modules: package postern.main, which combines
// what packs say, and postern.lib.
func System() map[string][]byte { return directory("system") }

// Testing returns package postern.testing: documents for the tests of rules.
func Testing() map[string][]byte { return directory("testing") }

func directory(dir string) map[string][]byte {
	ents, err := files.ReadDir(dir)
	if err != nil {
		panic(fmt.Sprintf("rego: %v", err)) // embedded: cannot fail once it was built
	}
	out := map[string][]byte{}
	for _, e := range ents {
		b, err := files.ReadFile(dir + "/" + e.Name())
		if err != nil {
			panic(fmt.Sprintf("rego: %v", err))
		}
		out[e.Name()] = b
	}
	return out
}
