package cri

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/postern-cri/postern/privsep/gate"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/wire"
	"github.com/postern-cri/postern/runtime/cdi"
	"github.com/postern-cri/postern/runtime/container"
	"github.com/postern-cri/postern/runtime/stats"
	"github.com/postern-cri/postern/runtime/store"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// fakePolicy counts its questions.
type fakePolicy struct {
	mu    sync.Mutex
	asked map[string]int
	facts []string // of every question, as the asker wrote them
	deny  bool
	err   error
}

func (p *fakePolicy) Decide(_ context.Context, q gate.Question) (gate.Decision, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked[q.Method]++
	for _, s := range q.Sections {
		p.facts = append(p.facts, q.Method+" "+string(s.Data))
	}
	if p.err != nil {
		return gate.Decision{}, p.err
	}
	return gate.Decision{Allow: !p.deny, ID: "01J", Rule: "TEST-1", Message: "not today", Field: "x", Remedy: "ask", Revision: "7", More: 2}, nil
}

type fakeAudit struct {
	mu     sync.Mutex
	stages []gate.Stage
	last   string
	err    error
}

func (a *fakeAudit) Commit(_ context.Context, s gate.Stage, record []byte, _ bool) (uint64, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stages, a.last = append(a.stages, s), string(record)
	return uint64(len(a.stages)), a.err
}

// fakeImages has one image; what it is asked to do is noted.
type fakeImages struct{ did *[]string }

var testImage = Image{ID: "sha256:" + strings.Repeat("1", 64), Tags: []string{"reg/app:1"}, Config: container.Image{
	Manifest: "sha256:" + strings.Repeat("a", 64), Cmd: []string{"/bin/app"}, User: "7",
}}

// namedUser is an image whose user is a name.
var namedUser = Image{ID: "sha256:" + strings.Repeat("2", 64), Tags: []string{"reg/named:1"}, Digests: []string{"reg/named@sha256:" + strings.Repeat("b", 64)},
	Size: 5, Pinned: true, Config: container.Image{Manifest: "sha256:" + strings.Repeat("b", 64), Cmd: []string{"/bin/app"}, User: "bob"},
}

func (fakeImages) Find(_ context.Context, ref string) (Image, error) {
	if ref == namedUser.ID {
		return namedUser, nil
	}
	if ref == "reg/app:1" || ref == testImage.ID {
		return testImage, nil
	}
	return Image{}, ErrImageNotFound
}
func (fakeImages) List(context.Context) ([]Image, error) { return []Image{testImage, namedUser}, nil }
func (f fakeImages) Pull(_ context.Context, _, ref string, a *cri.AuthConfig, p *cri.PodSandboxMetadata) (Image, error) {
	if f.did == nil {
		return Image{}, errors.New("no network")
	}
	b, err := json.Marshal([]any{imageAuth(a), imagePod(p)})
	must(err)
	*f.did = append(*f.did, fmt.Sprintf("pull %s %s", ref, b))
	return testImage, nil
}
func (f fakeImages) Remove(_ context.Context, id string) error {
	if f.did != nil {
		*f.did = append(*f.did, "remove "+id)
	}
	return nil
}
func (fakeImages) Usage(context.Context) (Usage, error) { return Usage{"/", 1, 1}, nil }

// oneUser is an image with one user, five, who is in group 55.
type oneUser struct{}

func (oneUser) ByName(n string) (uint32, uint32, bool, error) { return 5, 5, n == "five", nil }
func (oneUser) ByUID(u uint32) (string, uint32, bool, error) {
	if u != 5 {
		return "", 0, false, nil
	}
	return "five", 5, true, nil
}
func (oneUser) Group(string) (uint32, bool, error) { return 0, false, nil }
func (oneUser) Member(string) ([]uint32, error)    { return []uint32{55}, nil }
func (oneUser) Close() error                       { return nil }

func fakeCDI(name string) ([]cdi.Edits, error) {
	if name != "postern.test/thing=one" {
		return nil, errors.New("no specification of " + name)
	}
	return []cdi.Edits{{Env: []string{"THING=1"}}}, nil
}

type fakePlaces struct{}

func (fakePlaces) CgroupParent(string) (plan.Place, error) {
	return plan.Place{Root: plan.RootCgroup, Name: "pods"}, nil
}
func (fakePlaces) LogDir(string) (plan.Place, error) {
	return plan.Place{Root: plan.RootLog, Name: "pods", Rel: "x"}, nil
}
func (fakePlaces) Mount(string, string) (plan.Place, bool, error) {
	return plan.Place{}, false, &Outside{"CEIL-MOUNT", "beneath no root"}
}
func (fakePlaces) FitPod(*plan.PodPlan) bool                   { return true }
func (fakePlaces) FitContainer(*plan.PodPlan, *plan.Plan) bool { return true }
func (fakePlaces) AutoUserNS() (first, last uint32)            { return 0, 0 }
func (fakePlaces) SeccompProfile(ref string) string            { return ref }
func (fakePlaces) SeccompUnset() plan.ProfileKind              { return plan.ProfileRuntimeDefault }
func (fakePlaces) Device(string) (plan.Place, error) {
	return plan.Place{}, &Outside{"CEIL-DEVICE", "not listed"}
}

// world is a server with fakes around it, and a gRPC client of it.
type world struct {
	*Server
	helper  *fakeHelper
	policy  *fakePolicy
	audit   *fakeAudit
	runtime cri.RuntimeServiceClient
	image   cri.ImageServiceClient
	cc      *grpc.ClientConn
	dir     string
	places  Places
	names   []string  // of the runtime handlers
	stop    func()    // ends the server early; harmless twice
	images  *[]string // what the image store was asked to do
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldWith(t, func(*world) {})
}

func newWorldWith(t *testing.T, change func(*world)) *world {
	t.Helper()
	w := &world{
		helper: &fakeHelper{entries: map[string]wire.Entry{}, requests: map[wire.Verb]int{}, ips: []string{"10.0.0.2"}},
		policy: &fakePolicy{asked: map[string]int{}}, audit: &fakeAudit{}, dir: t.TempDir(), places: fakePlaces{},
	}
	change(w)
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
	st, err := store.Open(filepath.Join(w.dir, "state"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	w.Server = New(Options{
		Helper: h, Policy: w.policy, Audit: w.audit, Images: fakeImages{w.images}, Store: st, Places: w.places, Handlers: w.names,
		Cgroups: stats.New(w.dir), CDI: fakeCDI, Users: func(Image) (Users, error) { return oneUser{}, nil }, StateDir: w.dir,
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
	w.stop = sync.OnceFunc(func() { cc.Close(); g.Stop(); st.Close() })
	t.Cleanup(w.stop)
	w.cc = cc
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
