// Package input builds the document that policy judges: postern.input/v1.
//
// The document is closed (its JSON schema forbids every property that is not
// named) and has two halves that must not be mixed up. What stands under
// derived was decoded by the privileged helper from the very bytes that will
// run, or read from the image's verification record. What stands under claimed
// is what the front end says, which may be attacker code: a rule may deny on
// it and can never permit on it.
//
// Secrets are taken out before evaluation, so that the document in the audit
// log is the document that was judged and a replay gives the same answer.
package input

// Schema is the version of the document.
const Schema = "postern.input/v1"

// MaxSize is the most bytes of the canonical JSON of a document. A larger one
// is denied: it could not be recorded (a record holds 64 KiB with its envelope).
const MaxSize = 62 << 10

// Document is the input of one decision.
type Document struct {
	Schema  string  `json:"schema"`
	Request Request `json:"request"`
	Asker   Asker   `json:"asker"`
	Derived Derived `json:"derived"`
	Claimed Claimed `json:"claimed"`
}

// Request is what is asked.
type Request struct {
	ID     string   `json:"id"` // from the asker; a name, not a fact
	Method string   `json:"method"`
	Class  string   `json:"class"` // from our own table of methods, not from the asker
	Phase  string   `json:"phase"` // PullImage: "resolve" before anything is fetched, "verified" with the record; else ""
	TimeNS int64    `json:"time_ns"`
	Image  *Subject `json:"image,omitempty"` // PullImage, RemoveImage: the image that the request is about

}

// Subject is the image that a PullImage or RemoveImage names, parsed by policyd
// from the reference: what will be fetched is what is named here.
type Subject struct {
	Reference  string `json:"reference"`
	Registry   string `json:"registry"`
	Repository string `json:"repository"` // with the registry
	Tag        string `json:"tag"`
	Digest     string `json:"digest"`
}

// Asker is the process that asks, known by its uid.
type Asker struct {
	Role string `json:"role"` // helper, front, fetch, stream
}

// Derived are facts. A part that the question did not carry is absent.
type Derived struct {
	Pod       *Pod       `json:"pod,omitempty"`
	Container *Container `json:"container,omitempty"`
	Exec      *Exec      `json:"exec,omitempty"`
	Update    *Resources `json:"update,omitempty"`
	Image     *Image     `json:"image,omitempty"`
}

// Pod is plan.PodPlan.
type Pod struct {
	Class        string        `json:"class"`
	UID          string        `json:"uid"`
	Hostname     string        `json:"hostname"`
	Namespaces   Namespaces    `json:"namespaces"`
	UIDs         []IDMap       `json:"uids"`
	GIDs         []IDMap       `json:"gids"`
	Sysctls      []NameValue   `json:"sysctls"`
	Ports        []PortMapping `json:"ports"`
	DNS          DNS           `json:"dns"`
	CgroupParent Place         `json:"cgroup_parent"`
	Logs         Place         `json:"logs"`
	Handler      string        `json:"handler"`
	ShmBytes     uint64        `json:"shm_bytes"`
	SELinux      SELinux       `json:"selinux"`
	Privileged   bool          `json:"privileged"`
}

// Namespaces says whose namespaces a pod has: pod, container, node or target.
type Namespaces struct {
	Network string `json:"network"`
	PID     string `json:"pid"`
	IPC     string `json:"ipc"`
	User    string `json:"user"` // "pod" with a user namespace, else "node"
}

// IDMap is one line of a user-namespace mapping.
type IDMap struct {
	Host      uint32 `json:"host"`
	Container uint32 `json:"container"`
	Length    uint32 `json:"length"`
}

// NameValue is a sysctl or a raw cgroup value.
type NameValue struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// PortMapping is a host port.
type PortMapping struct {
	Protocol      string `json:"protocol"`
	ContainerPort uint16 `json:"container_port"`
	HostPort      uint16 `json:"host_port"`
	HostIP        string `json:"host_ip"`
}

// DNS is the resolver configuration.
type DNS struct {
	Servers  []string `json:"servers"`
	Searches []string `json:"searches"`
	Options  []string `json:"options"`
}

// Place is a spot on the host: a named root and a path beneath it.
type Place struct {
	Root string `json:"root"`
	Name string `json:"name"`
	Rel  string `json:"rel"`
}

// SELinux is a process label asked for.
type SELinux struct {
	User  string `json:"user"`
	Role  string `json:"role"`
	Type  string `json:"type"`
	Level string `json:"level"`
}

// Container is plan.Plan.
type Container struct {
	Class         string       `json:"class"`
	Image         string       `json:"image"` // manifest digest
	Args          []string     `json:"args"`
	Env           []EnvVar     `json:"env"`
	Cwd           string       `json:"cwd"`
	User          User         `json:"user"`
	Capabilities  Capabilities `json:"capabilities"`
	Privileged    bool         `json:"privileged"`
	NoNewPrivs    bool         `json:"no_new_privs"`
	ReadOnlyRoot  bool         `json:"read_only_rootfs"`
	TTY           bool         `json:"tty"`
	Stdin         bool         `json:"stdin"`
	StdinOnce     bool         `json:"stdin_once"`
	PID           string       `json:"pid"`
	Target        string       `json:"target"`
	Seccomp       Profile      `json:"seccomp"`
	AppArmor      Profile      `json:"apparmor"`
	SELinux       SELinux      `json:"selinux"`
	MaskedPaths   []string     `json:"masked_paths"`
	ReadOnlyPaths []string     `json:"read_only_paths"`
	Mounts        []Mount      `json:"mounts"`
	Devices       []Device     `json:"devices"`
	CDI           []string     `json:"cdi"`
	Rlimits       []Rlimit     `json:"rlimits"`
	Resources     Resources    `json:"resources"`
	Log           string       `json:"log"`
	StopSignal    uint8        `json:"stop_signal"`
}

// EnvVar is an environment variable without its value. Digest is the redactor's
// keyed digest of the value, so that equal values can be told equal.
type EnvVar struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
}

// User is who the process is.
type User struct {
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	Groups []uint32 `json:"groups"`
}

// Capabilities are names without CAP_, in kernel order.
type Capabilities struct {
	Bounding []string `json:"bounding"`
	Ambient  []string `json:"ambient"`
}

// Profile is a seccomp or AppArmor profile: runtime_default, localhost, unconfined.
type Profile struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
}

// Mount is one mount.
type Mount struct {
	Root              string `json:"root"`
	Name              string `json:"name"`
	Rel               string `json:"rel"`
	To                string `json:"to"`
	ReadOnly          bool   `json:"read_only"`
	RecursiveReadOnly bool   `json:"recursive_read_only"`
	Propagation       string `json:"propagation"`
	NoExec            bool   `json:"no_exec"`
	NoDev             bool   `json:"no_dev"`
	NoSuid            bool   `json:"no_suid"`
	Relabel           bool   `json:"relabel"`
	MakeDir           bool   `json:"make_dir"`
}

// Device is one device node.
type Device struct {
	Root        string `json:"root"`
	Name        string `json:"name"`
	Rel         string `json:"rel"`
	To          string `json:"to"`
	Permissions string `json:"permissions"` // of "rwm"
}

// Rlimit is one resource limit.
type Rlimit struct {
	Name string `json:"name"`
	Soft uint64 `json:"soft"`
	Hard uint64 `json:"hard"`
}

// Resources are cgroup limits.
type Resources struct {
	CPUShares   uint64          `json:"cpu_shares"`
	CPUQuota    int64           `json:"cpu_quota"`
	CPUPeriod   uint64          `json:"cpu_period"`
	CPUSetCPUs  string          `json:"cpuset_cpus"`
	CPUSetMems  string          `json:"cpuset_mems"`
	Memory      int64           `json:"memory"`
	MemorySwap  int64           `json:"memory_swap"`
	OOMScoreAdj int32           `json:"oom_score_adj"`
	PIDs        int64           `json:"pids"`
	Hugepages   []HugepageLimit `json:"hugepages"`
	Unified     []NameValue     `json:"unified"`
}

// HugepageLimit limits one page size.
type HugepageLimit struct {
	PageSize string `json:"page_size"`
	Bytes    uint64 `json:"bytes"`
}

// Exec is plan.ExecPlan.
type Exec struct {
	Args   []string `json:"args"`
	TTY    bool     `json:"tty"`
	Stdin  bool     `json:"stdin"`
	Stdout bool     `json:"stdout"`
	Stderr bool     `json:"stderr"`
	Sync   bool     `json:"sync"`
}

// Image is the verification record.
type Image struct {
	Manifest    string      `json:"manifest"`
	Index       string      `json:"index"`
	Config      string      `json:"config"`
	Registry    string      `json:"registry"`
	Repository  string      `json:"repository"` // with the registry
	Layers      []Layer     `json:"layers"`
	Status      string      `json:"status"` // verified or accepted-unsigned
	Authorities []Authority `json:"authorities"`
	Epoch       string      `json:"epoch"`
	VerifiedAt  string      `json:"verified_at"`
	Evidence    []string    `json:"evidence"`
}

// Layer is one layer.
type Layer struct {
	Digest string `json:"digest"`
	DiffID string `json:"diff_id"`
	Size   int64  `json:"size"`
}

// Authority vouched for the image.
type Authority struct {
	Name     string `json:"name"`
	Type     string `json:"type"`
	Identity string `json:"identity"`
}

// Claimed is what the front end says. Every field is always there.
type Claimed struct {
	RequestID string           `json:"request_id"`
	Method    string           `json:"method"`
	Caller    ClaimedCaller    `json:"caller"`
	Pod       ClaimedPod       `json:"pod"`
	Container ClaimedContainer `json:"container"`
	Image     ClaimedImage     `json:"image"`
	Exec      Exec             `json:"exec"`
	Ports     []int32          `json:"ports"`
	Update    ClaimedUpdate    `json:"update"`
}

// ClaimedUpdate is the new size of a pod as a whole (UpdatePodSandboxResources).
// The kubelet has set it in the pod's cgroup already; it is remembered and shown.
type ClaimedUpdate struct {
	Overhead  *Resources `json:"overhead,omitempty"`
	Resources *Resources `json:"resources,omitempty"`
}

// ClaimedCaller is the peer of the CRI socket.
type ClaimedCaller struct {
	UID uint32 `json:"uid"`
	PID uint32 `json:"pid"`
}

// ClaimedPod is the pod as named by the caller.
type ClaimedPod struct {
	ID          string            `json:"id"`
	Name        string            `json:"name"`
	Namespace   string            `json:"namespace"`
	UID         string            `json:"uid"`
	Attempt     uint32            `json:"attempt"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

// ClaimedContainer is the container as named by the caller.
type ClaimedContainer struct {
	ID          string            `json:"id"`
	Name        string            `json:"name"`
	Attempt     uint32            `json:"attempt"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	Privileged  bool              `json:"privileged"`
}

// ClaimedImage is the image as named by the caller.
type ClaimedImage struct {
	Requested   string   `json:"requested"`
	Registry    string   `json:"registry"`
	Repository  string   `json:"repository"`
	Tag         string   `json:"tag"`
	Digest      string   `json:"digest"`
	Platform    string   `json:"platform"`
	Status      string   `json:"status"`
	Authorities []string `json:"authorities"`
	Epoch       string   `json:"epoch"`
}
