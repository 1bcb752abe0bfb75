package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// dataFile is the only data of a policy directory.
const dataFile = "data.json"

// Config is data.postern_config: what the shipped packs can be told. It is closed
// and every field has a value when rules run, so that neither a missing file nor
// a misspelt key can switch a rule off.
type Config struct {
	// RequireSignature refuses images whose record does not say "verified".
	RequireSignature bool `json:"require_signature"`
	// AllowedRegistries are registries or repository prefixes; empty is all.
	AllowedRegistries []string `json:"allowed_registries"`
	// ExtraCapabilities are let through by pss-baseline beyond its list.
	ExtraCapabilities []string `json:"extra_capabilities"`
	// ExtraVolumePlugins are let through by pss-restricted beyond its list, for
	// persistent volumes of an in-tree plugin: "nfs", "iscsi", ...
	ExtraVolumePlugins []string `json:"extra_volume_plugins"`
	// ExecDeniedNamespaces may not be entered by an interactive exec.
	ExecDeniedNamespaces []string `json:"exec_denied_namespaces"`
}

// DefaultConfig is the configuration where data.json says nothing.
func DefaultConfig() Config {
	return Config{
		RequireSignature: true, AllowedRegistries: []string{}, ExtraCapabilities: []string{},
		ExtraVolumePlugins: []string{}, ExecDeniedNamespaces: []string{},
	}
}

// dataDocument is data.json: postern_config for the shipped packs, and site,
// which is free, for rules of one's own.
type dataDocument struct {
	Config Config         `json:"postern_config"`
	Site   map[string]any `json:"site,omitempty"`
}

func parseData(b []byte) (map[string]any, error) {
	doc := dataDocument{Config: DefaultConfig()}
	if len(b) > 0 {
		d := json.NewDecoder(bytes.NewReader(b))
		d.DisallowUnknownFields()
		d.UseNumber()
		if err := d.Decode(&doc); err != nil {
			return nil, fmt.Errorf("%s: %w", dataFile, err)
		}
		if _, err := d.Token(); !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%s: left-over bytes", dataFile)
		}
	}
	if doc.Site == nil {
		doc.Site = map[string]any{}
	}
	b, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	var out map[string]any
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&out); err != nil {
		return nil, err
	}
	// "allowed_registries": null would be undefined to every rule that walks it.
	for k, v := range out["postern_config"].(map[string]any) {
		if v == nil {
			return nil, fmt.Errorf("%s: postern_config.%s is null", dataFile, k)
		}
	}
	return out, nil
}
