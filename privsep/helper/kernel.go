package helper

import (
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/record"
	"github.com/postern-cri/postern/privsep/wire"
)

// Proc is a process: a pid with its start time, so that a reused pid is never
// taken for it.
type Proc struct {
	PID   int
	Start uint64 // field 22 of /proc/<pid>/stat, in clock ticks
}

// PodIn is what a pod is made from.
type PodIn struct {
	ID     string
	Plan   *plan.PodPlan
	Claims *plan.Claims
	Level  string // SELinux level with categories of its own
}

// PodOut is what was made.
type PodOut struct {
	IPs    []string
	Cgroup string
	Pause  Proc // of a shared PID namespace
}

// CtrIn is what a container is made from. The plan was checked and tightened.
type CtrIn struct {
	ID      string
	PodID   string
	Pod     *plan.PodPlan
	Level   string // the pod's
	PodOut  *PodOut
	Plan    *plan.Plan
	Records map[string]*record.Record // by manifest digest: the image and its image volumes
	Target  Proc                      // whose PID namespace to join, with NamespaceTarget
}

// CtrOut is what was made.
type CtrOut struct {
	Proc   Proc
	Cgroup string
	Layers []string // diffIDs that are mounted for it
	Notes  []string
}

// Kernel is every effect on the machine. The real one is machine; the model test
// has a fake.
type Kernel interface {
	Features() (cgroupVersion uint8, bits uint64)
	// Record reads an image's verification record and its bytes.
	Record(manifest string) (*record.Record, []byte, error)
	// Epoch is the present state of the trust configuration.
	Epoch() (string, error)

	PodCreate(PodIn) (PodOut, error)
	// PodDelete removes all but the network; it is safe to repeat.
	PodDelete(PodIn, PodOut) error
	// NetworkDelete tears the pod's network down. It may fail and be retried.
	NetworkDelete(PodIn) error
	PodSocket(id string, kind wire.SocketKind) (fd int, err error)

	CtrCreate(CtrIn) (CtrOut, error)
	CtrStart(id string, p Proc) error
	// CtrDelete removes what CtrCreate made, or half made; safe to repeat.
	CtrDelete(id string, out CtrOut) error
	CtrUpdate(id string, r *plan.Resources) error
	CtrUsage(id string) (bytes, inodes uint64, err error)
	LogReopen(id string, pod *plan.PodPlan, p *plan.Plan) error
	Exec(ctrID, execID string, p *plan.ExecPlan) (Proc, []int, error)

	// Signal sends a signal to a process; ctr is not empty where it is the first one of that container.
	Signal(ctr string, p Proc, signal uint8) error
	KillAll(cgroup string) error
	Alive(p Proc) bool
	// Forget lets init drop an exec's exit record.
	Forget(id string)
	// Leftovers removes what no known pod or container owns.
	Leftovers(pods, ctrs map[string]bool) error
}
