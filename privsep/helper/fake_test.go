package helper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/gate"
	"github.com/postern-cri/postern/privsep/label"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/record"
	"github.com/postern-cri/postern/privsep/wire"
)

// The faults of an effect.
const (
	clean      = "fails and does nothing"
	dirty      = "fails and has done it"
	unsaved    = "works, and then no state can be saved"
	crash      = "the helper dies before it"
	crashAfter = "the helper dies after it"
)

// The faults of policy and audit.
const (
	down   = "does not answer"
	no     = "says no"
	oblige = "says yes with an obligation"
)

// world is everything around a helper: the machine, policyd and auditd, with the
// faults that the next request meets. It holds the request to the rules: no
// effect comes without a decision that was committed before it.
type world struct {
	t   testing.TB
	mu  sync.Mutex
	dir string // the helper's state files

	policy, audit string
	faults        map[string]string // by effect

	// What is on the machine.
	pods, nets map[string]bool
	levels     map[string]string // categories by pod
	ctrs       map[string]Proc
	procs      map[Proc]bool // alive
	started    map[string]bool
	pid        int
	last       string // id of the last pod or container that was to be made

	// The request under way.
	decided, committed map[string]bool // methods that were allowed, and whose yes is in the log
	effects            []string
	recovering         bool
}

func newWorld(t testing.TB, dir string) *world {
	return &world{t: t, dir: dir, faults: map[string]string{}, levels: map[string]string{}, pods: map[string]bool{}, nets: map[string]bool{}, ctrs: map[string]Proc{},
		procs: map[Proc]bool{}, started: map[string]bool{}, pid: 100, decided: map[string]bool{}, committed: map[string]bool{}}
}

// begin forgets the last request and sets the faults of the next.
func (w *world) begin(policy, audit string, faults map[string]string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.policy, w.audit, w.faults = policy, audit, faults
	w.decided, w.committed, w.effects = map[string]bool{}, map[string]bool{}, nil
}

// begun notes the id of what is to be made; lastID returns it.
func (w *world) begun(id string) { w.mu.Lock(); defer w.mu.Unlock(); w.last = id }
func (w *world) lastID() string  { w.mu.Lock(); defer w.mu.Unlock(); return w.last }

// procOf is the process of a container, and lastProc the one started last.
func (w *world) procOf(id string) Proc { w.mu.Lock(); defer w.mu.Unlock(); return w.ctrs[id] }
func (w *world) lastProc() Proc {
	w.mu.Lock()
	defer w.mu.Unlock()
	return Proc{PID: w.pid, Start: uint64(w.pid)}
}

// did is what the request under way did.
func (w *world) did() []string { w.mu.Lock(); defer w.mu.Unlock(); return w.effects }

func (w *world) Decide(_ context.Context, q gate.Question) (gate.Decision, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch w.policy {
	case down:
		return gate.Decision{}, errors.New("policyd is down")
	case no:
		return gate.Decision{Rule: "R1", Message: "no", ID: "d1"}, nil
	}
	w.decided[q.Method] = true
	d := gate.Decision{Allow: true, ID: "d1", Revision: "r1"}
	if w.policy == oblige {
		d.Obligations = gate.Obligations{DropCaps: 1, NoNewPrivs: true, ReadOnlyRootfs: true, SeccompDefault: true}
	}
	return d, nil
}

func (w *world) Commit(_ context.Context, stage gate.Stage, payload []byte, _ bool) (uint64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var r struct {
		Method   string
		Decision struct{ Allow bool }
	}
	if err := json.Unmarshal(payload, &r); err != nil || len(payload) > gate.MaxPayload {
		w.t.Errorf("an audit record of %d bytes: %v", len(payload), err)
	}
	if w.audit == down {
		return 0, errors.New("auditd is down")
	}
	if stage == gate.StageDecision && r.Decision.Allow {
		w.committed[r.Method] = true
	}
	return 1, nil
}

// needs says which methods may cause an effect. Cleaning up needs none of its
// own: it follows a create that was decided, or a teardown.
var needs = map[string][]string{
	"PodCreate": {"RunPodSandbox"}, "PodSocket": {"PortForward", "PodSandboxStats"}, "CtrCreate": {"CreateContainer"},
	"CtrStart": {"StartContainer"}, "CtrUpdate": {"UpdateContainerResources"}, "Exec": {"Exec", "ExecSync"},
}

// effect does one effect with its fault.
func (w *world) effect(name string, do func()) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.effects = append(w.effects, name)
	ok := len(needs[name]) == 0
	for _, m := range needs[name] {
		ok = ok || w.decided[m] && (w.committed[m] || m == "PodSandboxStats")
	}
	if !ok {
		w.t.Errorf("%s without a decision in the log (decided %v, committed %v)", name, w.decided, w.committed)
	}
	if w.policy == no && !w.recovering && name != "CtrUsage" { // a size is nobody's decision
		w.t.Errorf("%s though policy said no", name)
	}
	switch w.faults[name] {
	case clean:
		return fmt.Errorf("%s: injected", name)
	case dirty:
		do()
		return fmt.Errorf("%s: injected\nwith \xff text", name)
	case unsaved:
		do()
		w.breakState()
		return nil
	case crash:
		runtime.Goexit()
	case crashAfter:
		do()
		runtime.Goexit()
	}
	do()
	return nil
}

// breakState makes saving impossible until mendState.
func (w *world) breakState() {
	for _, kind := range []string{"pod", "ctr"} {
		if err := os.Rename(filepath.Join(w.dir, kind), filepath.Join(w.dir, kind+".away")); err != nil {
			w.t.Error(err)
		}
	}
}

func (w *world) mendState() {
	for _, kind := range []string{"pod", "ctr"} {
		os.Rename(filepath.Join(w.dir, kind+".away"), filepath.Join(w.dir, kind))
	}
}

func (w *world) proc() Proc {
	w.pid++
	p := Proc{PID: w.pid, Start: uint64(w.pid)}
	w.procs[p] = true
	return p
}

func (w *world) Features() (uint8, uint64) { return 2, wire.FeatureSeccomp }
func (w *world) Epoch() (string, error)    { return "now", nil }

var (
	image = "sha256:" + fmt.Sprintf("%064x", 1)
	stale = "sha256:" + fmt.Sprintf("%064x", 2)
	alien = "sha256:" + fmt.Sprintf("%064x", 3)
)

func (w *world) Record(manifest string) (*record.Record, []byte, error) {
	switch manifest {
	case image:
		return &record.Record{Manifest: manifest, Epoch: "now"}, []byte("record"), nil
	case stale:
		return &record.Record{Manifest: manifest, Epoch: "then"}, []byte("record"), nil
	}
	return nil, nil, os.ErrNotExist
}

func (w *world) PodCreate(in PodIn) (out PodOut, err error) {
	w.begun(in.ID)
	err = w.effect("PodCreate", func() { w.pods[in.ID], w.nets[in.ID] = true, true })
	w.mu.Lock()
	for id := range w.pods {
		if pair := label.Pair(in.Level); id != in.ID && (pair == "" || w.levels[id] == pair) {
			w.t.Errorf("pod %s has the level %q, as %s has", in.ID, in.Level, id)
		}
	}
	w.levels[in.ID] = label.Pair(in.Level)
	w.mu.Unlock()
	if err != nil {
		return PodOut{}, err
	}
	return PodOut{IPs: []string{"10.0.0.1"}, Cgroup: "/pod/" + in.ID}, nil
}

func (w *world) PodDelete(in PodIn, _ PodOut) error {
	return w.effect("PodDelete", func() { delete(w.pods, in.ID) })
}

func (w *world) NetworkDelete(in PodIn) error {
	return w.effect("NetworkDelete", func() { delete(w.nets, in.ID) })
}

func (w *world) PodSocket(string, wire.SocketKind) (fd int, err error) {
	err = w.effect("PodSocket", func() { fd, _ = unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err != nil && fd > 0 {
		unix.Close(fd)
	}
	return fd, err
}

func (w *world) obliged() bool { w.mu.Lock(); defer w.mu.Unlock(); return w.policy == oblige }

func (w *world) CtrCreate(in CtrIn) (CtrOut, error) {
	w.begun(in.ID)
	if p := in.Plan; w.obliged() && (p.CapsBounding&1 != 0 || !p.NoNewPrivs || !p.ReadOnlyRootfs || p.Seccomp.Kind == plan.ProfileUnconfined) {
		w.t.Errorf("a create that does not keep the obligations: %+v", p)
	}
	if in.Records[image] == nil {
		w.t.Error("a create without the image's record")
	}
	w.mu.Lock()
	if w.levels[in.PodID] != label.Pair(in.Level) {
		w.t.Errorf("a container of pod %s with the level %q", in.PodID, in.Level)
	}
	w.mu.Unlock()
	var p Proc
	err := w.effect("CtrCreate", func() { p = w.proc(); w.ctrs[in.ID] = p })
	if err != nil {
		return CtrOut{}, err
	}
	return CtrOut{Proc: p, Cgroup: "/ctr/" + in.ID, Notes: []string{"note"}}, nil
}

func (w *world) CtrStart(id string, p Proc) error {
	if !w.Alive(p) {
		return errors.New("there is no process")
	}
	return w.effect("CtrStart", func() { w.started[id] = true })
}

func (w *world) CtrDelete(id string, _ CtrOut) error {
	return w.effect("CtrDelete", func() {
		delete(w.procs, w.ctrs[id])
		delete(w.ctrs, id)
		delete(w.started, id)
	})
}

func (w *world) there(id string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, ok := w.ctrs[id]
	return ok
}

func (w *world) onCtr(name, id string) error {
	if !w.there(id) {
		return errors.New("there is no such container")
	}
	return w.effect(name, func() {})
}

func (w *world) CtrUpdate(id string, _ *plan.Resources) error { return w.onCtr("CtrUpdate", id) }
func (w *world) LogReopen(id string, _ *plan.PodPlan, _ *plan.Plan) error {
	return w.onCtr("LogReopen", id)
}
func (w *world) CtrUsage(id string) (uint64, uint64, error) { return 1, 2, w.onCtr("CtrUsage", id) }

func (w *world) Exec(string, string, *plan.ExecPlan) (p Proc, fds []int, err error) {
	err = w.effect("Exec", func() {
		p = w.proc()
		fd, _ := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		fds = []int{fd}
	})
	if err != nil {
		w.mu.Lock()
		delete(w.procs, p)
		w.mu.Unlock()
		for _, fd := range fds {
			unix.Close(fd)
		}
		return Proc{}, nil, err
	}
	return p, fds, nil
}

func (w *world) Signal(_ string, p Proc, signal uint8) error {
	return w.effect("Signal", func() {
		if signalKill(signal) {
			delete(w.procs, p)
		}
	})
}

func (w *world) KillAll(cgroup string) error {
	return w.effect("KillAll", func() {
		for id, p := range w.ctrs {
			if "/ctr/"+id == cgroup {
				delete(w.procs, p)
			}
		}
	})
}

func (w *world) Alive(p Proc) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.procs[p]
}

func (w *world) Forget(string) {}

// Leftovers removes pods and containers that nobody knows. It knows nothing of
// networks: those must go by the state files.
func (w *world) Leftovers(pods, ctrs map[string]bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id := range w.pods {
		if !pods[id] {
			delete(w.pods, id)
		}
	}
	for id, p := range w.ctrs {
		if !ctrs[id] {
			delete(w.procs, p)
			delete(w.ctrs, id)
		}
	}
	return nil
}
