// Package image is what the processes that pull images and those that use them
// have in common: a description of an image and the errors of a pull. It has no
// dependency, so that posternd links no image library.
package image

import (
	"errors"
	"fmt"
)

// ImageInfo describes an image on the node.
type ImageInfo struct {
	ID             string   `json:"id"`                     // digest of the configuration, or of an artifact's manifest: the CRI's image id
	ManifestDigest string   `json:"manifest_digest"`        // names the verification record
	IndexDigest    string   `json:"index_digest,omitempty"` // the index it was chosen from
	RepoTags       []string `json:"repo_tags,omitempty"`
	RepoDigests    []string `json:"repo_digests,omitempty"`
	Size           int64    `json:"size"` // of the blobs as pulled
	Config         Config   `json:"config"`
	Layers         []string `json:"layers"` // diffIDs, lowest first
	Pinned         bool     `json:"pinned,omitempty"`
	Artifact       bool     `json:"artifact,omitempty"` // files, for an image volume: nothing that could be run
	Status         string   `json:"status"`             // of the verification record
}

// Config is the part of an image's configuration that containers use.
type Config struct {
	User         string            `json:"user,omitempty"`
	Env          []string          `json:"env,omitempty"`
	Entrypoint   []string          `json:"entrypoint,omitempty"`
	Cmd          []string          `json:"cmd,omitempty"`
	WorkingDir   string            `json:"working_dir,omitempty"`
	Volumes      []string          `json:"volumes,omitempty"`
	StopSignal   string            `json:"stop_signal,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
	Architecture string            `json:"architecture,omitempty"`
	OS           string            `json:"os,omitempty"`
}

// Auth are a registry's credentials as the kubelet sends them.
type Auth struct {
	Username      string `json:"username,omitempty"`
	Password      string `json:"password,omitempty"`
	Auth          string `json:"auth,omitempty"` // base64 of username:password
	ServerAddress string `json:"server_address,omitempty"`
	IdentityToken string `json:"identity_token,omitempty"`
	RegistryToken string `json:"registry_token,omitempty"`
}

// Pod says for which pod an image is pulled: a claim, for policy and audit.
type Pod struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	UID       string `json:"uid,omitempty"`
}

// Progress is how far one blob of a pull has come.
type Progress struct {
	Stage  string `json:"stage"` // resolve, verify, download, convert
	Digest string `json:"digest,omitempty"`
	Done   int64  `json:"done,omitempty"`
	Total  int64  `json:"total,omitempty"`
}

// Usage is what images take on disk.
type Usage struct {
	Bytes      uint64 `json:"bytes"`
	Inodes     uint64 `json:"inodes"`
	Mountpoint string `json:"mountpoint"`
}

// Code classifies a failed operation.
type Code string

// Codes.
const (
	Signature   Code = "SIGNATURE"   // verification failed, and will again
	Unavailable Code = "UNAVAILABLE" // the registry did not answer as it should
	NotFound    Code = "NOT_FOUND"
	Policy      Code = "POLICY"  // refused by policy
	Invalid     Code = "INVALID" // the reference or the image is not valid
	AuthFailed  Code = "AUTH"    // the registry wants other credentials
	Internal    Code = "INTERNAL"
)

// Error is a failed operation. For Signature and Unavailable the message starts
// with the word that the kubelet looks for.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// Errorf makes an Error; the two words are put in front where they are missing.
func Errorf(code Code, format string, args ...any) *Error {
	m := fmt.Sprintf(format, args...)
	switch code {
	case Signature:
		m = "SignatureValidationFailed: " + m
	case Unavailable:
		m = "RegistryUnavailable: " + m
	}
	if len(m) > 4096 {
		m = m[:4096] + "…"
	}
	return &Error{code, m}
}

// AsError turns any error into an Error, Internal where it is none.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return Errorf(Internal, "%v", err)
}
