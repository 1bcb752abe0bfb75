package helper

import (
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/postern-cri/postern/privsep/client"
	"github.com/postern-cri/postern/privsep/gate"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/seqpacket"
	"github.com/postern-cri/postern/privsep/wire"
)

// Everything at once: the race detector watches, and at the end nothing is left.
func TestConcurrent(t *testing.T) {
	b := newBench(t)
	b.c.MaxPods, b.c.MaxContainers = 100, 100
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 15 {
				pod, err := b.cl.PodCreate(ctx, smallPod("u"+string(rune('a'+i))), plan.Claims{})
				if err != nil {
					t.Errorf("POD_CREATE: %v", err)
					return
				}
				var in sync.WaitGroup
				var mu sync.Mutex
				var made []string
				for range 3 {
					in.Go(func() {
						c, err := b.cl.CtrCreate(ctx, pod.Pod, smallCtr(), plan.Claims{})
						if err != nil {
							if !client.IsCode(err, wire.Invalid) && !client.IsCode(err, wire.NotFound) {
								t.Errorf("CTR_CREATE: %v", err)
							}
							return
						}
						mu.Lock()
						made = append(made, c.Container)
						mu.Unlock()
						b.cl.CtrStart(ctx, c.Container)
					})
				}
				in.Go(func() { b.cl.PodDelete(ctx, pod.Pod) })
				in.Go(func() {
					if _, err := b.cl.List(ctx); err != nil {
						t.Errorf("LIST: %v", err)
					}
				})
				in.Wait()
				for _, id := range made {
					if b.h.podGone(pod.Pod) && b.w.Alive(b.w.procOf(id)) {
						t.Error("a container lives in a pod that is gone")
					}
					b.cl.CtrSignal(ctx, id, 9, true)
					if err := b.cl.CtrDelete(ctx, id); err != nil {
						t.Errorf("CTR_DELETE: %v", err)
					}
				}
				if _, err := b.cl.PodDelete(ctx, pod.Pod); err != nil && !client.IsCode(err, wire.NotFound) {
					t.Errorf("POD_DELETE: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if all, err := b.cl.List(ctx); err != nil || len(all) > 0 || !b.h.Idle() {
		t.Errorf("left over: %+v, %v", all, err)
	}
}

func (h *Helper) podGone(id string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.pods[id] == nil
}

// Serve ends when its listener does, and what could not be torn down is tried
// again until it can.
func TestRetryTeardown(t *testing.T) {
	b := newBench(t)
	pod, err := b.cl.PodCreate(ctx, smallPod("u1"), plan.Claims{})
	if err != nil {
		t.Fatal(err)
	}
	b.w.begin(down, down, map[string]string{"NetworkDelete": clean, "PodDelete": clean})
	if deferred, err := b.cl.PodDelete(ctx, pod.Pod); err != nil || !deferred {
		t.Fatalf("%v, %v", deferred, err)
	}
	b.w.begin("", "", nil)
	b.h.mu.Lock()
	p := b.h.pods[pod.Pod]
	b.h.mu.Unlock()
	p.op.Lock()
	p.next = time.Now()
	p.op.Unlock()
	fd, err := seqpacket.Listen(filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := seqpacket.NewListener(fd)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- b.h.Serve(l) }()
	for end := time.Now().Add(time.Minute); !b.h.Idle(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the teardown was not tried again")
		}
	}
	l.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// State files that make no sense are dropped, and what they spoke of with them.
func TestBrokenState(t *testing.T) {
	b := newBench(t)
	pod, err := b.cl.PodCreate(ctx, smallPod("u1"), plan.Claims{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := b.cl.CtrCreate(ctx, pod.Pod, smallCtr(), plan.Claims{})
	if err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(b.h.path("pod", pod.Pod))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"empty": "", "cut": string(good[:len(good)/2]), "noplan": `{"ID":"x","Plan":"AAAA"}`, "json": `{"ID":7}`} {
		os.WriteFile(b.h.path("pod", name), []byte(text), 0o600)
		os.WriteFile(b.h.path("ctr", name), []byte(text), 0o600)
	}
	os.WriteFile(b.h.path("pod", "half")+".tmp", good, 0o600)
	b.restart()
	all, err := b.cl.List(ctx)
	if err != nil || len(all) != 2 {
		t.Errorf("%+v, %v", all, err)
	}
	if files, _ := filepath.Glob(filepath.Join(b.w.dir, "*", "*")); len(files) != 2 {
		t.Errorf("files %v", files)
	}
	// The container's file is lost: it goes, its pod stays.
	os.WriteFile(b.h.path("ctr", c.Container), []byte("{"), 0o600)
	b.restart()
	if b.w.there(c.Container) {
		t.Error("a container that nobody knows is left on the machine")
	}
}

// TestPowerLoss: whatever the power left of the state files, and of the one that
// names the boot, nothing of before is taken for something that is there.
func TestPowerLoss(t *testing.T) {
	b := newBench(t)
	file := filepath.Join(b.w.dir, "boot")
	this, err := os.ReadFile(file)
	if err != nil || len(this) == 0 {
		t.Fatal(err)
	}
	for name, boot := range map[string]string{"another boot": "another", "an empty file": "", "half a file": string(this[:17]), "no file": "-"} {
		for _, torn := range []string{"", "pod", "ctr"} {
			pod, err := b.cl.PodCreate(ctx, smallPod("u1"), plan.Claims{}) // the same uid each time
			if err != nil {
				t.Fatalf("after %s: %v", name, err)
			}
			c, err := b.cl.CtrCreate(ctx, pod.Pod, smallCtr(), plan.Claims{})
			if err != nil {
				t.Fatal(err)
			}
			os.WriteFile(file, []byte(boot), 0o600)
			if boot == "-" {
				os.Remove(file)
			}
			switch torn {
			case "pod":
				os.Truncate(b.h.path("pod", pod.Pod), 0)
			case "ctr":
				os.Truncate(b.h.path("ctr", c.Container), 20)
			}
			b.restart()
			all, err := b.cl.List(ctx)
			if err != nil || len(all) != 0 || b.w.there(c.Container) || len(b.w.pods) > 0 {
				t.Errorf("%s, %s torn: %+v, %v, pods %v", name, torn, all, err, b.w.pods)
			}
			if len(b.w.nets) > 0 {
				t.Errorf("%s, %s torn: networks %v", name, torn, b.w.nets)
			}
			if files, _ := filepath.Glob(filepath.Join(b.w.dir, "*", "*")); len(files) > 0 {
				t.Errorf("%s: files %v", name, files)
			}
			// Only once.
			b.restart()
			if got, err := os.ReadFile(file); err != nil || string(got) != string(this) {
				t.Errorf("%s: the boot is not noted: %q, %v", name, got, err)
			}
		}
	}
}

// Obligations only take away, whatever they say.
func TestTighten(t *testing.T) {
	for _, o := range []gate.Obligations{{}, {DropCaps: ^uint64(0)}, {NoNewPrivs: true}, {ReadOnlyRootfs: true}, {SeccompDefault: true}} {
		for _, p := range []plan.Plan{{}, smallCtr(), {NoNewPrivs: true, ReadOnlyRootfs: true, Seccomp: plan.Profile{Kind: plan.ProfileLocalhost, Name: "x"}}} {
			was := p
			tighten(&p, o)
			if p.CapsBounding&^was.CapsBounding != 0 || p.CapsAmbient&^was.CapsAmbient != 0 || was.NoNewPrivs && !p.NoNewPrivs ||
				was.ReadOnlyRootfs && !p.ReadOnlyRootfs || p.Seccomp != was.Seccomp && was.Seccomp.Kind != plan.ProfileUnconfined {
				t.Errorf("%+v widened %+v to %+v", o, was, p)
			}
			before, _ := json.Marshal(p)
			tighten(&p, o)
			if after, _ := json.Marshal(p); string(before) != string(after) {
				t.Error("twice is not once")
			}
		}
	}
}
