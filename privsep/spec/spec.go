// Package spec is what postern-helper hands to postern-launch and postern-cni: one operation,
// every path and number in it derived by the helper. Both ends are root and are
// built together; nothing in it is a client's word that was not checked.
package spec

import "github.com/postern-cri/postern/privsep/plan"

// Op is what the launch process does before it exits.
type Op string

// Operations.
const (
	Create Op = "create"
	Exec   Op = "exec"
	Update Op = "update"
	Delete Op = "delete"
	// Of a container that an OCI runtime made; the helper does these itself for all others.
	Start  Op = "start"
	Kill   Op = "kill"
	Signal Op = "signal" // fd 5 is the pidfd
)

// Launch is one operation. It arrives as JSON on fd 3; the Result goes to fd 4;
// stdio fds of the container are 0, 1, 2, and a console socket, where TTY is
// set, is fd 5 (the master is sent over it as one SCM_RIGHTS message).
type Launch struct {
	Op       Op
	ID       string // container handle
	StateDir string // libcontainer's state root, private to root
	Seccomp  string // directory of localhost seccomp profiles

	// Create.
	Runtime     *Runtime // nil is the built-in one. What is done later finds it in the container's state
	Plan        *plan.Plan
	Rootfs      string // assembled by the helper: overlay over the image's layers
	Mounts      []Mount
	Hostname    string
	Namespaces  Namespaces
	CgroupPath  string // below the cgroup mounts, e.g. /kubepods/besteffort/podX/<id>
	CgroupOwner bool   // the path's parent was made by us
	Sysctls     []plan.Sysctl
	Devices     []Device
	PIDsLimit   int64
	UIDs, GIDs  []plan.IDMap
	Process     string // SELinux label of the process and of all that are executed in it later, "" where the kernel has no SELinux
	Files       string // SELinux label of the file systems that are made for it, and of sources to relabel

	// Exec.
	Exec   *plan.ExecPlan
	ExecID string

	// Update.
	Resources *plan.Resources

	// Kill and Signal.
	Signal uint8
}

// ScopePrefix begins the name of a container's cgroup that systemd makes: a scope.
const ScopePrefix = "postern"

// RuntimeFile stands in the directory of a container that an OCI runtime made.
const RuntimeFile = "runtime.json"

// Runtime is an OCI runtime that ceiling.toml names.
type Runtime struct {
	Path string
	Args []string // before the command
}

// Namespaces are paths of pinned namespaces. "" with Host false is a new one.
type Namespaces struct {
	Net, IPC, UTS, PID                 string
	HostNet, HostIPC, HostPID, HostUTS bool
	User                               string
	NewUser                            bool
}

// Mount is a source that the helper resolved and staged: Source is a path in the
// helper's private box, never one that another uid can rename.
type Mount struct {
	Source            string
	To                string
	ReadOnly          bool
	RecursiveReadOnly bool
	Propagation       plan.Propagation
	NoExec, NoDev     bool
	NoSuid            bool
	Relabel           bool
}

// Device is a host device node: checked by the helper.
type Device struct {
	Path         string // inside the container
	Char         bool
	Major, Minor uint32
	Permissions  uint8
	Mode         uint32
	UID, GID     uint32
}

// Result is what the launch process reports.
type Result struct {
	PID   int      // of the container's or exec's process in the launch's PID namespace
	Notes []string // what was lowered to what this machine permits
	Error string
	// Field is the field of the request that Error is about, where the request is
	// to blame, and Remedy what would help.
	Field  string
	Remedy string
	// Exited says that the container is gone.
	Exited bool
}

// Network is one operation of postern-cni, as JSON on its fd 3. Paths are the
// helper's; name, namespace and uid are claims.
type Network struct {
	Op        string        `json:"op"` // add, del or status
	Pod       string        `json:"pod"`
	NetNS     string        `json:"netns"`
	ConfDir   string        `json:"conf_dir"`
	BinDirs   []string      `json:"bin_dirs"`
	Name      string        `json:"name"`
	Namespace string        `json:"namespace"`
	UID       string        `json:"uid"`
	Ports     []NetworkPort `json:"ports"`
	CacheDir  string        `json:"cache_dir"`
}

// NetworkPort is one host port of a pod.
type NetworkPort struct {
	Protocol      string `json:"protocol"`
	ContainerPort uint16 `json:"container_port"`
	HostPort      uint16 `json:"host_port"`
	HostIP        string `json:"host_ip"`
}
