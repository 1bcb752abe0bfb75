package verify

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/postern-cri/postern/runtime/image/manifest"
	"github.com/postern-cri/postern/verify/evidence"
)

// payload is the document that is signed: "simple signing".
type payload struct {
	Critical struct {
		Identity struct {
			Reference string `json:"docker-reference"`
		} `json:"identity"`
		Image struct {
			Digest string `json:"docker-manifest-digest"`
		} `json:"image"`
		Type string `json:"type"`
	} `json:"critical"`
}

// payloadType is the only type that says "this image"; anything else by the same
// key is a statement about something else.
const payloadType = "cosign container image signature"

func parsePayload(b []byte) (*payload, error) {
	var p payload
	if err := manifest.Strict(b, &p); err != nil {
		return nil, fmt.Errorf("its payload: %w", err)
	}
	if p.Critical.Type != payloadType {
		return nil, fmt.Errorf("its payload is of type %.80q", p.Critical.Type)
	}
	if p.Critical.Identity.Reference == "" || p.Critical.Image.Digest == "" {
		return nil, errors.New("its payload names no image")
	}
	return &p, nil
}

// good says whether the key made the signature over the payload's bytes.
func good(v signature.Verifier, s *evidence.Signature) bool {
	raw, err := base64.StdEncoding.DecodeString(s.Signature)
	if err != nil || len(raw) == 0 || len(s.Payload) == 0 {
		return false
	}
	return v.VerifySignature(bytes.NewReader(raw), bytes.NewReader(s.Payload)) == nil
}
