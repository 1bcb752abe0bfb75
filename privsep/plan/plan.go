// Package plan holds the closed vocabulary of the boundary: everything the
// privileged side will ever do for a pod, a container or an exec.
//
// What cannot be written in these structs cannot be asked for. There is no host
// path, pid, host uid, cgroup path, annotation or OCI document in them: places
// on the host are (root name, relative path), and the root is an entry of the
// root-owned ceiling file. Names (profiles, devices, networks) are entries of
// root-owned directories or lists.
//
// Rules of this package:
//   - a new field needs a line in the codec, in the ceiling and in the policy
//     input, or the tests that walk the fields by reflection fail;
//   - decoding is strict: an unknown enum value, a NUL, invalid UTF-8, a
//     duplicate list entry or a left-over byte is a violation, not a default.
package plan

// Class selects the row of the ceiling that a plan is held against. The front
// end picks the lowest class that fits; the ceiling says which classes exist.
type Class uint8

// The classes, from narrow to wide.
const (
	Restricted Class = iota + 1
	Baseline
	System
)

// NamespaceMode says whose namespace a container joins.
type NamespaceMode uint8

// Namespace modes; the names are CRI's.
const (
	NamespacePod       NamespaceMode = iota + 1 // the pod's own
	NamespaceContainer                          // one of its own
	NamespaceNode                               // the host's
	NamespaceTarget                             // another container's of the same pod (PID only)
)

// Protocol is a transport protocol of a port mapping.
type Protocol uint8

// Protocols.
const (
	TCP Protocol = iota + 1
	UDP
	SCTP
)

// ProfileKind selects a seccomp or AppArmor profile.
type ProfileKind uint8

// Profile kinds. There is no "unset": the front end writes RuntimeDefault where
// CRI says nothing.
const (
	ProfileRuntimeDefault ProfileKind = iota + 1
	ProfileLocalhost                  // Name is a file of root's, by its path in the profile directory (AppArmor: a profile)
	ProfileUnconfined
)

// Profile names a security profile.
type Profile struct {
	Kind ProfileKind
	Name string // only with ProfileLocalhost: names [A-Za-z0-9][A-Za-z0-9._-]{0,127}, for seccomp several with slashes between
}

// RootKind says which family of roots a Place lies beneath.
type RootKind uint8

// Root kinds.
const (
	RootPodVolumes RootKind = iota + 1 // <kubelet root>/pods/<uid of this pod>; Name empty
	RootHostPath                       // a host-path class of the ceiling; Name is the class
	RootLog                            // a log root of the ceiling; Name is the root
	RootCgroup                         // a cgroup root of the ceiling; Name is the root
	RootScratch                        // an empty directory that lives as long as the container; Name is its number
	RootPodFile                        // hosts, hostname or resolv.conf, written by the helper; Name says which
	RootPodShm                         // the pod's /dev/shm; Name empty
	RootImage                          // an image of the store; Name is its manifest digest
)

// Place is a spot on the host that the privileged side resolves beneath a root
// it knows. Rel is relative, clean and without "..": "" is the root itself.
type Place struct {
	Root RootKind
	Name string
	Rel  string
}

// Propagation is a mount's propagation.
type Propagation uint8

// Propagations; the names are CRI's.
const (
	Private Propagation = iota + 1
	HostToContainer
	Bidirectional
)

// Mount puts a Place into the container.
type Mount struct {
	From              Place
	To                string // absolute and clean, inside the container
	ReadOnly          bool
	RecursiveReadOnly bool
	Propagation       Propagation
	NoExec            bool
	NoDev             bool
	NoSuid            bool
	Relabel           bool // SELinux relabel of the source
	// MakeDir asks for the source directory to be made where it is missing, as
	// CRI runtimes do for host paths. The ceiling's class must say create=true.
	MakeDir bool
}

// Device asks for one node of the root-owned device list.
type Device struct {
	Host        Place  // RootHostPath class "dev" by convention; Rel "fuse" means /dev/fuse
	To          string // absolute path inside the container
	Permissions uint8  // DeviceRead | DeviceWrite | DeviceMknod
}

// Device permissions.
const (
	DeviceRead uint8 = 1 << iota
	DeviceWrite
	DeviceMknod
)

// Sysctl is one namespaced kernel parameter.
type Sysctl struct {
	Name  string // dotted, lower case, e.g. net.ipv4.ip_forward
	Value string // no control characters
}

// PortMapping is a host port of a pod.
type PortMapping struct {
	Protocol      Protocol
	ContainerPort uint16
	HostPort      uint16
	HostIP        string // empty or an IP literal
}

// DNS is the pod's resolver configuration, written to its resolv.conf. All empty
// means: a copy of the host's.
type DNS struct {
	Servers  []string
	Searches []string
	Options  []string
}

// IDMap is one line of a user-namespace mapping.
type IDMap struct {
	Host      uint32
	Container uint32
	Length    uint32
}

// PodPlan is everything the privileged side will ever do for one pod.
type PodPlan struct {
	Class        Class
	UID          string        // the pod's uid: names its kubelet volume directory; [A-Za-z0-9-]{1,128}
	Hostname     string        // RFC 1123, at most 63 bytes; empty for host network
	Network      NamespaceMode // Pod or Node
	PID          NamespaceMode // Pod (shared), Container or Node
	IPC          NamespaceMode // Pod or Node
	UserNS       bool
	UIDs         []IDMap
	GIDs         []IDMap
	Sysctls      []Sysctl
	Ports        []PortMapping
	DNS          DNS
	CgroupParent Place  // RootCgroup
	Logs         Place  // RootLog: the pod's log directory
	Handler      string // runtime handler, "" is the built-in one
	ShmSize      uint64 // bytes of /dev/shm, 0 is 64 MiB
	SELinux      SELinux
	Privileged   bool // some container of the pod may be privileged
}

// SELinux is a process label asked for; empty fields are chosen by the runtime.
type SELinux struct {
	User, Role, Type, Level string
}

// User is who the container's process is. Names were resolved by an
// unprivileged reader of the image; only numbers cross.
type User struct {
	UID    uint32
	GID    uint32
	Groups []uint32
}

// Rlimit is one resource limit.
type Rlimit struct {
	Name string // lower case without prefix, e.g. "nofile"
	Soft uint64
	Hard uint64
}

// HugepageLimit limits one page size.
type HugepageLimit struct {
	PageSize string // e.g. "2MB"
	Bytes    uint64
}

// Unified is one raw cgroup v2 value.
type Unified struct {
	Key   string // e.g. memory.high
	Value string
}

// Resources are cgroup limits; zero means unset unless a field says otherwise.
type Resources struct {
	CPUShares   uint64
	CPUQuota    int64  // microseconds; -1 is no limit
	CPUPeriod   uint64 // microseconds
	CPUSetCPUs  string
	CPUSetMems  string
	Memory      int64 // bytes; -1 is no limit
	MemorySwap  int64 // bytes of memory and swap together; -1 is no limit
	OOMScoreAdj int32
	PIDs        int64 // 0 is the ceiling's default; -1 is no limit
	Hugepages   []HugepageLimit
	Unified     []Unified
}

// Plan is everything the privileged side will ever do for one container.
type Plan struct {
	Class          Class
	Image          string // manifest digest, sha256:<64 hex>; layers come from the verification record
	Args           []string
	Env            []string // NAME=value
	Cwd            string   // absolute and clean
	User           User
	CapsBounding   uint64 // bit per capability: bounding, permitted and effective for root
	CapsAmbient    uint64 // subset of CapsBounding; inheritable is always empty otherwise
	Privileged     bool
	NoNewPrivs     bool
	ReadOnlyRootfs bool
	TTY            bool
	Stdin          bool
	StdinOnce      bool
	PID            NamespaceMode // Pod, Container, Node or Target
	Target         string        // handle of a container of the same pod, only with NamespaceTarget
	Seccomp        Profile
	AppArmor       Profile
	SELinux        SELinux
	MaskedPaths    []string // absolute; empty is unmasked
	ReadOnlyPaths  []string
	Mounts         []Mount
	Devices        []Device
	CDI            []string // fully qualified CDI device names
	Rlimits        []Rlimit
	Resources      Resources
	Log            string // path of the log file, relative to PodPlan.Logs; empty is no log
	StopSignal     uint8  // number; 0 is SIGTERM
}

// ExecPlan is one process started inside a running container. It inherits the
// container's user, capabilities, profile and namespaces; it can name none.
type ExecPlan struct {
	Args   []string
	TTY    bool
	Stdin  bool
	Stdout bool
	Stderr bool
	Sync   bool // ExecSync (a probe or hook), not an interactive session
}

// Claims is what the front end says about the request. Nobody has proved any of
// it: policy may deny on a claim and never permit on one.
type Claims struct {
	RequestID   string // ULID of the CRI request
	Method      string // CRI method, e.g. CreateContainer
	PodName     string
	Namespace   string
	PodUID      string
	PodAttempt  uint32
	Container   string
	Attempt     uint32
	ImageRef    string // the reference that the user wrote
	Labels      []KV
	Annotations []KV
	CtrLabels   []KV
	CtrNotes    []KV // container annotations
	CallerUID   uint32
	CallerPID   uint32
}

// KV is a label or annotation.
type KV struct {
	Key   string
	Value string
}
