package cri

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-cri/postern/privsep/keeper"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/seqpacket"
	"github.com/postern-cri/postern/runtime/ipc"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func listen(t *testing.T, path string) *seqpacket.Listener {
	t.Helper()
	fd, err := seqpacket.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	l, err := seqpacket.NewListener(fd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// fakeStreamer mints URLs that end in the grant.
func (w *world) fakeStreamer(t *testing.T) {
	l := listen(t, filepath.Join(w.dir, "stream"))
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			var r mintRequest
			k := ipc.New(c)
			if _, err := k.Recv(&r, 0); err == nil {
				k.Send(mintAnswer{OK: true, URL: "http://127.0.0.1:1/" + r.Kind + "/" + r.Grant})
			}
			c.Close()
		}
	}()
	g := listen(t, filepath.Join(w.dir, "grant"))
	go w.ServeGrants(g, func(*unix.Ucred) bool { return true })
}

func (w *world) redeem(t *testing.T, grant string, port int32) (*ipc.Conn, redeemAnswer, []int) {
	t.Helper()
	c, err := ipc.Dial(filepath.Join(w.dir, "grant"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	var a redeemAnswer
	fds, err := c.Call(time.Minute, redeemRequest{Op: "redeem", Grant: grant, Port: port}, &a, 4)
	if err != nil {
		t.Fatal(err)
	}
	return c, a, fds
}

func TestExecSession(t *testing.T) {
	w := newWorld(t)
	w.fakeStreamer(t)
	_, ctr := w.runPod(t, "web")
	w.helper.onExec(func(id string, p plan.ExecPlan, fds []int) {
		unix.Write(fds[0], []byte(strings.Join(p.Args, " ")))
		seqpacket.CloseAll(fds)
		w.Exited(keeper.Exit{Key: id, Code: 7})
	})
	a, err := w.runtime.Exec(t.Context(), &cri.ExecRequest{ContainerId: ctr, Cmd: []string{"echo", "hi"}, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	grant := a.Url[strings.LastIndexByte(a.Url, '/')+1:]
	c, ans, fds := w.redeem(t, grant, 0)
	if !ans.OK || len(fds) != 1 || ans.Names[0] != "stdout" {
		t.Fatal(ans, fds)
	}
	f := os.NewFile(uintptr(fds[0]), "out")
	defer f.Close()
	if b, err := io.ReadAll(f); string(b) != "echo hi" {
		t.Errorf("%q %v", b, err)
	}
	var m exitMessage
	if _, err := c.Recv(&m, 0); err != nil || m.Exit.Code != 7 {
		t.Error(m, err)
	}
	if _, ans, _ := w.redeem(t, grant, 0); ans.OK {
		t.Error("a grant was used twice")
	}
	if _, ans, _ := w.redeem(t, strings.Repeat("0", 64), 0); ans.OK {
		t.Error("a grant that was never given was used")
	}
}

// TestAttachEndOfInput: when the client closes its input the log process sees
// that at once. A copy of the fd that stayed here would hide it from the
// container, for which "stdin once" would then mean never.
func TestAttachEndOfInput(t *testing.T) {
	w := newWorld(t)
	w.fakeStreamer(t)
	_, ctr := w.runPod(t, "web")
	l := listen(t, filepath.Join(w.dir, "log"))
	var in [2]int
	if err := unix.Pipe2(in[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	typed := os.NewFile(uintptr(in[0]), "typed")
	defer typed.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		var r attachRequest
		k := ipc.New(c)
		if _, err := k.Recv(&r, 0); err == nil {
			k.Send(redeemAnswer{OK: true, Names: []string{"stdin"}}, in[1])
		}
		unix.Close(in[1])
	}()
	a, err := w.runtime.Attach(t.Context(), &cri.AttachRequest{ContainerId: ctr, Stdin: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	_, ans, fds := w.redeem(t, a.Url[strings.LastIndexByte(a.Url, '/')+1:], 0)
	if !ans.OK || len(fds) != 1 {
		t.Fatal(ans, fds)
	}
	unix.Write(fds[0], []byte("hello"))
	seqpacket.CloseAll(fds)
	got := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(typed)
		got <- string(b)
	}()
	select {
	case s := <-got:
		if s != "hello" {
			t.Errorf("%q", s)
		}
	case <-time.After(time.Minute):
		t.Fatal("the input has no end while the session lives")
	}
}

func TestForwardDenied(t *testing.T) {
	w := newWorld(t)
	w.fakeStreamer(t)
	pod, _ := w.runPod(t, "web")
	a, err := w.runtime.PortForward(t.Context(), &cri.PortForwardRequest{PodSandboxId: pod, Port: []int32{80}})
	if err != nil {
		t.Fatal(err)
	}
	grant := a.Url[strings.LastIndexByte(a.Url, '/')+1:]
	c, ans, _ := w.redeem(t, grant, 80)
	if ans.OK || !strings.Contains(ans.Error, "policy denied PortForward: R no") {
		t.Error(ans)
	}
	ans = redeemAnswer{}
	if _, err := c.Call(time.Minute, redeemRequest{Op: "redeem", Port: 81}, &ans, 4); err != nil || ans.OK {
		t.Error("a port that was not asked for:", ans, err)
	}
}

func TestStreamArguments(t *testing.T) {
	w := newWorld(t)
	_, ctr := w.runPod(t, "web")
	for _, r := range []*cri.ExecRequest{
		{ContainerId: ctr, Cmd: []string{"x"}}, {ContainerId: ctr, Stdout: true},
		{ContainerId: ctr, Cmd: []string{"x"}, Tty: true, Stdout: true, Stderr: true},
	} {
		if _, err := w.runtime.Exec(t.Context(), r); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: %v", r, err)
		}
	}
	if _, err := w.runtime.Exec(t.Context(), &cri.ExecRequest{ContainerId: ctr, Cmd: []string{"x"}, Stdout: true}); status.Code(err) != codes.Unavailable {
		t.Error("without a streaming server:", err)
	}
}

func TestEvents(t *testing.T) {
	w := newWorld(t)
	out, err := w.runtime.GetContainerEvents(t.Context(), &cri.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for !w.events.any() {
		time.Sleep(time.Millisecond)
	}
	pod, ctr := w.runPod(t, "web")
	if _, err := w.runtime.RemovePodSandbox(t.Context(), &cri.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
	want := []struct {
		id string
		t  cri.ContainerEventType
	}{
		{pod, cri.ContainerEventType_CONTAINER_CREATED_EVENT}, {pod, cri.ContainerEventType_CONTAINER_STARTED_EVENT},
		{ctr, cri.ContainerEventType_CONTAINER_CREATED_EVENT}, {ctr, cri.ContainerEventType_CONTAINER_STARTED_EVENT},
		{ctr, cri.ContainerEventType_CONTAINER_STOPPED_EVENT}, {pod, cri.ContainerEventType_CONTAINER_STOPPED_EVENT},
		{ctr, cri.ContainerEventType_CONTAINER_DELETED_EVENT}, {pod, cri.ContainerEventType_CONTAINER_DELETED_EVENT},
	}
	for i, x := range want {
		e, err := out.Recv()
		if err != nil || e.ContainerId != x.id || e.ContainerEventType != x.t || e.PodSandboxStatus == nil {
			t.Fatalf("event %d: %v %v, want %v of %s", i, e, err, x.t, x.id)
		}
	}
}

// TestSlowSubscriber: who does not read events is cut off in the end, and holds
// nobody up until then.
func TestSlowSubscriber(t *testing.T) {
	var b broadcaster
	slow, fast := b.subscribe(), b.subscribe()
	for i := range eventBuffer + 1 {
		b.send(&cri.ContainerEventResponse{CreatedAt: int64(i)})
		if e := <-fast; e.CreatedAt != int64(i) {
			t.Fatalf("event %d, want %d", e.CreatedAt, i)
		}
	}
	n := 0
	for range slow {
		n++
	}
	if n != eventBuffer {
		t.Errorf("the slow one got %d events, want %d and then the end", n, eventBuffer)
	}
	b.unsubscribe(slow)
	b.unsubscribe(fast)
	if b.any() {
		t.Error("a subscriber is left")
	}
}
