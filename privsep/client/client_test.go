package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/fuzz/fill"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/seqpacket"
	"github.com/postern-cri/postern/privsep/wire"
)

// helper is a small fake: it says hello by itself and leaves the rest to answer.
type helper struct {
	t      *testing.T
	path   string
	hello  wire.HelloAnswer
	answer func(h wire.Header, body []byte, fds []int) (reply []byte, out []int)

	mu    sync.Mutex
	l     *seqpacket.Listener
	conns []*seqpacket.Conn
	dials int
}

func newHelper(t *testing.T, answer func(wire.Header, []byte, []int) ([]byte, []int)) *helper {
	h := &helper{t: t, path: filepath.Join(t.TempDir(), "s"), answer: answer}
	fill.Fill(&h.hello, fill.Rules{"Code": wire.OK})
	h.start()
	t.Cleanup(h.stop)
	return h
}

// change changes the helper while it works.
func (h *helper) change(do func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	do()
}

func (h *helper) start() {
	os.Remove(h.path)
	fd, err := seqpacket.Listen(h.path)
	if err != nil {
		h.t.Fatal(err)
	}
	l, err := seqpacket.NewListener(fd)
	if err != nil {
		h.t.Fatal(err)
	}
	h.mu.Lock()
	h.l = l
	h.mu.Unlock()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			h.mu.Lock()
			h.conns = append(h.conns, c)
			h.dials++
			h.mu.Unlock()
			go h.serve(c)
		}
	}()
}

func (h *helper) stop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.l.Close()
	for _, c := range h.conns {
		c.Close()
	}
	h.conns = nil
}

func (h *helper) serve(c *seqpacket.Conn) {
	defer c.Close()
	greeted := false
	buf := make([]byte, wire.MaxRequest)
	for {
		n, fds, err := c.Recv(buf)
		if err != nil {
			return
		}
		head, body, err := wire.DecodeHeader(buf[:n])
		if err != nil || greeted == (head.Verb == wire.Hello) {
			h.t.Errorf("the client sent %+v, greeted %v, %v", head, greeted, err)
			return
		}
		var reply []byte
		var out []int
		if greeted = true; head.Verb == wire.Hello {
			h.mu.Lock()
			hello := h.hello
			h.mu.Unlock()
			reply = encode(h.t, head, &hello)
		} else {
			h.mu.Lock()
			answer := h.answer
			h.mu.Unlock()
			reply, out = answer(head, body, fds)
		}
		seqpacket.CloseAll(fds)
		if reply == nil {
			return
		}
		err = c.Send(reply, out...)
		seqpacket.CloseAll(out)
		if err != nil {
			return
		}
	}
}

func encode(t *testing.T, h wire.Header, m wire.Message) []byte {
	b, err := wire.Encode(h.Verb+1, h.Sequence, m)
	if err != nil {
		t.Error(err)
	}
	return b
}

func dial(t *testing.T, h *helper) *Client {
	t.Helper()
	c, err := Dial(h.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

var (
	ctx = context.Background()
	id  = strings.Repeat("0a", 32)
)

// memory is an fd to send: the read end of a pipe with text in it.
func memory(t *testing.T, text string) int {
	p := make([]int, 2)
	if err := unix.Pipe2(p, unix.O_CLOEXEC); err != nil {
		t.Error(err)
	}
	unix.Write(p[1], []byte(text))
	unix.Close(p[1])
	return p[0]
}

func TestHello(t *testing.T) {
	h := newHelper(t, nil)
	c := dial(t, h)
	if c.Features() != h.hello {
		t.Errorf("%+v, want %+v", c.Features(), h.hello)
	}
	h.change(func() { h.hello.Answer = wire.Answer{Code: wire.Invalid, Message: "protocol version 1, want 2"} })
	_, err := Dial(h.path)
	if !IsCode(err, wire.Invalid) || err.Error() != "protocol version 1, want 2" {
		t.Errorf("a refused hello: %v", err)
	}
	if _, err := Dial(h.path + "x"); err == nil {
		t.Error("nobody answered, and it was no error")
	}
}

// Every verb sends what it was given and returns what came.
func TestVerbs(t *testing.T) {
	var pod plan.PodPlan
	fill.Fill(&pod, fill.Rules{"HostIP": "::1", "Hostname": "h"})
	ctr := plan.Plan{Class: plan.System, Args: []string{"a"}, Cwd: "/", PID: plan.NamespacePod, Seccomp: plan.Profile{Kind: 1}, AppArmor: plan.Profile{Kind: 1}}
	exec := plan.ExecPlan{Args: []string{"a"}, Stdin: true, Stderr: true}
	tty := plan.ExecPlan{Args: []string{"a"}, Stdin: true, Stdout: true, TTY: true}
	res := plan.Resources{Memory: 7}
	var claims plan.Claims
	fill.Fill(&claims, nil)
	entries := []wire.Entry{}
	for i := range 5 {
		entries = append(entries, wire.Entry{Kind: wire.EntryPod, Handle: fmt.Sprintf("%064x", i+1), State: wire.StateReady})
	}
	check := func(ok bool, what string, got any) {
		if !ok {
			t.Errorf("%s: %+v", what, got)
		}
	}
	h := newHelper(t, func(head wire.Header, body []byte, fds []int) ([]byte, []int) {
		var planBytes []byte
		if len(fds) > 0 {
			b, err := wire.ReadMemfd(fds[0])
			check(err == nil && len(fds) == 1, "memfd", err)
			var cb []byte
			planBytes, cb, err = wire.SplitSections(b)
			check(err == nil, "sections", err)
			got, err := plan.DecodeClaims(cb)
			check(err == nil && reflect.DeepEqual(got, claims), "claims", got)
		}
		switch head.Verb {
		case wire.PodCreate:
			got, err := plan.DecodePod(planBytes)
			check(err == nil && reflect.DeepEqual(got, pod), "pod plan", got)
			return encode(t, head, &wire.PodCreateAnswer{Pod: id, IPs: []string{"10.0.0.1"}, Cgroup: "c"}), nil
		case wire.PodDelete:
			return encode(t, head, &wire.PodDeleteAnswer{Deferred: true}), nil
		case wire.PodSocket:
			return encode(t, head, &wire.PodSocketAnswer{}), []int{memory(t, "socket")}
		case wire.CtrCreate:
			got, err := plan.DecodeContainer(planBytes)
			check(err == nil && reflect.DeepEqual(got, ctr), "container plan", got)
			return encode(t, head, &wire.CtrCreateAnswer{Container: id, Notes: []string{"n"}}), nil
		case wire.CtrExec:
			got, err := plan.DecodeExec(planBytes)
			check(err == nil, "exec plan", err)
			if got.TTY {
				return encode(t, head, &wire.CtrExecAnswer{Exec: id}), []int{memory(t, "pty")}
			}
			return encode(t, head, &wire.CtrExecAnswer{Exec: id}), []int{memory(t, "one"), memory(t, "two")}
		case wire.CtrUpdate:
			q := &wire.CtrUpdateRequest{}
			err := wire.Decode(body, q)
			got, derr := plan.DecodeResources(q.Resources)
			check(err == nil && derr == nil && reflect.DeepEqual(got, res), "resources", got)
			return encode(t, head, &wire.CtrUpdateAnswer{}), nil
		case wire.CtrSignal:
			q := &wire.CtrSignalRequest{}
			err := wire.Decode(body, q)
			check(err == nil && *q == wire.CtrSignalRequest{Target: id, Signal: 9, All: true}, "signal", q)
			return encode(t, head, &wire.CtrSignalAnswer{}), nil
		case wire.CtrUsage:
			return encode(t, head, &wire.CtrUsageAnswer{Bytes: 1, Inodes: 2}), nil
		case wire.List:
			q := &wire.ListRequest{}
			check(wire.Decode(body, q) == nil, "list", q)
			ans := &wire.ListAnswer{}
			for _, e := range entries {
				if e.Handle > q.After {
					ans.More = len(ans.Entries) == 2
					if ans.More {
						break
					}
					ans.Entries = append(ans.Entries, e)
				}
			}
			return encode(t, head, ans), nil
		default:
			return encode(t, head, &wire.CtrStartAnswer{}), nil
		}
	})
	c := dial(t, h)
	p, err := c.PodCreate(ctx, pod, claims)
	check(err == nil && p.Pod == id && p.IPs[0] == "10.0.0.1" && p.Cgroup == "c", "PodCreate", err)
	deferred, err := c.PodDelete(ctx, id)
	check(err == nil && deferred, "PodDelete", err)
	f, err := c.PodSocket(ctx, id, wire.SocketTCP4)
	check(err == nil, "PodSocket", err)
	b, _ := io.ReadAll(f)
	check(string(b) == "socket", "PodSocket fd", string(b))
	f.Close()
	k, err := c.CtrCreate(ctx, id, ctr, claims)
	check(err == nil && k.Container == id && k.Notes[0] == "n", "CtrCreate", err)
	for want, e := range map[string]plan.ExecPlan{"one two": exec, "pty": tty} {
		a, files, err := c.CtrExec(ctx, id, e, claims)
		check(err == nil && a.Exec == id, "CtrExec", err)
		var got []string
		for _, f := range files {
			b, _ := io.ReadAll(f)
			got = append(got, string(b))
			f.Close()
		}
		check(strings.Join(got, " ") == want, "CtrExec fds", got)
	}
	check(c.CtrUpdate(ctx, id, res) == nil, "CtrUpdate", nil)
	check(c.CtrStart(ctx, id) == nil, "CtrStart", nil)
	check(c.CtrSignal(ctx, id, 9, true) == nil, "CtrSignal", nil)
	check(c.CtrDelete(ctx, id) == nil, "CtrDelete", nil)
	check(c.LogReopen(ctx, id) == nil, "LogReopen", nil)
	u, err := c.CtrUsage(ctx, id)
	check(err == nil && u.Bytes == 1 && u.Inodes == 2, "CtrUsage", err)
	all, err := c.List(ctx)
	check(err == nil && reflect.DeepEqual(all, entries), "List", all)
	h.change(func() {
		if h.dials != 1 {
			t.Errorf("%d connections for requests one by one", h.dials)
		}
	})
}

// What cannot be encoded never reaches the helper.
func TestRefusedBeforeSending(t *testing.T) {
	h := newHelper(t, func(wire.Header, []byte, []int) ([]byte, []int) {
		t.Error("the helper was asked")
		return nil, nil
	})
	c := dial(t, h)
	var many plan.Resources
	for i := range 100 {
		many.Unified = append(many.Unified, plan.Unified{Key: fmt.Sprintf("cpu.%d", i), Value: strings.Repeat("x", 100)})
	}
	_, perr := c.PodCreate(ctx, plan.PodPlan{}, plan.Claims{})
	_, cerr := c.CtrCreate(ctx, id, plan.Plan{}, plan.Claims{})
	_, _, eerr := c.CtrExec(ctx, id, plan.ExecPlan{Args: []string{"\x00"}}, plan.Claims{})
	for name, err := range map[string]error{
		"pod": perr, "container": cerr, "exec": eerr, "resources": c.CtrUpdate(ctx, id, many), "handle": c.CtrStart(ctx, "x"),
		"relative": c.CtrUpdate(ctx, id, plan.Resources{CPUSetCPUs: "\n"}),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestErrors(t *testing.T) {
	denial := wire.Denial{By: "ceiling", Rule: "CEIL-PRIV", Message: "a privileged container is not allowed", Field: "privileged", Remedy: "remove it from the pod"}
	var ans wire.Answer
	var h *helper
	h = newHelper(t, func(head wire.Header, _ []byte, _ []int) ([]byte, []int) {
		m := &wire.CtrStartAnswer{}
		h.change(func() { m.Answer = ans })
		return encode(t, head, m), nil
	})
	c := dial(t, h)
	for code := wire.Denied; code <= wire.Failed; code++ {
		h.change(func() { ans = wire.Answer{Code: code, Message: "because"} })
		err := c.CtrStart(ctx, id)
		var e *Error
		if !errors.As(err, &e) || e.Code != code || e.Verb != wire.CtrStart || !IsCode(fmt.Errorf("more: %w", err), code) {
			t.Errorf("code %d: %v", code, err)
		}
		if code != wire.Denied && err.Error() != "because" {
			t.Errorf("code %d: %q", code, err)
		}
	}
	for want, d := range map[string]wire.Denial{
		"ceiling denied: CEIL-PRIV a privileged container is not allowed (privileged). Fix: remove it from the pod": denial,
		"policy denied: R no": {By: "policy", Rule: "R", Message: "no"},
	} {
		h.change(func() { ans = wire.Answer{Code: wire.Denied, Denial: d} })
		err := c.CtrStart(ctx, id)
		if err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
		var e *Error
		if !errors.As(err, &e) || e.Denial != d {
			t.Errorf("the denial came as %+v", e)
		}
	}
	if IsCode(nil, wire.Denied) || IsCode(io.EOF, wire.OK) {
		t.Error("an error that is no answer has a code")
	}
}

func TestReconnect(t *testing.T) {
	h := newHelper(t, func(head wire.Header, _ []byte, _ []int) ([]byte, []int) {
		return encode(t, head, &wire.CtrStartAnswer{}), nil
	})
	c := dial(t, h)
	for i := range 3 {
		if err := c.CtrStart(ctx, id); err != nil {
			t.Fatalf("after %d restarts: %v", i, err)
		}
		h.stop()
		if i == 1 {
			if err := c.CtrStart(ctx, id); err == nil {
				t.Error("an answer from nobody")
			}
		}
		h.change(func() { h.hello.Generation++ })
		h.start()
		time.Sleep(10 * time.Millisecond)
	}
	if err := c.CtrStart(ctx, id); err != nil {
		t.Fatal(err)
	}
	if c.Features().Generation != h.hello.Generation {
		t.Error("the new generation was not seen")
	}
}
