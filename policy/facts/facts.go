// Package facts is what an asker other than the privileged helper tells policy
// about a request: a JSON object in the section gate.SectionFacts. It depends on
// plan alone, so that the CRI front end can build it without linking OPA.
//
// All of it is a claim. Policy may deny on it and never permit on it.
package facts

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/postern-cri/postern/privsep/plan"
)

// MaxSize is the most bytes of an encoded Facts.
const MaxSize = 128 << 10

// Facts is the closed set of facts. Unknown fields are refused: both ends are
// built together, and a fact that nobody reads would be a rule that never fires.
type Facts struct {
	RequestID   string       `json:"request_id,omitempty"`
	Caller      *Caller      `json:"caller,omitempty"`
	Pod         *Pod         `json:"pod,omitempty"`
	Container   *Container   `json:"container,omitempty"`
	Image       *Image       `json:"image,omitempty"`
	Exec        *Exec        `json:"exec,omitempty"`
	PortForward *PortForward `json:"port_forward,omitempty"`

	PodResources *PodResources `json:"pod_resources,omitempty"`
}

// Caller is the peer of the CRI socket.
type Caller struct {
	UID uint32 `json:"uid"`
	PID uint32 `json:"pid"`
}

// Pod names a pod sandbox.
type Pod struct {
	ID          string            `json:"id,omitempty"`
	Name        string            `json:"name,omitempty"`
	Namespace   string            `json:"namespace,omitempty"`
	UID         string            `json:"uid,omitempty"`
	Attempt     uint32            `json:"attempt,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// Container names a container.
type Container struct {
	ID          string            `json:"id,omitempty"`
	Name        string            `json:"name,omitempty"`
	Attempt     uint32            `json:"attempt,omitempty"`
	Image       string            `json:"image,omitempty"` // the reference that the user wrote
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Privileged  bool              `json:"privileged,omitempty"`
}

// Image is the image of a pull or removal. Requested is the reference as
// written; the rest is what the asker made of it.
type Image struct {
	Requested    string        `json:"requested,omitempty"`
	Registry     string        `json:"registry,omitempty"`
	Repository   string        `json:"repository,omitempty"` // with the registry: registry.example.com/team/app
	Tag          string        `json:"tag,omitempty"`
	Digest       string        `json:"digest,omitempty"`
	Platform     string        `json:"platform,omitempty"`
	Verification *Verification `json:"verification,omitempty"`
}

// Verification is the verifier's verdict as the asker passes it on. What counts
// at create is the record that the helper reads itself.
type Verification struct {
	Status      string   `json:"status,omitempty"`
	Authorities []string `json:"authorities,omitempty"`
	Epoch       string   `json:"epoch,omitempty"`
}

// Exec is a process to be started, or a stream to be attached.
type Exec struct {
	Args   []string `json:"args,omitempty"`
	TTY    bool     `json:"tty,omitempty"`
	Stdin  bool     `json:"stdin,omitempty"`
	Stdout bool     `json:"stdout,omitempty"`
	Stderr bool     `json:"stderr,omitempty"`
	Sync   bool     `json:"sync,omitempty"`
}

// PortForward lists the ports asked for.
type PortForward struct {
	Ports []int32 `json:"ports,omitempty"`
}

// PodResources is the new size of a pod as a whole. Nothing is set by it: the pod's
// cgroup is the kubelet's.
type PodResources struct {
	Overhead  *plan.Resources `json:"overhead,omitempty"`
	Resources *plan.Resources `json:"resources,omitempty"`
}

// Encode encodes f for gate.SectionFacts.
func Encode(f Facts) ([]byte, error) {
	b, err := json.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("encoding facts: %w", err)
	}
	if len(b) > MaxSize {
		return nil, fmt.Errorf("facts of %d bytes, at most %d", len(b), MaxSize)
	}
	return b, nil
}

// Decode is Encode's strict inverse.
func Decode(b []byte) (Facts, error) {
	var f Facts
	if len(b) > MaxSize {
		return f, fmt.Errorf("facts of %d bytes, at most %d", len(b), MaxSize)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return f, fmt.Errorf("decoding facts: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return f, errors.New("decoding facts: left-over bytes")
	}
	return f, nil
}
