package helper

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/seqpacket"
	"github.com/postern-cri/postern/privsep/wire"
)

// A client that opens what it can has maxConns connections and no more, and its
// next one when it closes one.
func TestConnectionLimit(t *testing.T) {
	b := newBench(t)
	var all []*seqpacket.Conn
	hello := func() (*seqpacket.Conn, error) {
		c, err := seqpacket.Dial(b.path)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(time.Minute))
		_, err = peer{t, c}.say(wire.Hello, &wire.HelloRequest{Version: wire.Version})
		return c, err
	}
	refused := 0
	for range maxConns + 20 {
		c, err := hello()
		if err != nil {
			refused++
			c.Close()
			continue
		}
		all = append(all, c)
	}
	if len(all) > maxConns || len(all) < maxConns-2 || refused < 20 {
		t.Errorf("%d connections and %d refused, want %d at most", len(all), refused, maxConns)
	}
	for _, c := range all {
		c.Close()
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		c, err := hello()
		c.Close()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal("no connection after all were closed:", err)
		}
	}
}

// A denial is in the audit log whatever the request says: a text that is long,
// and longer still when it is quoted, cannot push the record over its limit (the
// world's Commit fails the test then).
func TestDenialAlwaysRecorded(t *testing.T) {
	b := newBench(t)
	long := strings.Repeat("\x01", 4000)
	pod, err := b.cl.PodCreate(context.Background(), smallPod("u1"), plan.Claims{})
	if err != nil {
		t.Fatal(err)
	}
	p := smallCtr()
	p.Mounts = []plan.Mount{{From: plan.Place{Root: plan.RootPodFile, Name: "x", Rel: long}, To: "/" + long, Propagation: plan.Private}}
	name := strings.Repeat("\x01", 253)
	_, err = b.cl.CtrCreate(context.Background(), pod.Pod, p, plan.Claims{ImageRef: long, PodName: name, Namespace: name, PodUID: name, Container: name, RequestID: name})
	if err == nil || !strings.Contains(err.Error(), "CEIL-MOUNT") {
		t.Errorf("error %v", err)
	}
}
