package helper

import (
	"context"
	"errors"
	"io"
	"log"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/postern-cri/postern/privsep/ceiling"
	"github.com/postern-cri/postern/privsep/client"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/seqpacket"
	"github.com/postern-cri/postern/privsep/wire"
)

func TestMain(m *testing.M) {
	log.SetOutput(io.Discard)
	os.Exit(m.Run())
}

const testCeiling = `
profile = "test"
max_pods = 4
max_containers = 6
[[log_root]]
name = "pods"
path = "/var/log/pods"
[[cgroup_root]]
name = "postern"
path = "/postern"
[class.restricted]
capabilities = ["CHOWN", "KILL"]
allow_privilege_escalation = true
unconfined = true
unmasked_proc = true
run_as_root = true
`

// bench is a helper in its world, with a client at the real socket.
type bench struct {
	t    testing.TB
	w    *world
	c    *ceiling.Ceiling
	path string
	h    *Helper
	cl   *client.Client
	end  func()
}

func newBench(t testing.TB) *bench {
	c, err := ceiling.Parse("test.toml", []byte(testCeiling))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	b := &bench{t: t, w: newWorld(t, filepath.Join(dir, "state")), c: c, path: filepath.Join(dir, "s"), end: func() {}}
	b.restart()
	t.Cleanup(func() { b.end() })
	if b.cl, err = client.Dial(b.path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.cl.Close)
	return b
}

// restart is a fresh helper on what the last one left, however it went.
func (b *bench) restart() {
	b.t.Helper()
	b.end()
	b.w.mendState()
	b.w.begin("", "", nil)
	b.w.mu.Lock()
	b.w.recovering = true
	b.w.mu.Unlock()
	h, err := New(Config{Ceiling: b.c, ClientID: uint32(os.Getuid()), Policy: b.w, Audit: b.w, Kernel: b.w, StateDir: b.w.dir})
	if err != nil {
		b.t.Fatal(err)
	}
	b.w.mu.Lock()
	b.w.recovering = false
	b.w.mu.Unlock()
	b.h = h
	os.Remove(b.path)
	fd, err := seqpacket.Listen(b.path)
	if err != nil {
		b.t.Fatal(err)
	}
	l, err := seqpacket.NewListener(fd)
	if err != nil {
		b.t.Fatal(err)
	}
	conns := make(chan *seqpacket.Conn, 1000)
	go func() { // Serve without its retries, which would come in between
		for {
			c, err := l.Accept()
			if err != nil {
				close(conns)
				return
			}
			conns <- c
			h.let(c)
		}
	}()
	b.end = func() {
		l.Close()
		for c := range conns {
			c.Close()
		}
	}
}

// The pure model: what handles there are, and what is known of them.
type mpod struct {
	uid            string
	stopped, saved bool // saved: a restart would know that it is stopped
	ready          bool
}

type mctr struct {
	pod                   string
	proc                  Proc
	started, savedStarted bool
	ready                 bool
}

type mexec struct {
	ctr  string
	proc Proc
}

type model struct {
	*bench
	r     *rand.Rand
	pods  map[string]*mpod
	ctrs  map[string]*mctr
	execs map[string]*mexec
	junk  bool // state files may be left over until the next restart

	policy, audit string
	faults        map[string]string
}

const eof = wire.Code(99) // the connection ended without an answer

func codeOf(err error) wire.Code {
	var e *client.Error
	switch {
	case err == nil:
		return wire.OK
	case errors.As(err, &e):
		return e.Code
	case errors.Is(err, seqpacket.ErrEOF):
		return eof
	}
	return 98
}

func pick[V any](r *rand.Rand, m map[string]V) string {
	keys := slices.Sorted(maps.Keys(m))
	if len(keys) == 0 || r.IntN(12) == 0 {
		return newHandle() // nobody's
	}
	return keys[r.IntN(len(keys))]
}

func one[T any](r *rand.Rand, v ...T) T { return v[r.IntN(len(v))] }

// judged is what the ceiling (no), policy and audit make of a request.
func (m *model) judged(no_ bool, teardown, read, create bool) wire.Code {
	switch {
	case no_:
		return wire.Denied
	case m.policy == down && !teardown:
		return wire.Unavailable
	case m.policy == no:
		return wire.Denied
	case m.policy == oblige && !teardown && !create:
		return wire.Denied
	case m.audit == down && !teardown && !read:
		return wire.Unavailable
	}
	return wire.OK
}

// did is what an effect's fault makes of a request.
func (m *model) did(effect string) wire.Code {
	switch m.faults[effect] {
	case clean, dirty:
		return wire.Failed
	case crash, crashAfter:
		return eof
	}
	return wire.OK
}

// step does one random request under random faults, and holds the answer and the
// machine against the model.
func (m *model) step() {
	m.t.Helper()
	r := m.r
	m.policy, m.audit, m.faults = "", "", map[string]string{}
	effects := []string{"PodCreate", "PodDelete", "NetworkDelete", "CtrCreate", "CtrDelete", "CtrStart", "CtrUpdate", "Exec", "Signal", "KillAll", "PodSocket", "LogReopen"}
	for range r.IntN(3) { // none, one or a pair
		switch r.IntN(8) {
		case 0:
			m.policy = one(r, down, no, oblige)
		case 1:
			m.audit = down
		default:
			m.faults[one(r, effects...)] = one(r, clean, dirty, unsaved, crash, crashAfter)
		}
	}
	for e, f := range m.faults { // the others save nothing after them
		if f == unsaved && e != "PodCreate" && e != "CtrCreate" && e != "CtrStart" {
			m.faults[e] = clean
		}
	}
	m.w.begin(m.policy, m.audit, m.faults)
	verbs := []func() (string, wire.Code, wire.Code){m.podCreate, m.podCreate, m.podDelete, m.podSocket, m.ctrCreate, m.ctrCreate, m.ctrCreate, m.ctrStart, m.ctrStart,
		m.ctrSignal, m.ctrExec, m.ctrUpdate, m.ctrDelete, m.ctrUsage, m.logReopen, m.die}
	name, got, want := verbs[r.IntN(len(verbs))]()
	m.w.mendState()
	if got != want {
		m.t.Fatalf("%s: code %d, the model says %d; policy %q, audit %q, faults %v, effects %v", name, got, want, m.policy, m.audit, m.faults, m.w.did())
	}
	if (got == wire.Denied || got == wire.Unavailable || got == wire.NotFound) && len(m.w.did()) > 0 {
		m.t.Fatalf("%s: refused with code %d, and did %v", name, got, m.w.did())
	}
	if got == eof || r.IntN(25) == 0 {
		m.reboot()
	}
	m.agree(name)
}

// reboot restarts the helper and tells the model what that means: what was half
// made is gone, what was not saved is forgotten, and execs are not listed.
func (m *model) reboot() {
	m.restart()
	m.junk = false
	for id, p := range m.pods {
		if !p.ready && !p.saved {
			delete(m.pods, id)
		} else if p.stopped && !p.saved {
			p.stopped = false
		}
	}
	for id, c := range m.ctrs {
		c.started = c.savedStarted
		if !c.ready || m.pods[c.pod] == nil {
			delete(m.ctrs, id)
		}
	}
	clear(m.execs)
}

// agree compares the list, the state files and the machine with the model.
func (m *model) agree(after string) {
	m.t.Helper()
	m.w.begin("", "", nil)
	all, err := m.cl.List(context.Background())
	if err != nil {
		m.t.Fatalf("after %s: %v", after, err)
	}
	n := 0
	for _, e := range all {
		want := wire.State(0)
		switch p, c, x := m.pods[e.Handle], m.ctrs[e.Handle], m.execs[e.Handle]; {
		case p != nil && e.Kind == wire.EntryPod:
			if want = wire.StateReady; p.stopped || !p.ready {
				want = wire.StateStopped
			}
		case c != nil && e.Kind == wire.EntryContainer && e.Pod == c.pod:
			if want = wire.StateStopped; m.w.Alive(c.proc) {
				if want = wire.StateCreated; c.started {
					want = wire.StateRunning
				}
			}
		case x != nil && e.Kind == wire.EntryExec && e.Pod == x.ctr:
			if want = wire.StateStopped; m.w.Alive(x.proc) {
				want = wire.StateRunning
			}
		}
		if e.State != want {
			m.t.Fatalf("after %s: %+v, want state %d", after, e, want)
		}
		n++
	}
	if n != len(m.pods)+len(m.ctrs)+len(m.execs) {
		m.t.Fatalf("after %s: %d handles, the model has %d pods, %d containers, %d execs", after, n, len(m.pods), len(m.ctrs), len(m.execs))
	}
	if !slices.IsSorted(func() (ids []string) {
		for _, e := range all {
			ids = append(ids, e.Handle)
		}
		return ids
	}()) {
		m.t.Fatal("the list is not in order")
	}
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	for id := range m.w.ctrs {
		if m.ctrs[id] == nil {
			m.t.Fatalf("after %s: container %s is on the machine and nobody knows it", after, id)
		}
	}
	for _, on := range []map[string]bool{m.w.pods, m.w.nets} {
		for id := range on {
			if m.pods[id] == nil {
				m.t.Fatalf("after %s: pod %s is on the machine and nobody knows it", after, id)
			}
		}
	}
	if m.junk {
		return
	}
	files, _ := filepath.Glob(filepath.Join(m.w.dir, "*", "*"))
	if len(files) != len(m.pods)+len(m.ctrs) {
		m.t.Fatalf("after %s: %d state files for %d pods and %d containers", after, len(files), len(m.pods), len(m.ctrs))
	}
	for _, f := range files {
		id := strings.TrimSuffix(filepath.Base(f), ".json")
		if m.pods[id] == nil && m.ctrs[id] == nil {
			m.t.Fatalf("after %s: a left-over state file %s", after, f)
		}
	}
}

func smallPod(uid string) plan.PodPlan {
	return plan.PodPlan{Class: plan.Restricted, UID: uid, Network: plan.NamespacePod, PID: plan.NamespacePod, IPC: plan.NamespacePod}
}

func smallCtr() plan.Plan {
	return plan.Plan{Class: plan.Restricted, Image: image, Args: []string{"sh"}, Cwd: "/", PID: plan.NamespaceContainer,
		CapsBounding: 1 | 1<<5, Seccomp: plan.Profile{Kind: plan.ProfileUnconfined}, AppArmor: plan.Profile{Kind: plan.ProfileRuntimeDefault}}
}

func runModel(t testing.TB, r *rand.Rand, steps int) {
	m := &model{bench: newBench(t), r: r, pods: map[string]*mpod{}, ctrs: map[string]*mctr{}, execs: map[string]*mexec{}}
	for range steps {
		m.step()
	}
	m.reboot()
	m.agree("the last restart")
}

// Random requests under faults that come in pairs: the helper agrees with the
// model, and the world finds no effect without a committed decision.
func TestModel(t *testing.T) {
	seeds := 40
	if testing.Short() {
		seeds = 5
	}
	for seed := range seeds {
		t.Logf("seed %d", seed)
		runModel(t, rand.New(rand.NewPCG(uint64(seed), 7)), 250)
	}
}

// FuzzModel looks for other sequences.
func FuzzModel(f *testing.F) {
	f.Add(uint64(1), uint64(2))
	f.Fuzz(func(t *testing.T, a, b uint64) { runModel(t, rand.New(rand.NewPCG(a, b)), 60) })
}
