package manifest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"strings"

	"github.com/postern-cri/postern/privsep/record"
)

// Media types.
const (
	OCIManifest    = "application/vnd.oci.image.manifest.v1+json"
	OCIIndex       = "application/vnd.oci.image.index.v1+json"
	DockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	DockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
)

const (
	maxLayers    = 127
	maxManifests = 1024
)

// Descriptor points to a blob or another manifest.
type Descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	URLs        []string          `json:"urls,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Platform    *Platform         `json:"platform,omitempty"`
}

// Platform is what an image runs on.
type Platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	Variant      string `json:"variant,omitempty"`
}

// Manifest is an image's.
type Manifest struct {
	MediaType string       `json:"mediaType"`
	Config    Descriptor   `json:"config"`
	Layers    []Descriptor `json:"layers"`
}

// Index lists images of several platforms.
type Index struct {
	MediaType string       `json:"mediaType"`
	Manifests []Descriptor `json:"manifests"`
}

// Digest is the SHA-256 of b: the only name that a manifest has here.
func Digest(b []byte) string {
	s := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(s[:])
}

// Parse reads a manifest or an index, of which exactly one is returned.
// contentType is what it was sent with; empty where nobody said.
func Parse(b []byte, contentType string) (*Manifest, *Index, error) {
	var doc struct {
		SchemaVersion int              `json:"schemaVersion"`
		MediaType     string           `json:"mediaType"`
		ArtifactType  string           `json:"artifactType"`
		Config        *json.RawMessage `json:"config"`
		Layers        *json.RawMessage `json:"layers"`
		FSLayers      *json.RawMessage `json:"fsLayers"`
		Manifests     *json.RawMessage `json:"manifests"`
	}
	if err := Strict(b, &doc); err != nil {
		return nil, nil, fmt.Errorf("manifest: %w", err)
	}
	if doc.SchemaVersion != 2 || doc.FSLayers != nil {
		return nil, nil, fmt.Errorf("manifest: schema version %d is not supported", doc.SchemaVersion)
	}
	isManifest, isIndex := doc.Config != nil || doc.Layers != nil, doc.Manifests != nil
	if isManifest == isIndex {
		return nil, nil, errors.New("manifest: it is both a manifest and an index, or neither")
	}
	if ct, _, err := mime.ParseMediaType(contentType); err == nil && known(ct) && doc.MediaType != "" && ct != doc.MediaType {
		return nil, nil, fmt.Errorf("manifest: it says %q, but was sent as %q", doc.MediaType, ct)
	} else if doc.MediaType == "" {
		doc.MediaType = ct
	}
	want := []string{OCIManifest, DockerManifest}
	if isIndex {
		want = []string{OCIIndex, DockerList}
	}
	if doc.MediaType != want[0] && doc.MediaType != want[1] && known(doc.MediaType) {
		return nil, nil, fmt.Errorf("manifest: its media type is %q, but its content is not", doc.MediaType)
	}
	if isIndex {
		var i Index
		if err := json.Unmarshal(b, &i); err != nil {
			return nil, nil, fmt.Errorf("index: %w", err)
		}
		return nil, &i, i.check()
	}
	var m Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, nil, fmt.Errorf("manifest: %w", err)
	}
	return &m, nil, m.check()
}

func known(mediaType string) bool {
	switch mediaType {
	case OCIManifest, OCIIndex, DockerManifest, DockerList:
		return true
	}
	return false
}

func (i *Index) check() error {
	if len(i.Manifests) > maxManifests {
		return fmt.Errorf("index: %d manifests, at most %d", len(i.Manifests), maxManifests)
	}
	for _, d := range i.Manifests {
		if err := d.check(); err != nil {
			return fmt.Errorf("index: %w", err)
		}
	}
	return nil
}

func (m *Manifest) check() error {
	if len(m.Layers) > maxLayers {
		return fmt.Errorf("manifest: %d layers, at most %d", len(m.Layers), maxLayers)
	}
	if err := m.Config.check(); err != nil {
		return fmt.Errorf("manifest: configuration: %w", err)
	}
	for k, d := range m.Layers {
		if err := d.check(); err != nil {
			return fmt.Errorf("manifest: layer %d: %w", k, err)
		}
	}
	return nil
}

func (d *Descriptor) check() error {
	if _, err := record.Hex(d.Digest); err != nil {
		return err
	}
	if d.Size < 0 || d.Size > 1<<40 {
		return fmt.Errorf("%s: size %d", d.Digest, d.Size)
	}
	return nil
}

// Has says whether the index lists the manifest.
func (i *Index) Has(digest string) bool {
	for _, d := range i.Manifests {
		if d.Digest == digest {
			return true
		}
	}
	return false
}

// Choose returns the manifest of this platform: the first that fits best, so
// that a second one cannot take its place.
func (i *Index) Choose(arch string) (Descriptor, error) {
	var best *Descriptor
	var have []string
	for k := range i.Manifests {
		d := &i.Manifests[k]
		if d.Platform == nil || d.MediaType != "" && d.MediaType != OCIManifest && d.MediaType != DockerManifest {
			continue
		}
		have = append(have, d.Platform.OS+"/"+d.Platform.Architecture)
		if d.Platform.OS != "linux" || d.Platform.Architecture != arch {
			continue
		}
		if best == nil || plain(d.Platform) && !plain(best.Platform) {
			best = d
		}
	}
	if best == nil {
		return Descriptor{}, fmt.Errorf("index: no image for linux/%s (it has %s)", arch, strings.Join(have, ", "))
	}
	return *best, nil
}

// plain is the variant that every machine of the architecture runs.
func plain(p *Platform) bool {
	return p.Variant == "" || p.Architecture == "arm64" && p.Variant == "v8" || p.Architecture == "amd64" && p.Variant == "v1"
}

// Check checks that the manifest is a container image's, with layers that are
// plain archives, or an artifact's, and that all of it is in this registry.
func (m *Manifest) Check() error {
	if m.Config.Size > MaxSize {
		return fmt.Errorf("manifest: configuration of %d bytes", m.Config.Size)
	}
	if len(m.Layers) == 0 {
		return errors.New("manifest: an image without a layer")
	}
	for k, d := range m.Layers {
		if len(d.URLs) > 0 {
			return fmt.Errorf("manifest: layer %d lies elsewhere (urls): not supported", k)
		}
	}
	if m.Artifact() {
		_, err := m.Files()
		return err
	}
	for k, d := range m.Layers {
		switch d.MediaType {
		case "application/vnd.oci.image.layer.v1.tar", "application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.oci.image.layer.v1.tar+zstd",
			"application/vnd.docker.image.rootfs.diff.tar.gzip", "application/vnd.docker.image.rootfs.diff.tar":
		default:
			return fmt.Errorf("manifest: layer %d: media type %q is not supported", k, d.MediaType)
		}
	}
	return nil
}
