package cri

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-cri/postern/privsep/keeper"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/seqpacket"
	"github.com/postern-cri/postern/privsep/wire"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func (w *world) state(t *testing.T, id string) *cri.ContainerStatus {
	t.Helper()
	a, err := w.runtime.ContainerStatus(t.Context(), &cri.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		t.Fatal(err)
	}
	return a.Status
}

func TestLife(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	pod, ctr := w.runPod(t, "web")
	if st := w.state(t, ctr); st.State != cri.ContainerState_CONTAINER_RUNNING || st.StartedAt == 0 || st.LogPath != "/var/log/pods/x/c.log" || st.ImageId != testImage.ID {
		t.Error(st)
	}
	if _, err := w.runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: ctr, Timeout: 5}); err != nil {
		t.Fatal(err)
	}
	if st := w.state(t, ctr); st.State != cri.ContainerState_CONTAINER_EXITED || st.ExitCode != 143 || st.FinishedAt == 0 || st.Reason != "Error" {
		t.Error(st)
	}
	for range 2 { // all of it twice: teardown is idempotent
		for _, call := range []func() error{
			func() error {
				_, err := w.runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: ctr})
				return err
			},
			func() error {
				_, err := w.runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: pod})
				return err
			},
		} {
			if err := call(); err != nil {
				t.Error(err)
			}
		}
	}
	p, err := w.runtime.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil || p.Status.State != cri.PodSandboxState_SANDBOX_NOTREADY {
		t.Error(p, err)
	}
	for range 2 {
		if _, err := w.runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
			t.Error(err)
		}
	}
	if left := w.helper.list(); len(left) > 0 {
		t.Error("left behind:", left)
	}
}

func TestStubborn(t *testing.T) {
	w := newWorld(t)
	_, ctr := w.runPod(t, "web")
	w.helper.mu.Lock()
	w.helper.stubborn = true
	w.helper.mu.Unlock()
	started := time.Now()
	if _, err := w.runtime.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: ctr, Timeout: 1}); err != nil {
		t.Fatal(err)
	}
	if time.Since(started) < time.Second {
		t.Error("the grace period was not granted")
	}
	if st := w.state(t, ctr); st.ExitCode != 137 {
		t.Error(st)
	}
}

func TestIdempotent(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	w.helper.mu.Lock()
	w.helper.slow = time.Second
	w.helper.mu.Unlock()
	// The first caller goes away; the others must all get the one pod.
	gone, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	if _, err := w.runtime.RunPodSandbox(gone, podRequest("web")); status.Code(err) != codes.DeadlineExceeded {
		t.Error(err)
	}
	ids := make([]string, 5)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			a, err := w.runtime.RunPodSandbox(ctx, podRequest("web"))
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = a.PodSandboxId
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Error("several pods of one name:", ids)
		}
	}
	if n := w.helper.count(wire.PodCreate); n != 1 {
		t.Errorf("%d creations", n)
	}
	other := podRequest("web")
	other.Config.Hostname = "other"
	if _, err := w.runtime.RunPodSandbox(ctx, other); status.Code(err) != codes.AlreadyExists {
		t.Error("another request of that name:", err)
	}
	a, err1 := w.runtime.CreateContainer(ctx, containerRequest(ids[0], "c"))
	b, err2 := w.runtime.CreateContainer(ctx, containerRequest(ids[0], "c"))
	if err := errors.Join(err1, err2); err != nil || a.ContainerId != b.ContainerId {
		t.Error(a, b, err)
	}
}

// A path that no root of the ceiling holds is refused before the helper hears of
// the request: the refusal names its rule and is in the audit log all the same.
func TestRefusedHereIsRecorded(t *testing.T) {
	w := newWorld(t)
	pod, err := w.runtime.RunPodSandbox(t.Context(), podRequest("web"))
	if err != nil {
		t.Fatal(err)
	}
	r := containerRequest(pod.PodSandboxId, "c")
	r.Config.Mounts = []*cri.Mount{{HostPath: "/etc", ContainerPath: "/host"}}
	_, err = w.runtime.CreateContainer(t.Context(), r)
	if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "ceiling denied CreateContainer: CEIL-MOUNT mounts[0].host_path: ") {
		t.Error(err)
	}
	w.audit.mu.Lock()
	defer w.audit.mu.Unlock()
	for _, want := range []string{`"rule":"CEIL-MOUNT"`, `"allow":false`, `"method":"CreateContainer"`, `"name":"web"`} {
		if !strings.Contains(w.audit.last, want) {
			t.Errorf("no %s in %s", want, w.audit.last)
		}
	}
}

func TestHelperRefuses(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		answer wire.Answer
		code   codes.Code
		text   string
	}{
		{wire.Answer{Code: wire.Denied, Denial: wire.Denial{By: "ceiling", Rule: "CEIL-X", Message: "no", Field: "f", Remedy: "r"}}, codes.PermissionDenied, "ceiling denied RunPodSandbox: CEIL-X no (f). Fix: r"},
		{wire.Answer{Code: wire.Denied, Denial: wire.Denial{By: "policy", Rule: "P", Message: "no", DecisionID: "01J", Revision: "3", More: 1}}, codes.PermissionDenied, "policy denied RunPodSandbox: P no. [decision 01J rev 3] (+1 more)"},
		{wire.Answer{Code: wire.Denied, Denial: wire.Denial{By: "image", Message: "no signature"}}, codes.Unknown, "SignatureValidationFailed: no signature"},
		{wire.Answer{Code: wire.Unavailable, Message: "policyd is away"}, codes.Unavailable, "RunPodSandbox: policyd is away"},
	} {
		w.helper.onAny(func(wire.Verb) *wire.Answer { return &c.answer })
		_, err := w.runtime.RunPodSandbox(t.Context(), podRequest("web"))
		if status.Code(err) != c.code || status.Convert(err).Message() != c.text {
			t.Errorf("%v\nwant %s %s", err, c.code, c.text)
		}
	}
	w.helper.onAny(nil)
	if _, err := w.runtime.RunPodSandbox(t.Context(), podRequest("web")); err != nil {
		t.Error("a refusal kept the name:", err)
	}
}

// TestTooLarge: what does not fit in a message is the caller's mistake, and not
// a reason to try again for ever.
func TestTooLarge(t *testing.T) {
	w := newWorld(t)
	r := podRequest("web")
	r.Config.Annotations = map[string]string{}
	for i := range 10000 {
		r.Config.Annotations[fmt.Sprint(i)] = ""
	}
	if _, err := w.runtime.RunPodSandbox(t.Context(), r); status.Code(err) != codes.InvalidArgument {
		t.Error(err)
	}
}

func TestExecSync(t *testing.T) {
	w := newWorld(t)
	_, ctr := w.runPod(t, "web")
	write := func(fd int, b []byte) {
		for len(b) > 0 {
			n, err := unix.Write(fd, b)
			if err != nil {
				return
			}
			b = b[n:]
		}
	}
	exit := func(id string, code int32) {
		w.Exited(keeper.Exit{Key: id, Code: code, Time: time.Now().UnixNano()})
	}
	call := func(timeout int64) (*cri.ExecSyncResponse, error) {
		return w.runtime.ExecSync(t.Context(), &cri.ExecSyncRequest{ContainerId: ctr, Cmd: []string{"x"}, Timeout: timeout})
	}
	t.Run("small", func(t *testing.T) {
		w.helper.onExec(func(id string, _ plan.ExecPlan, fds []int) {
			write(fds[0], []byte("out"))
			write(fds[1], []byte("err"))
			seqpacket.CloseAll(fds)
			exit(id, 3)
		})
		a, err := call(0)
		if err != nil || string(a.Stdout) != "out" || string(a.Stderr) != "err" || a.ExitCode != 3 {
			t.Error(a, err)
		}
	})
	t.Run("truncated exactly", func(t *testing.T) {
		w.helper.onExec(func(id string, _ plan.ExecPlan, fds []int) {
			write(fds[0], bytes.Repeat([]byte("y"), maxOutput+12345))
			seqpacket.CloseAll(fds)
			exit(id, 0)
		})
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if a, err := call(0); err != nil || len(a.Stdout) != maxOutput || len(a.Stderr) != 0 {
					t.Error(len(a.GetStdout()), err)
				}
			})
		}
		wg.Wait()
	})
	t.Run("a child keeps the pipe", func(t *testing.T) {
		var held []int
		w.helper.onExec(func(id string, _ plan.ExecPlan, fds []int) {
			write(fds[0], []byte("out"))
			held = fds
			exit(id, 0)
		})
		started := time.Now()
		a, err := call(0)
		if err != nil || string(a.Stdout) != "out" || time.Since(started) > time.Minute {
			t.Error(a, err, time.Since(started))
		}
		seqpacket.CloseAll(held)
	})
	t.Run("late readers lose nothing", func(t *testing.T) {
		for range largeOutputs {
			largeSlots <- struct{}{}
		}
		want := bytes.Repeat([]byte("0123456789abcdef"), (smallOutput+60<<10)/16) // the end stays in the pipe
		w.helper.onExec(func(id string, _ plan.ExecPlan, fds []int) {
			write(fds[0], want)
			seqpacket.CloseAll(fds)
			exit(id, 0)
			time.AfterFunc(2*drain, func() {
				for range largeOutputs {
					<-largeSlots
				}
			})
		})
		if a, err := call(0); err != nil || !bytes.Equal(a.Stdout, want) {
			t.Errorf("%d bytes of %d, %v", len(a.GetStdout()), len(want), err)
		}
	})
	t.Run("timeout", func(t *testing.T) {
		w.helper.onExec(func(string, plan.ExecPlan, []int) {})
		before := w.helper.count(wire.CtrSignal)
		if _, err := call(1); status.Code(err) != codes.DeadlineExceeded {
			t.Error(err)
		}
		if w.helper.count(wire.CtrSignal) != before+1 {
			t.Error("the process was not killed")
		}
	})
}

func TestRestart(t *testing.T) {
	w := newWorld(t)
	_, lives := w.runPod(t, "lives")
	pod, gone := w.runPod(t, "gone")
	_, ended := w.runPod(t, "ended")
	w.Server.store.Close()

	w.helper.mu.Lock()
	delete(w.helper.entries, gone)
	delete(w.helper.entries, pod)
	stray := wire.Entry{Kind: wire.EntryPod, Handle: handle(), State: wire.StateReady}
	inStray := wire.Entry{Kind: wire.EntryContainer, Handle: handle(), Pod: stray.Handle, State: wire.StateRunning}
	w.helper.entries[stray.Handle], w.helper.entries[inStray.Handle] = stray, inStray
	w.helper.mu.Unlock()

	w.start(t)
	w.Exited(keeper.Exit{Key: ended, Code: 5, Time: 99})
	if err := w.Reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := w.state(t, lives); st.State != cri.ContainerState_CONTAINER_RUNNING {
		t.Error(st)
	}
	if st := w.state(t, gone); st.State != cri.ContainerState_CONTAINER_EXITED || st.ExitCode != 255 || st.Reason != "Unknown" {
		t.Error(st)
	}
	if st := w.state(t, ended); st.ExitCode != 5 || st.FinishedAt != 99 {
		t.Error(st)
	}
	if p, err := w.runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: pod}); err != nil || p.Status.State != cri.PodSandboxState_SANDBOX_NOTREADY {
		t.Error(p, err)
	}
	left := w.helper.list()
	for _, e := range []wire.Entry{stray, inStray} {
		if _, ok := left[e.Handle]; ok {
			t.Error("nobody knows it and it is still there:", e)
		}
	}
}

func TestFilters(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	pod, ctr := w.runPod(t, "one")
	w.runPod(t, "two")
	for _, c := range []struct {
		f    *cri.ContainerFilter
		want int
	}{
		{nil, 2}, {&cri.ContainerFilter{Id: ctr}, 1}, {&cri.ContainerFilter{Id: ctr[:13]}, 1}, {&cri.ContainerFilter{PodSandboxId: pod}, 1},
		{&cri.ContainerFilter{State: &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_EXITED}}, 0},
		{&cri.ContainerFilter{State: &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_RUNNING}}, 2},
		{&cri.ContainerFilter{LabelSelector: map[string]string{"name": "c"}}, 2}, {&cri.ContainerFilter{LabelSelector: map[string]string{"name": "d"}}, 0},
	} {
		a, err := w.runtime.ListContainers(ctx, &cri.ListContainersRequest{Filter: c.f})
		if err != nil || len(a.Containers) != c.want {
			t.Errorf("%v: %d, want %d (%v)", c.f, len(a.GetContainers()), c.want, err)
		}
	}
	a, err := w.runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{LabelSelector: map[string]string{"app": "two"}}})
	if err != nil || len(a.Items) != 1 {
		t.Error(a, err)
	}
}

// TestImageByID: the kubelet asks for an image by its id, and shows people what
// the status calls it.
func TestImageByID(t *testing.T) {
	w := newWorld(t)
	pod, _ := w.runPod(t, "web")
	r := containerRequest(pod, "by-id")
	r.Config.Image = &cri.ImageSpec{Image: testImage.ID, UserSpecifiedImage: "reg/app:1"}
	c, err := w.runtime.CreateContainer(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if i := w.state(t, c.ContainerId).Image; i.Image != "reg/app:1" || i.UserSpecifiedImage != "reg/app:1" {
		t.Errorf("image %v", i)
	}
}
