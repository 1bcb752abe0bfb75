package logd

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/keeper"
	"github.com/postern-cri/postern/privsep/layout"
	"github.com/postern-cri/postern/privsep/seqpacket"
)

// Fds that init hands over.
const (
	FDListener = 3
	FDRestore  = 4
	FDs        = 2
)

// Serve is the log process after it was confined: it takes back what init keeps
// and serves until it fails.
func Serve(users layout.Users) error {
	printf := func(format string, args ...any) { fmt.Fprintf(os.Stderr, "postern-logd: "+format+"\n", args...) }
	conn, err := seqpacket.NewConn(FDRestore)
	if err != nil {
		return err
	}
	sets, err := keeper.Restore(conn)
	if err != nil {
		return err
	}
	kept := keeper.NewClient(conn)
	d, err := New(Options{
		Listener: FDListener,
		Peer: func(c *unix.Ucred) Peer {
			switch c.Uid {
			case 0:
				return Helper
			case users.Front.UID:
				return Front
			}
			return Nobody
		},
		Drop:   kept.Drop,
		Printf: printf,
	})
	if err != nil {
		return err
	}
	for _, s := range sets {
		if err := d.Restore(s.Key, s.Meta, s.FDs, s.Index); err != nil {
			printf("%v", err)
		}
	}
	return d.Run()
}
