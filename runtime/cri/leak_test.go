package cri

import (
	"context"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/seqpacket"
	"github.com/postern-cri/postern/privsep/wire"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// held counts goroutines and fds.
func held() (goroutines, fds int) {
	ents, _ := os.ReadDir("/proc/self/fd")
	return runtime.NumGoroutine(), len(ents)
}

// TestFailedExecs: those that are refused, those whose caller gives up and those
// whose client never comes or comes in vain leave no goroutine and no fd.
func TestFailedExecs(t *testing.T) {
	w := newWorld(t)
	w.fakeStreamer(t)
	_, ctr := w.runPod(t, "failing")
	killed := make(chan struct{}, 1)
	w.helper.onExec(func(_ string, _ plan.ExecPlan, fds []int) { // it runs until it is killed
		<-killed
		seqpacket.CloseAll(fds)
	})
	refuse := func(n int) {
		t.Helper()
		w.helper.onAny(func(v wire.Verb) *wire.Answer {
			if v == wire.CtrExec {
				return &wire.Answer{Code: wire.Failed, Message: "no such program"}
			}
			return nil
		})
		for k := range n {
			if _, err := w.runtime.ExecSync(t.Context(), &cri.ExecSyncRequest{ContainerId: ctr, Cmd: []string{"x"}}); err == nil {
				t.Fatal("a command that cannot be started succeeded")
			}
			if k%8 > 0 {
				continue
			}
			a, err := w.runtime.Exec(t.Context(), &cri.ExecRequest{ContainerId: ctr, Cmd: []string{"x"}, Stdout: true})
			if err != nil {
				t.Fatal(err)
			}
			if k%16 > 0 {
				continue // nobody comes
			}
			c, ans, fds := w.redeem(t, a.Url[strings.LastIndexByte(a.Url, '/')+1:], 0)
			if ans.OK || len(fds) > 0 {
				t.Fatal(ans, fds)
			}
			c.Close()
		}
		w.helper.onAny(nil)
		for range n / 50 {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			if _, err := w.runtime.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: ctr, Cmd: []string{"x"}}); err == nil {
				t.Fatal("a command that runs for ever has ended")
			}
			cancel()
			select {
			case killed <- struct{}{}:
			default: // the one before did not get as far
			}
		}
	}
	refuse(100)
	goroutines, fds := held()
	refuse(2000)
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		g, f := held()
		if g <= goroutines+10 && f <= fds+10 {
			return
		}
		if time.Now().After(end) {
			b := make([]byte, 1<<20)
			t.Fatalf("%d goroutines and %d fds, %d and %d before\n%s", g, f, goroutines, fds, b[:runtime.Stack(b, true)])
		}
	}
}
