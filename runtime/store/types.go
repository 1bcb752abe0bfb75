// Package store is what posternd remembers of pods and containers: the metadata
// that CRI hands back and the privileged side has no use for, and how each
// container ended.
//
// Reads come from memory and never wait for a write to the disk or for a call to
// another process. The stored values are immutable: a change replaces a value,
// so that a reader's snapshot stays whole.
package store

import (
	"maps"
	"slices"
	"strconv"

	"github.com/postern-cri/postern/privsep/plan"
)

// State is the state of a pod or container.
type State uint8

// States.
const (
	Created State = iota + 1 // container
	Running                  // container, and a ready pod
	Exited                   // container, and a stopped pod
)

// Pod is one pod sandbox.
type Pod struct {
	ID          string             `json:"id"`
	Name        string             `json:"name"`
	Namespace   string             `json:"ns"`
	UID         string             `json:"uid"`
	Attempt     uint32             `json:"attempt,omitempty"`
	State       State              `json:"state"`
	Created     int64              `json:"created"` // Unix nanoseconds
	IPs         []string           `json:"ips,omitempty"`
	Cgroup      string             `json:"cgroup,omitempty"`
	Hostname    string             `json:"hostname,omitempty"`
	LogDir      string             `json:"logs,omitempty"` // as CRI wrote it
	Handler     string             `json:"handler,omitempty"`
	Labels      map[string]string  `json:"labels,omitempty"`
	Annotations map[string]string  `json:"notes,omitempty"`
	Network     plan.NamespaceMode `json:"net"`
	PID         plan.NamespaceMode `json:"pid"`
	IPC         plan.NamespaceMode `json:"ipc"`
	UserNS      bool               `json:"userns,omitempty"`
	UIDs        []plan.IDMap       `json:"uids,omitempty"`
	GIDs        []plan.IDMap       `json:"gids,omitempty"`
	Privileged  bool               `json:"privileged,omitempty"`
	Overhead    *plan.Resources    `json:"overhead,omitempty"` // as the kubelet said last: the pod's cgroup is its own
	Resources   *plan.Resources    `json:"res,omitempty"`
	Request     string             `json:"request,omitempty"` // digest of the request that made it
}

// Key is the name that a pod occupies.
func (p *Pod) Key() string { return PodKey(p.UID, p.Namespace, p.Name, p.Attempt) }

// PodKey is the name that a pod with this metadata occupies.
func PodKey(uid, namespace, name string, attempt uint32) string {
	return "pod/" + uid + "/" + namespace + "/" + name + "/" + strconv.FormatUint(uint64(attempt), 10)
}

// Clone returns a copy to change; its maps and lists are still shared and must
// be replaced, not written to.
func (p *Pod) Clone() *Pod { c := *p; return &c }

// Mount is a mount as CRI asked for it.
type Mount struct {
	To          string   `json:"to"`
	Host        string   `json:"host,omitempty"`
	ReadOnly    bool     `json:"ro,omitempty"`
	Recursive   bool     `json:"rro,omitempty"`
	Relabel     bool     `json:"relabel,omitempty"`
	Propagation int32    `json:"prop,omitempty"`
	Image       string   `json:"image,omitempty"`
	UserImage   string   `json:"user_image,omitempty"`
	ImageRef    string   `json:"image_ref,omitempty"` // digest of the image's manifest
	IDMapped    uint8    `json:"idmap,omitempty"`     // MapsUIDs, MapsGIDs: the request repeated the pod's mappings
	SubPath     string   `json:"sub,omitempty"`
	Options     []string `json:"opts,omitempty"`
}

// Bits of Mount.IDMapped.
const (
	MapsUIDs uint8 = 1 << iota
	MapsGIDs
)

// Container is one container.
type Container struct {
	ID          string            `json:"id"`
	Pod         string            `json:"pod"`
	Name        string            `json:"name"`
	Attempt     uint32            `json:"attempt,omitempty"`
	State       State             `json:"state"`
	Created     int64             `json:"created"`
	Started     int64             `json:"started,omitempty"`
	Finished    int64             `json:"finished,omitempty"`
	ExitCode    int32             `json:"exit,omitempty"`
	Reason      string            `json:"reason,omitempty"`
	Message     string            `json:"message,omitempty"`
	Image       string            `json:"image,omitempty"` // what the request named
	UserImage   string            `json:"user_image,omitempty"`
	ImageID     string            `json:"image_id,omitempty"`
	ImageRef    string            `json:"image_ref,omitempty"`
	Manifest    string            `json:"manifest,omitempty"`
	Cgroup      string            `json:"cgroup,omitempty"`
	LogPath     string            `json:"log,omitempty"` // absolute
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"notes,omitempty"`
	Mounts      []Mount           `json:"mounts,omitempty"`
	Resources   *plan.Resources   `json:"res,omitempty"`
	User        plan.User         `json:"user"`
	StopSignal  uint8             `json:"stop,omitempty"`
	TTY         bool              `json:"tty,omitempty"`
	Stdin       bool              `json:"stdin,omitempty"`
	StdinOnce   bool              `json:"once,omitempty"`
	Request     string            `json:"request,omitempty"`
}

// Key is the name that a container occupies.
func (c *Container) Key() string { return ContainerKey(c.Pod, c.Name, c.Attempt) }

// ContainerKey is the name that a container of the pod occupies.
func ContainerKey(pod, name string, attempt uint32) string {
	return "ctr/" + pod + "/" + name + "/" + strconv.FormatUint(uint64(attempt), 10)
}

// Clone returns a copy to change, like Pod.Clone.
func (c *Container) Clone() *Container { n := *c; return &n }

// Matches reports whether labels has every pair of want.
func Matches(labels, want map[string]string) bool {
	for k, v := range want {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

func sorted[T any](m map[string]T) []T {
	out := make([]T, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, m[k])
	}
	return out
}
