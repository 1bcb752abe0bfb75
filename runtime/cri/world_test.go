package cri

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/postern-cri/postern/privsep/gate"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/wire"
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
	last   string
	err    error
}

func (a *fakeAudit) Commit(_ context.Context, s gate.Stage, record []byte, _ bool) (uint64, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stages, a.last = append(a.stages, s), string(record)
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
	return plan.Place{}, false, &Outside{"CEIL-MOUNT", "beneath no root"}
}
func (fakePlaces) FitPod(*plan.PodPlan)                   {}
func (fakePlaces) FitContainer(*plan.PodPlan, *plan.Plan) {}
func (fakePlaces) SeccompProfile(ref string) string       { return ref }
func (fakePlaces) SeccompUnset() plan.ProfileKind         { return plan.ProfileRuntimeDefault }
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
