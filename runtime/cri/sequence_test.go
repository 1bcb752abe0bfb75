package cri

import (
	"math/rand/v2"
	"testing"

	"github.com/postern-cri/postern/privsep/wire"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// FuzzSequence sends random calls and then holds what the front end says against
// what the privileged side has.
func FuzzSequence(f *testing.F) {
	for seed := range uint64(4) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		w := newWorld(t)
		ctx := t.Context()
		r := rand.New(rand.NewPCG(seed, 1))
		pods, ctrs := []string{"none"}, []string{"none"}
		pick := func(l []string) string { return l[r.IntN(len(l))] }
		names := []string{"a", "b", "c"}
		w.helper.onAny(func(wire.Verb) *wire.Answer {
			if r.IntN(10) == 0 {
				return &wire.Answer{Code: wire.Unavailable, Message: "away"}
			}
			return nil
		})
		for range 60 {
			var err error
			switch r.IntN(8) {
			case 0:
				var a *cri.RunPodSandboxResponse
				if a, err = w.runtime.RunPodSandbox(ctx, podRequest(pick(names))); err == nil {
					pods = append(pods, a.PodSandboxId)
				}
			case 1, 2:
				var a *cri.CreateContainerResponse
				if a, err = w.runtime.CreateContainer(ctx, containerRequest(pick(pods), pick(names))); err == nil {
					ctrs = append(ctrs, a.ContainerId)
				}
			case 3:
				_, err = w.runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: pick(ctrs)})
			case 4:
				_, err = w.runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: pick(ctrs), Timeout: 1})
			case 5:
				_, err = w.runtime.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: pick(ctrs)})
			case 6:
				_, err = w.runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: pick(pods)})
			case 7:
				_, err = w.runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: pick(pods)})
			}
			if c := status.Code(err); c == codes.Internal || c == codes.Unknown {
				t.Fatal(err)
			}
		}
		w.invariants(t)
		w.helper.onAny(nil)
		for _, p := range w.store.Pods() {
			if _, err := w.runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.ID}); err != nil {
				t.Fatal(err)
			}
		}
		if left := w.helper.list(); len(left) > 0 || len(w.store.Containers("")) > 0 {
			t.Fatal("after everything was removed there is still", left, w.store.Containers(""))
		}
	})
}

// invariants: what the privileged side has is known here, in the same state;
// every container's pod is known; a name is used once.
func (w *world) invariants(t *testing.T) {
	t.Helper()
	there := w.helper.list()
	names := map[string]bool{}
	for _, c := range w.store.Containers("") {
		if _, err := w.store.Pod(c.Pod); err != nil {
			t.Errorf("container %s of pod %s, which is not known", c.ID, c.Pod)
		}
		if names[c.Key()] {
			t.Errorf("%s is there twice", c.Key())
		}
		names[c.Key()] = true
		st := containerState(c)
		e, ok := there[c.ID]
		if st == cri.ContainerState_CONTAINER_RUNNING && (!ok || e.State != wire.StateRunning) {
			t.Errorf("container %s is said to run and is %v", c.ID, e.State)
		}
		if st == cri.ContainerState_CONTAINER_EXITED && ok && e.State != wire.StateStopped {
			t.Errorf("container %s is said to have ended and is %v", c.ID, e.State)
		}
		delete(there, c.ID)
	}
	for _, p := range w.store.Pods() {
		if podState(p) == cri.PodSandboxState_SANDBOX_READY {
			if _, ok := there[p.ID]; !ok {
				t.Errorf("pod %s is said to be ready and is not there", p.ID)
			}
		}
		delete(there, p.ID)
	}
	for _, e := range there {
		t.Errorf("nobody knows of %v", e)
	}
}
