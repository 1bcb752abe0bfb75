package cri

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-cri/postern/privsep/gate"
	"github.com/postern-cri/postern/privsep/keeper"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/seqpacket"
	"github.com/postern-cri/postern/privsep/wire"
	"github.com/postern-cri/postern/runtime/container"
	"github.com/postern-cri/postern/runtime/stats"
	"github.com/postern-cri/postern/runtime/store"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// fakeHelper speaks the real wire codec on a real socket.
type fakeHelper struct {
	mu       sync.Mutex
	entries  map[string]wire.Entry
	requests map[wire.Verb]int
	refuse   func(wire.Verb) *wire.Answer
	exit     func(keeper.Exit)
	stubborn bool // SIGTERM is ignored
	exec     func(id string, p plan.ExecPlan, stdio []int)
	slow     time.Duration // for creations
}

func handle() string {
	var b [32]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func (f *fakeHelper) serve(t *testing.T, path string) {
	fd, err := seqpacket.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	l, err := seqpacket.NewListener(fd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go f.conn(c)
		}
	}()
}

func (f *fakeHelper) conn(c *seqpacket.Conn) {
	defer c.Close()
	buf := make([]byte, wire.MaxRequest)
	for {
		n, fds, err := c.Recv(buf)
		if err != nil {
			return
		}
		h, body, err := wire.DecodeHeader(buf[:n])
		if err != nil {
			return
		}
		ans, out := f.do(h.Verb, body, fds)
		seqpacket.CloseAll(fds)
		b, err := wire.Encode(h.Verb+1, h.Sequence, ans)
		if err != nil {
			panic(err)
		}
		err = c.Send(b, out...)
		seqpacket.CloseAll(out)
		if err != nil {
			return
		}
	}
}

func sections(fds []int) (planBytes []byte) {
	b, err := wire.ReadMemfd(fds[0])
	if err != nil {
		panic(err)
	}
	planBytes, claims, err := wire.SplitSections(b)
	if err != nil {
		panic(err)
	}
	if _, err := plan.DecodeClaims(claims); err != nil {
		panic(err)
	}
	return planBytes
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

var notFound = wire.Answer{Code: wire.NotFound, Message: "no such handle"}

func (f *fakeHelper) do(v wire.Verb, body []byte, fds []int) (wire.Message, []int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests[v]++
	var no wire.Answer
	if f.refuse != nil {
		if a := f.refuse(v); a != nil {
			no = *a
		}
	}
	bad := no.Code != wire.OK
	switch v {
	case wire.Hello:
		return &wire.HelloAnswer{Version: wire.Version, Profile: "baseline", CgroupVersion: 1, Features: wire.FeatureNetwork}, nil
	case wire.PodCreate:
		_, err := plan.DecodePod(sections(fds))
		must(err)
		if bad {
			return &wire.PodCreateAnswer{Answer: no}, nil
		}
		time.Sleep(f.slow)
		id := handle()
		f.entries[id] = wire.Entry{Kind: wire.EntryPod, Handle: id, State: wire.StateReady, Cgroup: "/pods/" + id}
		return &wire.PodCreateAnswer{Pod: id, IPs: []string{"10.0.0.2"}, Cgroup: "/pods/" + id}, nil
	case wire.PodDelete:
		var r wire.PodDeleteRequest
		must(wire.Decode(body, &r))
		if !bad {
			if _, ok := f.entries[r.Pod]; !ok {
				no = notFound
			}
			for _, e := range f.entries {
				if e.Pod == r.Pod && e.State != wire.StateStopped {
					no = wire.Answer{Code: wire.Invalid, Message: "a container lives"}
				}
			}
		}
		if no.Code == wire.OK {
			delete(f.entries, r.Pod)
		}
		return &wire.PodDeleteAnswer{Answer: no}, nil
	case wire.PodSocket:
		return &wire.PodSocketAnswer{Answer: wire.Answer{Code: wire.Denied, Denial: wire.Denial{By: "policy", Rule: "R", Message: "no"}}}, nil
	case wire.CtrCreate:
		var r wire.CtrCreateRequest
		must(wire.Decode(body, &r))
		_, err := plan.DecodeContainer(sections(fds))
		must(err)
		if !bad {
			if _, ok := f.entries[r.Pod]; !ok {
				no, bad = notFound, true
			}
		}
		if bad {
			return &wire.CtrCreateAnswer{Answer: no}, nil
		}
		time.Sleep(f.slow)
		id := handle()
		f.entries[id] = wire.Entry{Kind: wire.EntryContainer, Handle: id, Pod: r.Pod, State: wire.StateCreated}
		return &wire.CtrCreateAnswer{Container: id, Cgroup: "/pods/" + id}, nil
	case wire.List:
		a := &wire.ListAnswer{Answer: no}
		for _, e := range f.entries {
			a.Entries = append(a.Entries, e)
		}
		slices.SortFunc(a.Entries, func(x, y wire.Entry) int { return strings.Compare(x.Handle, y.Handle) })
		return a, nil
	case wire.CtrExec:
		return f.doExec(no, body, fds)
	}
	return f.doContainer(v, no, body), nil
}

func (f *fakeHelper) doExec(no wire.Answer, body []byte, fds []int) (wire.Message, []int) {
	var r wire.CtrExecRequest
	must(wire.Decode(body, &r))
	p, err := plan.DecodeExec(sections(fds))
	must(err)
	if no.Code != wire.OK {
		return &wire.CtrExecAnswer{Answer: no}, nil
	}
	var ours, theirs []int
	for _, on := range []bool{p.Stdout, p.Stderr} {
		if on {
			var pipe [2]int
			must(unix.Pipe2(pipe[:], unix.O_CLOEXEC))
			theirs, ours = append(theirs, pipe[0]), append(ours, pipe[1])
		}
	}
	id := handle()
	do := f.exec
	go do(id, p, ours)
	return &wire.CtrExecAnswer{Exec: id}, theirs
}

func (f *fakeHelper) doContainer(v wire.Verb, no wire.Answer, body []byte) wire.Message {
	look := func(id string, want ...wire.State) (wire.Entry, bool) {
		e, ok := f.entries[id]
		if no.Code == wire.OK && !ok {
			no = notFound
		}
		if no.Code == wire.OK && len(want) > 0 && !slices.Contains(want, e.State) {
			no = wire.Answer{Code: wire.Exists, Message: "in another state"}
		}
		return e, no.Code == wire.OK
	}
	switch v {
	case wire.CtrStart:
		var r wire.CtrStartRequest
		must(wire.Decode(body, &r))
		if e, ok := look(r.Container, wire.StateCreated); ok {
			e.State = wire.StateRunning
			f.entries[e.Handle] = e
		}
		return &wire.CtrStartAnswer{Answer: no}
	case wire.CtrSignal:
		var r wire.CtrSignalRequest
		must(wire.Decode(body, &r))
		e, ok := f.entries[r.Target]
		if ok && no.Code == wire.OK && e.State != wire.StateStopped && (r.Signal == 9 || !f.stubborn) {
			e.State = wire.StateStopped
			f.entries[e.Handle] = e
			go f.exit(keeper.Exit{Key: e.Handle, Code: 128 + int32(r.Signal), Signal: int32(r.Signal), Time: time.Now().UnixNano()})
		}
		return &wire.CtrSignalAnswer{Answer: no}
	case wire.CtrUpdate:
		var r wire.CtrUpdateRequest
		must(wire.Decode(body, &r))
		look(r.Container)
		return &wire.CtrUpdateAnswer{Answer: no}
	case wire.CtrDelete:
		var r wire.CtrDeleteRequest
		must(wire.Decode(body, &r))
		if e, ok := look(r.Container, wire.StateStopped); ok {
			delete(f.entries, e.Handle)
		}
		return &wire.CtrDeleteAnswer{Answer: no}
	case wire.CtrUsage:
		return &wire.CtrUsageAnswer{Answer: no, Bytes: 4096, Inodes: 3}
	}
	return &wire.LogReopenAnswer{Answer: no}
}

func (f *fakeHelper) count(v wire.Verb) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.requests[v]
}

func (f *fakeHelper) onExec(do func(string, plan.ExecPlan, []int)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.exec = do
}

func (f *fakeHelper) onAny(refuse func(wire.Verb) *wire.Answer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refuse = refuse
}

func (f *fakeHelper) list() map[string]wire.Entry {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := map[string]wire.Entry{}
	for k, v := range f.entries {
		m[k] = v
	}
	return m
}

func (f *fakeHelper) asked() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for v, k := range f.requests {
		if v != wire.Hello {
			n += k
		}
	}
	return n
}

// fakePolicy counts its questions.
type fakePolicy struct {
	mu    sync.Mutex
	asked map[string]int
	deny  bool
	err   error
}

func (p *fakePolicy) Decide(_ context.Context, q gate.Question) (gate.Decision, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked[q.Method]++
	if p.err != nil {
		return gate.Decision{}, p.err
	}
	return gate.Decision{Allow: !p.deny, ID: "01J", Rule: "TEST-1", Message: "not today", Field: "x", Remedy: "ask", Revision: "7", More: 2}, nil
}

type fakeAudit struct {
	mu     sync.Mutex
	stages []gate.Stage
	err    error
}

func (a *fakeAudit) Commit(_ context.Context, s gate.Stage, _ []byte, _ bool) (uint64, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stages = append(a.stages, s)
	return uint64(len(a.stages)), a.err
}

type fakeImages struct{}

var testImage = Image{ID: "sha256:" + strings.Repeat("1", 64), Tags: []string{"reg/app:1"}, Config: container.Image{
	Manifest: "sha256:" + strings.Repeat("a", 64), Cmd: []string{"/bin/app"},
}}

func (fakeImages) Find(_ context.Context, ref string) (Image, error) {
	if ref == "reg/app:1" || ref == testImage.ID {
		return testImage, nil
	}
	return Image{}, ErrImageNotFound
}
func (fakeImages) List(context.Context) ([]Image, error) { return []Image{testImage}, nil }
func (fakeImages) Pull(context.Context, string, string, *cri.AuthConfig, *cri.PodSandboxMetadata) (Image, error) {
	return Image{}, errors.New("no network")
}
func (fakeImages) Remove(context.Context, string) error { return nil }
func (fakeImages) Usage(context.Context) (Usage, error) { return Usage{"/", 1, 1}, nil }

type noUsers struct{}

func (noUsers) ByName(string) (uint32, uint32, bool, error) { return 0, 0, false, nil }
func (noUsers) ByUID(uint32) (string, uint32, bool, error)  { return "", 0, false, nil }
func (noUsers) Group(string) (uint32, bool, error)          { return 0, false, nil }
func (noUsers) Member(string) ([]uint32, error)             { return nil, nil }
func (noUsers) Close() error                                { return nil }

type fakePlaces struct{}

func (fakePlaces) CgroupParent(string) (plan.Place, error) {
	return plan.Place{Root: plan.RootCgroup, Name: "pods"}, nil
}
func (fakePlaces) LogDir(string) (plan.Place, error) {
	return plan.Place{Root: plan.RootLog, Name: "pods", Rel: "x"}, nil
}
func (fakePlaces) Mount(string, string) (plan.Place, bool, error) {
	return plan.Place{}, false, &Outside{"beneath no root"}
}
func (fakePlaces) FitPod(*plan.PodPlan)                   {}
func (fakePlaces) FitContainer(*plan.PodPlan, *plan.Plan) {}
func (fakePlaces) Device(string) (plan.Place, error)      { return plan.Place{}, &Outside{"not listed"} }

// world is a server with fakes around it, and a gRPC client of it.
type world struct {
	*Server
	helper  *fakeHelper
	policy  *fakePolicy
	audit   *fakeAudit
	runtime cri.RuntimeServiceClient
	image   cri.ImageServiceClient
	dir     string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		helper: &fakeHelper{entries: map[string]wire.Entry{}, requests: map[wire.Verb]int{}},
		policy: &fakePolicy{asked: map[string]int{}}, audit: &fakeAudit{}, dir: t.TempDir(),
	}
	w.helper.serve(t, filepath.Join(w.dir, "helper"))
	w.start(t)
	return w
}

// start starts a server on what is stored, as a new process would.
func (w *world) start(t *testing.T) {
	t.Helper()
	h, err := DialHelper(filepath.Join(w.dir, "helper"))
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(filepath.Join(w.dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	w.Server = New(Options{
		Helper: h, Policy: w.policy, Audit: w.audit, Images: fakeImages{}, Store: st, Places: fakePlaces{},
		Cgroups: stats.New(w.dir), Users: func(Image) (Users, error) { return noUsers{}, nil }, StateDir: w.dir,
		Stream: filepath.Join(w.dir, "stream"), Logs: filepath.Join(w.dir, "log"), Version: "test",
	})
	w.helper.mu.Lock()
	w.helper.exit = w.Server.Exited
	w.helper.mu.Unlock()
	sock := filepath.Join(w.dir, "cri.sock")
	os.Remove(sock)
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	g := w.GRPC()
	go g.Serve(l)
	cc, err := grpc.NewClient("unix://"+sock, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close(); g.Stop(); st.Close() })
	w.runtime, w.image = cri.NewRuntimeServiceClient(cc), cri.NewImageServiceClient(cc)
}

func podRequest(name string) *cri.RunPodSandboxRequest {
	return &cri.RunPodSandboxRequest{Config: &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: name, Uid: "uid-" + name, Namespace: "ns"}, LogDirectory: "/var/log/pods/x",
		Labels: map[string]string{"app": name},
	}}
}

func containerRequest(pod, name string) *cri.CreateContainerRequest {
	return &cri.CreateContainerRequest{PodSandboxId: pod, Config: &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: name}, Image: &cri.ImageSpec{Image: "reg/app:1"}, LogPath: name + ".log",
		Labels: map[string]string{"name": name},
	}}
}

// runPod makes a pod with one running container.
func (w *world) runPod(t *testing.T, name string) (pod, ctr string) {
	t.Helper()
	ctx := t.Context()
	p, err := w.runtime.RunPodSandbox(ctx, podRequest(name))
	if err != nil {
		t.Fatal(err)
	}
	c, err := w.runtime.CreateContainer(ctx, containerRequest(p.PodSandboxId, "c"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: c.ContainerId}); err != nil {
		t.Fatal(err)
	}
	return p.PodSandboxId, c.ContainerId
}
