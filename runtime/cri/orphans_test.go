package cri

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/postern-cri/postern/privsep/wire"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestLostAnswers: what was made for a request whose answer was lost keeps no name,
// no address and no pod from being stopped; and what others make meanwhile stays.
func TestLostAnswers(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan struct{})
	go func() { w.Run(ctx); close(ran) }()
	defer func() { cancel(); <-ran }()
	lose := func(verb wire.Verb, times int) {
		w.helper.mu.Lock()
		defer w.helper.mu.Unlock()
		w.helper.lose = func(v wire.Verb) bool {
			times--
			return v == verb && times >= 0
		}
	}
	there := func() int { return len(w.helper.list()) }
	cleared := func(want int) {
		t.Helper()
		for end := time.Now().Add(time.Minute); there() != want; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("the privileged side has %d things, want %d", there(), want)
			}
		}
	}
	lose(wire.PodCreate, 1)
	if _, err := w.runtime.RunPodSandbox(t.Context(), podRequest("web")); err == nil {
		t.Fatal("an answer that was lost arrived")
	}
	cleared(0)
	pod, err := w.runtime.RunPodSandbox(t.Context(), podRequest("web"))
	if err != nil {
		t.Fatal(err)
	}
	lose(wire.CtrCreate, 1)
	if _, err := w.runtime.CreateContainer(t.Context(), containerRequest(pod.PodSandboxId, "c")); err == nil {
		t.Fatal("an answer that was lost arrived")
	}
	cleared(1)
	if _, err := w.runtime.StopPodSandbox(t.Context(), &cri.StopPodSandboxRequest{PodSandboxId: pod.PodSandboxId}); err != nil {
		t.Errorf("a pod with a container that nobody knows: %v", err)
	}
	cleared(0)

	w.helper.mu.Lock()
	n := 0
	w.helper.lose = func(v wire.Verb) bool { n++; return v == wire.PodCreate && n%3 == 0 }
	w.helper.mu.Unlock()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var made []string
	for i := range 60 {
		wg.Go(func() {
			if a, err := w.runtime.RunPodSandbox(t.Context(), podRequest(fmt.Sprint(i))); err == nil {
				mu.Lock()
				made = append(made, a.PodSandboxId)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	cleared(len(made))
	all := w.helper.list()
	for _, id := range made {
		if all[id].Handle != id {
			t.Errorf("pod %s was deleted", id)
		}
	}
	if len(made) == 0 || len(made) == 60 {
		t.Errorf("%d of 60 answers arrived", len(made))
	}
}
