// Package admit is the verify role: it judges images, writes their records, and
// lets layers in. Every layer is held against a record that this uid wrote, is
// converted by another process, and is read again here, with every bound
// checked, before its file gets the name that the helper mounts it by.
package admit

import (
	"encoding/json"

	"github.com/postern-cri/postern/runtime/image"
)

// Request is one operation. "verify" brings a job (package evidence) as a sealed
// memfd, "admit" a blob.
type Request struct {
	Op       string `json:"op"` // verify, admit, have, remove, sync
	Manifest string `json:"manifest,omitempty"`
	Layer    int    `json:"layer,omitempty"`
	Keep     bool   `json:"keep,omitempty"` // verify: an equal or better record of this epoch stays
}

// Answer answers a Request; to "admit" they come in any order, by layer.
type Answer struct {
	Op        string          `json:"op"`
	Layer     int             `json:"layer,omitempty"`
	Record    json.RawMessage `json:"record,omitempty"`    // verify
	Missing   []int           `json:"missing,omitempty"`   // verify, have: layers that are not here yet
	Manifests []string        `json:"manifests,omitempty"` // sync: images with a record
	Broken    []string        `json:"broken,omitempty"`    // sync: those of them that lack a layer
	Usage     *image.Usage    `json:"usage,omitempty"`     // sync
	Error     *image.Error    `json:"error,omitempty"`
}

const maxInodes = 2 << 20
