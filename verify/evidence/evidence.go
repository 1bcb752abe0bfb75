// Package evidence is what the process that fetches collects about an image for
// the one that verifies: bytes, and nothing that was made of them. It has no
// dependency, so that the fetching side links no signature library.
package evidence

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// Bounds on what is collected for one image: a repository can hold thousands of
// signatures that were made to be looked at.
const (
	MaxSignatures = 64
	MaxBytes      = 8 << 20
	MaxPayload    = 64 << 10
	Deadline      = 10 * time.Second
	MaxJob        = 40 << 20
)

// SignatureAnnotation carries a cosign signature in its manifest.
const SignatureAnnotation = "dev.cosignproject.cosign/signature"

// PayloadType is the media type of a signed payload.
const PayloadType = "application/vnd.dev.cosign.simplesigning.v1+json"

// Signature is one candidate in cosign's format: the signed payload and the
// signature in base64.
type Signature struct {
	Payload   []byte `json:"payload"`
	Signature string `json:"signature"`
	For       string `json:"for"` // the digest by which it was found
}

// Job is what one verification is about. Every digest is computed anew from
// these bytes by who verifies.
type Job struct {
	Requested  string      `json:"requested"`  // the reference as it was asked for
	Repository string      `json:"repository"` // with the registry, without tag or digest
	Index      []byte      `json:"index,omitempty"`
	IndexType  string      `json:"index_type,omitempty"`
	Manifest   []byte      `json:"manifest"`
	Type       string      `json:"type"` // the manifest's media type as sent
	Config     []byte      `json:"config"`
	Signatures []Signature `json:"signatures,omitempty"`
	TooMany    bool        `json:"too_many,omitempty"` // there was more than the bounds let in
}

// Encode encodes j.
func (j *Job) Encode() ([]byte, error) { return json.Marshal(j) }

// Decode decodes a job and holds it against the bounds.
func Decode(b []byte) (*Job, error) {
	var j Job
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&j); err != nil {
		return nil, fmt.Errorf("decoding a verification job: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("decoding a verification job: left-over bytes")
	}
	total := 0
	for _, s := range j.Signatures {
		total += len(s.Payload) + len(s.Signature)
		if len(s.Payload) > MaxPayload {
			j.TooMany = true
		}
	}
	if len(j.Signatures) > MaxSignatures || total > MaxBytes {
		j.TooMany = true
	}
	return &j, nil
}
