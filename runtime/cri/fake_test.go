package cri

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-cri/postern/privsep/keeper"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/seqpacket"
	"github.com/postern-cri/postern/privsep/wire"
	"golang.org/x/sys/unix"
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
	slow     time.Duration        // for creations
	lose     func(wire.Verb) bool // whether the answer gets lost
	seen     []string             // every request but HELLO and LIST, where the test keeps them
	keep     bool
	handles  uint64            // counts, where the test keeps requests: the same calls get the same handles
	ips      []string          // of the next pods
	netdev   string            // a pod's /proc/net/dev
	hello    *wire.HelloAnswer // what the privileged side can do, where the test says it
}

func (f *fakeHelper) handle() string {
	if !f.keep {
		return handle()
	}
	f.handles++
	return fmt.Sprintf("%064x", f.handles)
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
		f.mu.Lock()
		lost := f.lose != nil && f.lose(h.Verb)
		f.mu.Unlock()
		if lost {
			seqpacket.CloseAll(out)
			return
		}
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

// note keeps what a request says.
func (f *fakeHelper) note(v wire.Verb, body []byte, fds []int) {
	var r []any
	section := func(decode func([]byte) (any, error)) {
		b, err := wire.ReadMemfd(fds[0])
		must(err)
		p, c, err := wire.SplitSections(b)
		must(err)
		pl, err := decode(p)
		must(err)
		claims, err := plan.DecodeClaims(c)
		must(err)
		claims.RequestID = ""
		r = append(r, pl, claims)
	}
	request := func(m wire.Message) {
		must(wire.Decode(body, m))
		r = append(r, m)
	}
	switch v {
	case wire.PodCreate:
		section(func(b []byte) (any, error) { return plan.DecodePod(b) })
	case wire.CtrCreate:
		request(&wire.CtrCreateRequest{})
		section(func(b []byte) (any, error) { return plan.DecodeContainer(b) })
	case wire.CtrExec:
		request(&wire.CtrExecRequest{})
		section(func(b []byte) (any, error) { return plan.DecodeExec(b) })
	case wire.CtrUpdate:
		var u wire.CtrUpdateRequest
		must(wire.Decode(body, &u))
		res, err := plan.DecodeResources(u.Resources)
		must(err)
		r = append(r, u.Container, res)
	case wire.PodDelete:
		request(&wire.PodDeleteRequest{})
	case wire.CtrStart:
		request(&wire.CtrStartRequest{})
	case wire.CtrSignal:
		request(&wire.CtrSignalRequest{})
	case wire.CtrDelete:
		request(&wire.CtrDeleteRequest{})
	case wire.CtrUsage, wire.LogReopen, wire.PodSocket:
		r = append(r, fmt.Sprintf("%x", body))
	default:
		return
	}
	b, err := json.Marshal(r)
	must(err)
	f.seen = append(f.seen, fmt.Sprintf("verb %d %s", v, b))
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
	if f.keep {
		f.note(v, body, fds)
	}
	var no wire.Answer
	if f.refuse != nil {
		if a := f.refuse(v); a != nil {
			no = *a
		}
	}
	bad := no.Code != wire.OK
	switch v {
	case wire.Hello:
		if f.hello != nil {
			return f.hello, nil
		}
		return &wire.HelloAnswer{Version: wire.Version, Profile: "baseline", CgroupVersion: 1, Features: wire.FeatureNetwork}, nil
	case wire.PodCreate:
		_, err := plan.DecodePod(sections(fds))
		must(err)
		if bad {
			return &wire.PodCreateAnswer{Answer: no}, nil
		}
		time.Sleep(f.slow)
		id := f.handle()
		f.entries[id] = wire.Entry{Kind: wire.EntryPod, Handle: id, State: wire.StateReady, Cgroup: "/pods/" + id}
		return &wire.PodCreateAnswer{Pod: id, IPs: f.ips, Cgroup: "/pods/" + id}, nil
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
		if f.netdev != "" {
			var p [2]int
			must(unix.Pipe2(p[:], unix.O_CLOEXEC))
			_, err := unix.Write(p[1], []byte(f.netdev))
			must(err)
			unix.Close(p[1])
			return &wire.PodSocketAnswer{}, []int{p[0]}
		}
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
		id := f.handle()
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
	id := f.handle()
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
