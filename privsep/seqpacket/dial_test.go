package seqpacket

import (
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A service that hangs, or that was taken over and lets nobody in, must not hang
// who dials it: the connect itself has to end when its queue is full.
func TestDialFullBacklog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(l)
	done := make(chan error)
	go func() {
		for {
			c, err := Dial(path)
			if err != nil {
				done <- err
				return
			}
			c.Close() // what waits in the queue stays there
		}
	}()
	select {
	case err := <-done:
		t.Log(err)
	case <-time.After(time.Minute):
		t.Fatal("dialling blocks")
	}
	// It serves again: so does the dial.
	if _, _, err := unix.Accept(l); err != nil {
		t.Fatal(err)
	}
	c, err := Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}
