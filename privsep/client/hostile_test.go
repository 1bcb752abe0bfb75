package client

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-cri/postern/fuzz/fill"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/seqpacket"
	"github.com/postern-cri/postern/privsep/wire"
)

// A request that the helper may have begun is not sent a second time.
func TestNotSentTwice(t *testing.T) {
	var n atomic.Int32
	h := newHelper(t, func(wire.Header, []byte, []int) ([]byte, []int) { n.Add(1); return nil, nil })
	c := dial(t, h)
	if err := c.CtrStart(ctx, id); !errors.Is(err, seqpacket.ErrEOF) {
		t.Errorf("%v", err)
	}
	if n.Load() != 1 {
		t.Errorf("sent %d times", n.Load())
	}
}

// Fds that nobody asked for, and answers to something else, are a violation: the
// connection is given up and the fds are closed.
func TestHostileHelper(t *testing.T) {
	count := func() int { e, _ := os.ReadDir("/proc/self/fd"); return len(e) }
	for name, reply := range map[string]func(wire.Header) ([]byte, []int){
		"surplus fds": func(h wire.Header) ([]byte, []int) {
			return encode(t, h, &wire.CtrStartAnswer{}), []int{memory(t, "x"), memory(t, "x")}
		},
		"wrong sequence": func(h wire.Header) ([]byte, []int) { h.Sequence++; return encode(t, h, &wire.CtrStartAnswer{}), nil },
		"wrong verb":     func(h wire.Header) ([]byte, []int) { h.Verb += 2; return encode(t, h, &wire.CtrStartAnswer{}), nil },
		"left-over byte": func(h wire.Header) ([]byte, []int) {
			return append(encode(t, h, &wire.CtrStartAnswer{}), 0), []int{memory(t, "x")}
		},
		"no body":   func(h wire.Header) ([]byte, []int) { return encode(t, h, &wire.PodCreateRequest{}), nil },
		"garbage":   func(wire.Header) ([]byte, []int) { return []byte("x"), nil },
		"too large": func(wire.Header) ([]byte, []int) { return make([]byte, wire.MaxAnswer+1), nil },
	} {
		h := newHelper(t, func(head wire.Header, _ []byte, _ []int) ([]byte, []int) { return reply(head) })
		c := dial(t, h)
		before := count()
		if err := c.CtrStart(ctx, id); err == nil || IsCode(err, wire.OK) {
			t.Errorf("%s: %v", name, err)
		}
		if len(c.idle) != 0 {
			t.Errorf("%s: the connection is used again", name)
		}
		n := count()
		for end := time.Now().Add(time.Minute); n > before && time.Now().Before(end); n = count() { // the fake closes its own
			time.Sleep(time.Millisecond)
		}
		if n > before {
			t.Errorf("%s: %d fds open, %d before", name, n, before)
		}
		h.stop()
	}
	h := newHelper(t, func(head wire.Header, _ []byte, _ []int) ([]byte, []int) {
		return encode(t, head, &wire.CtrExecAnswer{Exec: id}), []int{memory(t, "x")}
	})
	c := dial(t, h)
	if _, _, err := c.CtrExec(ctx, id, plan.ExecPlan{Args: []string{"a"}, Stdin: true, Stdout: true}, plan.Claims{}); err == nil {
		t.Error("one fd of two was enough")
	}
	// An answer other than OK carries no fds to the caller.
	h.change(func() {
		h.answer = func(head wire.Header, _ []byte, _ []int) ([]byte, []int) {
			return encode(t, head, &wire.PodSocketAnswer{Answer: wire.Answer{Code: wire.Denied}}), []int{memory(t, "x")}
		}
	})
	if f, err := c.PodSocket(ctx, id, wire.SocketTCP4); err == nil || f != nil {
		t.Errorf("%v, %v", f, err)
	}
}

func TestCancel(t *testing.T) {
	release := make(chan bool)
	h := newHelper(t, func(head wire.Header, _ []byte, _ []int) ([]byte, []int) {
		if head.Verb == wire.CtrStart {
			<-release
		}
		return encode(t, head, &wire.CtrDeleteAnswer{}), nil
	})
	c := dial(t, h)
	for name, make := range map[string]func() (context.Context, context.CancelFunc){
		"cancel": func() (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(30*time.Millisecond, cancel)
			return ctx, cancel
		},
		"deadline": func() (context.Context, context.CancelFunc) { return context.WithTimeout(ctx, 30*time.Millisecond) },
	} {
		ctx, cancel := make()
		begin := time.Now()
		err := c.CtrStart(ctx, id)
		if err == nil || time.Since(begin) > time.Minute {
			t.Errorf("%s: %v after %v", name, err, time.Since(begin))
		}
		cancel()
	}
	// All slots taken: a waiting caller can be cancelled too.
	for range maxConns {
		c.slots <- struct{}{}
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if err := c.CtrDelete(gone, id); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	for range maxConns {
		<-c.slots
	}
	close(release)
	if err := c.CtrDelete(ctx, id); err != nil {
		t.Errorf("after the cancelled ones: %v", err)
	}
}

// TestLanes: pods whose network plugins hang, however many, keep nobody from what
// runs.
func TestLanes(t *testing.T) {
	release := make(chan bool)
	h := newHelper(t, func(head wire.Header, _ []byte, _ []int) ([]byte, []int) {
		switch head.Verb {
		case wire.PodCreate:
			<-release
			return encode(t, head, &wire.PodCreateAnswer{Pod: id}), nil
		case wire.PodDelete:
			<-release
			return encode(t, head, &wire.PodDeleteAnswer{}), nil
		}
		return encode(t, head, &wire.CtrDeleteAnswer{}), nil
	})
	c := dial(t, h)
	var pod plan.PodPlan
	fill.Fill(&pod, fill.Rules{"HostIP": "::1", "Hostname": "h"})
	var wg sync.WaitGroup
	for range 2 * maxConns {
		wg.Go(func() {
			if _, err := c.PodCreate(ctx, pod, plan.Claims{}); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if _, err := c.PodDelete(ctx, id); err != nil {
				t.Error(err)
			}
		})
	}
	for end := time.Now().Add(time.Minute); len(c.slots) < lanes[wire.PodCreate]+lanes[wire.PodDelete]; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d requests under way", len(c.slots))
		}
	}
	if err := c.CtrDelete(ctx, id); err != nil {
		t.Error(err)
	}
	close(release)
	wg.Wait()
}

// However many callers there are, at most maxConns requests are under way, and
// cancelling some disturbs no other.
func TestConcurrency(t *testing.T) {
	var mu sync.Mutex
	now, most := 0, 0
	h := newHelper(t, func(head wire.Header, body []byte, _ []int) ([]byte, []int) {
		q := &wire.CtrUsageRequest{}
		if err := wire.Decode(body, q); err != nil {
			t.Error(err)
		}
		var n uint64
		fmt.Sscanf(q.Container, "%x", &n)
		counts := n/100%4 != 0 // one that is cancelled may be at work in the helper still, while its place is another's
		if counts {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
		}
		time.Sleep(time.Millisecond)
		if counts {
			mu.Lock()
			now--
			mu.Unlock()
		}
		return encode(t, head, &wire.CtrUsageAnswer{Bytes: n}), nil
	})
	c := dial(t, h)
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			for k := range 20 {
				want := uint64(i*100 + k)
				ctx, cancel := context.WithCancel(ctx)
				if i%4 == 0 {
					time.AfterFunc(time.Millisecond, cancel)
				}
				u, err := c.CtrUsage(ctx, fmt.Sprintf("%064x", want))
				if i%4 != 0 && (err != nil || u.Bytes != want) {
					t.Errorf("%d: %+v, %v", want, u, err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	mu.Lock()
	defer mu.Unlock()
	if most > maxConns {
		t.Errorf("%d requests at once", most)
	}
	if len(c.idle) > 2 {
		t.Errorf("%d idle connections", len(c.idle))
	}
}
