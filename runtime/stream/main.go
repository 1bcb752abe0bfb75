package stream

import (
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/layout"
	"github.com/postern-cri/postern/privsep/seqpacket"
)

// Fds that init hands over.
const (
	FDControl = 3
	FDClients = 4
	FDs       = 2
)

// idleTime is how long the process stays without a session.
const idleTime = time.Minute

// Main is the streaming server after it was confined. It returns nil when it has
// nothing to do: init starts it again when somebody knocks.
func Main(l layout.Layout, users layout.Users) error {
	control, err := seqpacket.NewListener(FDControl)
	if err != nil {
		return err
	}
	f := os.NewFile(FDClients, "clients")
	clients, err := net.FileListener(f)
	if err != nil {
		return fmt.Errorf("taking the listener over: %w", err)
	}
	f.Close()
	s, err := New(Options{
		Control: control, Clients: clients, Grants: l.GrantSocket(), Idle: idleTime,
		Peer:   func(c *unix.Ucred) bool { return c.Uid == users.Front.UID },
		Printf: func(format string, args ...any) { fmt.Fprintf(os.Stderr, "postern-streamd: "+format+"\n", args...) },
	})
	if err != nil {
		return err
	}
	return s.Serve()
}
