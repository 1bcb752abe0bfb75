package wire

// Verb is the first field of every message. Requests are even, answers odd.
type Verb uint16

// The verbs of the boundary. There are thirteen, and docs/BUDGETS.md holds the
// number: a new one is a reviewed line there.
const (
	Hello     Verb = 2 * (iota + 1) // versions and features
	PodCreate                       // memfd: PodPlan, Claims
	PodDelete                       // namespaces, network and cgroup of a pod with no live container
	PodSocket                       // an fd made in the pod's network namespace
	CtrCreate                       // memfd: Plan, Claims
	CtrStart
	CtrSignal // container or exec handle
	CtrExec   // memfd: ExecPlan, Claims
	CtrUpdate // inline Resources
	CtrDelete
	CtrUsage
	LogReopen
	List
)

// Version is the version of the protocol: it is checked in every header.
const Version uint16 = 1

// Sizes. One request is one datagram of at most MaxRequest bytes; a memfd holds
// at most MaxMemfd; an answer is one datagram of at most MaxAnswer.
const (
	MaxRequest = 4 << 10
	MaxAnswer  = 64 << 10
	MaxMemfd   = 1 << 20
)

// Code is the outcome of a request.
type Code uint16

// Codes.
const (
	OK          Code = iota
	Denied           // ceiling or policy said no: Denial says which rule
	Invalid          // the request contradicts itself or the state; the connection lives
	NotFound         // no such handle
	Exists           // the handle is in a state that has no place for this: it is started already, or has ended
	Exhausted        // a limit of the helper is reached
	Unavailable      // policyd, auditd or init did not answer: fail closed, try again
	Failed           // the kernel or a program said no; Message says which
)

// Denial explains a Denied.
type Denial struct {
	By         string // "ceiling", "policy" or "image"
	Rule       string // rule id
	Message    string
	Field      string // the plan's field
	Remedy     string
	DecisionID string
	Revision   string // policy revision, empty for the ceiling
	More       uint16 // further violations not shown
}

// Answer is the part that every answer has.
type Answer struct {
	Code    Code
	Message string // for Failed, Invalid, …: at most 1 KiB
	Denial  Denial // for Denied
}

// HelloRequest opens a connection; no other verb is permitted before it.
type HelloRequest struct{ Version uint16 }

// HelloAnswer tells what the privileged side can do.
type HelloAnswer struct {
	Answer
	Version       uint16
	Profile       string // name of the ceiling in force
	CgroupVersion uint8  // 1 or 2
	Features      uint64 // Feature bits
	Generation    uint64 // changes when the helper restarts
}

// Feature bits of HelloAnswer.
const (
	FeatureSeccomp uint64 = 1 << iota
	FeatureAppArmor
	FeatureSELinux
	FeatureUserNS
	FeatureRecursiveReadOnly
	FeatureNetwork // a CNI configuration is there
)

// PodCreateRequest goes with a memfd (PodPlan, Claims).
type PodCreateRequest struct{}

// PodCreateAnswer names the pod.
type PodCreateAnswer struct {
	Answer
	Pod    string   // handle: 64 hex digits
	IPs    []string // empty for host network
	Cgroup string   // name under the cgroup mounts, for reading only
}

// PodDeleteRequest tears a pod's network and namespaces down. It succeeds when
// the CNI plugin is broken: that part is retried later.
type PodDeleteRequest struct{ Pod string }

// PodDeleteAnswer says whether part of the teardown was put off.
type PodDeleteAnswer struct {
	Answer
	Deferred bool
}

// SocketKind says what PodSocket makes.
type SocketKind uint8

// Socket kinds.
const (
	SocketTCP4 SocketKind = iota + 1
	SocketTCP6
	SocketNetDev // /proc/net/dev of the pod, read-only: interface statistics
)

// PodSocketRequest asks for an fd made in the pod's network namespace.
type PodSocketRequest struct {
	Pod  string
	Kind SocketKind
}

// PodSocketAnswer carries one fd when OK.
type PodSocketAnswer struct{ Answer }

// CtrCreateRequest goes with a memfd (Plan, Claims).
type CtrCreateRequest struct{ Pod string }

// CtrCreateAnswer names the container.
type CtrCreateAnswer struct {
	Answer
	Container string   // handle: 64 hex digits
	Cgroup    string   // for reading only
	Notes     []string // what was tightened or lowered, for the log
}

// CtrStartRequest lets the created process run.
type CtrStartRequest struct{ Container string }

// CtrStartAnswer is empty.
type CtrStartAnswer struct{ Answer }

// CtrSignalRequest signals a container's init or an exec's process.
type CtrSignalRequest struct {
	Target string // container or exec handle
	Signal uint8
	All    bool // SIGKILL only: every process of the container's cgroup
}

// CtrSignalAnswer is empty. A process that is gone already is OK.
type CtrSignalAnswer struct{ Answer }

// CtrExecRequest goes with a memfd (ExecPlan, Claims).
type CtrExecRequest struct{ Container string }

// CtrExecAnswer carries, when OK, the client's ends of the stdio asked for, in
// the order stdin, stdout, stderr; or one pty master where the plan says TTY.
type CtrExecAnswer struct {
	Answer
	Exec string // handle: 64 hex digits; its exit comes from postern-init
}

// CtrUpdateRequest changes a container's limits. (Resources of package plan are
// encoded inline.)
type CtrUpdateRequest struct {
	Container string
	Resources []byte // plan.EncodeResources
}

// CtrUpdateAnswer is empty.
type CtrUpdateAnswer struct{ Answer }

// CtrDeleteRequest removes a container that does not run.
type CtrDeleteRequest struct{ Container string }

// CtrDeleteAnswer is empty. A handle that is gone already is OK.
type CtrDeleteAnswer struct{ Answer }

// CtrUsageRequest asks for the size of the writable layer.
type CtrUsageRequest struct{ Container string }

// CtrUsageAnswer gives it.
type CtrUsageAnswer struct {
	Answer
	Bytes  uint64
	Inodes uint64
}

// LogReopenRequest makes logd write to a new file of the same name.
type LogReopenRequest struct{ Container string }

// LogReopenAnswer is empty.
type LogReopenAnswer struct{ Answer }

// ListRequest pages through what exists; After is the last handle seen.
type ListRequest struct{ After string }

// ListAnswer is one page, ordered by handle; More says there is another.
type ListAnswer struct {
	Answer
	Entries []Entry
	More    bool
}

// EntryKind is the kind of a handle.
type EntryKind uint8

// Entry kinds.
const (
	EntryPod EntryKind = iota + 1
	EntryContainer
	EntryExec
)

// State is the state of a handle.
type State uint8

// States.
const (
	StateReady   State = iota + 1 // pod
	StateCreated                  // container
	StateRunning                  // container, exec
	StateStopped                  // container, exec, pod with deferred teardown
)

// Entry is one handle.
type Entry struct {
	Kind   EntryKind
	Handle string
	Pod    string // the pod of a container, the container of an exec
	State  State
	Cgroup string
}
