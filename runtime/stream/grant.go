package stream

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/seqpacket"
	"github.com/postern-cri/postern/runtime/ipc"
)

const (
	// redeemTime covers the decision and the start of a command.
	redeemTime = 2 * time.Minute
	maxFDs     = 4
)

type (
	redeemRequest = ipc.RedeemRequest
	redeemAnswer  = ipc.RedeemAnswer
	exitMessage   = ipc.ExitMessage
)

// granted is a redeemed grant. As long as it is open the front end knows that
// the client is there.
type granted struct {
	*ipc.Conn
	files map[string]*os.File
}

// redeem opens a grant: port is a port-forward's, else 0.
func (s *Server) redeem(n *session, port int32) (*granted, error) {
	c, err := ipc.Dial(s.opts.Grants)
	if err != nil {
		return nil, fmt.Errorf("asking for the session: %w", err)
	}
	g := &granted{Conn: c}
	if g.files, err = g.ask(redeemRequest{Op: "redeem", Grant: n.grant, Port: port}); err != nil {
		c.Close()
		return nil, err
	}
	return g, nil
}

// ask returns the files of an answer by name, ready for the poller.
func (g *granted) ask(r redeemRequest) (map[string]*os.File, error) {
	var a redeemAnswer
	fds, err := g.Call(redeemTime, r, &a, maxFDs)
	if err != nil {
		return nil, fmt.Errorf("asking for the session: %w", err)
	}
	if !a.OK || len(a.Names) != len(fds) {
		seqpacket.CloseAll(fds)
		if a.Error == "" {
			a.Error = "the answer makes no sense"
		}
		return nil, errors.New(a.Error)
	}
	files := map[string]*os.File{}
	for i, name := range a.Names {
		if err := unix.SetNonblock(fds[i], true); err != nil || files[name] != nil {
			seqpacket.CloseAll(fds[i:])
			closeFiles(files)
			return nil, errors.New("the session's fds make no sense")
		}
		files[name] = os.NewFile(uintptr(fds[i]), name)
	}
	return files, nil
}

// Close gives everything back.
func (g *granted) Close() error {
	closeFiles(g.files)
	return g.Conn.Close()
}

func closeFiles(files map[string]*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// exit waits for the command's end.
func (g *granted) exit() (int32, error) {
	var m exitMessage
	if _, err := g.Recv(&m, 0); err != nil {
		return 0, fmt.Errorf("exit status is not known: %w", err)
	}
	if m.Exit.Error != "" {
		return 0, errors.New(m.Exit.Error)
	}
	return m.Exit.Code, nil
}
