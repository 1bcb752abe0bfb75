// Package fetch is the fetch role: the only process that talks to registries. It
// parses what a registry says about an image far enough to ask policy and to
// collect evidence, hands the rest to others as bytes, and asks for a layer only
// after the verifier said yes to the digests that it computed itself.
package fetch

import (
	"strings"

	"github.com/containers/image/v5/docker/reference"

	"github.com/postern-cri/postern/privsep/record"
	"github.com/postern-cri/postern/runtime/image"
)

// parseReference reads a reference as the kubelet writes it. A name without a
// registry is refused unless the node's configuration completes it: whoever
// controls the first registry of a search list would control the image.
func parseReference(s, shortNames string) (reference.Named, error) {
	if len(s) > 1024 {
		return nil, image.Errorf(image.Invalid, "image reference of %d bytes", len(s))
	}
	n, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		return nil, image.Errorf(image.Invalid, "image reference %q: %v", s, err)
	}
	if first, _, ok := strings.Cut(s, "/"); !ok || !strings.ContainsAny(first, ".:") && first != "localhost" {
		if shortNames != "docker.io" {
			return nil, image.Errorf(image.Invalid, "image reference %q has no registry: write %s, or set image.short_names", s, n.String())
		}
	}
	if d, ok := n.(reference.Digested); ok {
		if _, err := record.Hex(d.Digest().String()); err != nil {
			return nil, image.Errorf(image.Invalid, "image reference %q: %v", s, err)
		}
		// A digest says all: the tag beside it would be believed by nobody.
		if c, err := reference.WithDigest(reference.TrimNamed(n), d.Digest()); err == nil {
			return c, nil
		}
	}
	return reference.TagNameOnly(n), nil
}

func tagOf(n reference.Named) string {
	if t, ok := n.(reference.Tagged); ok {
		return t.Tag()
	}
	return ""
}

func digestOf(n reference.Named) string {
	if d, ok := n.(reference.Digested); ok {
		return d.Digest().String()
	}
	return ""
}
