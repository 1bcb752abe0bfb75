package tree

import (
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/keeper/message"
)

func deaf(t *testing.T, channel string) (*slot, int) {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(p[0]); unix.Close(p[1]) })
	return &slot{Process: Process{FDs: []FD{{Type: channel}}}, PIDs: map[int]time.Time{}, Chan: p[0]}, p[1]
}

// A log process that asks without end and reads no answer takes nothing of init's
// memory: its next request is not read.
func TestAskerThatDoesNotRead(t *testing.T) {
	s, peer := deaf(t, "restore")
	tr := &Tree{kept: map[string]*set{}, exits: map[string]message.Exit{}}
	b, err := message.Request{Op: message.Drop, Key: key(1)}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for range 20000 {
		unix.Sendmsg(peer, b, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		poll := []unix.PollFd{{Fd: int32(s.Chan), Events: s.events()}}
		if n, _ := unix.Poll(poll, 0); n > 0 {
			tr.serve(s)
		}
	}
	if len(s.outbox) > 1 {
		t.Errorf("%d answers wait", len(s.outbox))
	}
}

// A front end that does not read exits is replaced before they fill init.
func TestFrontThatDoesNotRead(t *testing.T) {
	s, _ := deaf(t, "exits")
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.PIDs[cmd.Process.Pid] = time.Now()
	tr := &Tree{slots: []*slot{s}, kept: map[string]*set{}, exits: map[string]message.Exit{}}
	e := message.Exit{Key: key(1)}.Encode()
	for range maxOutbox + 2000 {
		tr.send(s, packet{b: e})
	}
	if len(s.outbox) > maxOutbox {
		t.Errorf("%d exits wait", len(s.outbox))
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case <-done:
	case <-time.After(patience):
		t.Error("it still runs")
		cmd.Process.Kill()
	}
}
