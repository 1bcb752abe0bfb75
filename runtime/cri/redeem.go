package cri

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"

	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/seqpacket"
	"github.com/postern-cri/postern/privsep/wire"
	"github.com/postern-cri/postern/runtime/ipc"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

type (
	redeemRequest = ipc.RedeemRequest
	redeemAnswer  = ipc.RedeemAnswer
	exitMessage   = ipc.ExitMessage
	exitBody      = ipc.Exit
)

// maxSessions bounds the streaming sessions at a time.
const maxSessions = 512

// ServeGrants answers the streaming server until l is closed. peer says whether
// a connection is the streaming server's.
func (s *Server) ServeGrants(l *seqpacket.Listener, peer func(*unix.Ucred) bool) error {
	slots := make(chan struct{}, maxSessions)
	for {
		c, err := l.Accept()
		if err != nil {
			if errors.Is(err, os.ErrClosed) {
				return nil
			}
			return err
		}
		if u, err := c.Peer(); err != nil || !peer(u) {
			s.log.Warn("a stranger at the grant socket", "peer", u)
			c.Close()
			continue
		}
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			defer c.Close()
			if err := s.session(ipc.New(c)); err != nil && !errors.Is(err, seqpacket.ErrEOF) {
				s.log.Info("streaming session", "error", err)
			}
		}()
	}
}

func (s *Server) session(c *ipc.Conn) error {
	var r redeemRequest
	c.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := c.Recv(&r, 0); err != nil {
		return err
	}
	c.SetDeadline(time.Time{})
	g, ok := s.grants.redeem(r.Grant)
	if r.Op != "redeem" || !ok {
		return c.Send(redeemAnswer{Error: "the grant is unknown, used or too old"})
	}
	switch g.kind {
	case "exec":
		return s.execSession(c, g)
	case "attach":
		return s.attachSession(c, g)
	}
	return s.forwardSession(c, g, r)
}

// answer sends fds by name, and closes them here.
func answer(c *ipc.Conn, names []string, files []*os.File) error {
	defer closeAll(files)
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd())
	}
	return c.Send(redeemAnswer{OK: true, Names: names}, fds...)
}

func text(err error) string { return clip(status.Convert(err).Message(), maxErrorText) }

func (s *Server) execSession(c *ipc.Conn, g *grant) error {
	ctr, err := s.running(g.container)
	if err != nil {
		return c.Send(redeemAnswer{Error: text(err)})
	}
	a, files, err := s.exec(g.ctx, "Exec", ctr, g.exec)
	if err != nil {
		return c.Send(redeemAnswer{Error: text(fail("Exec", err))})
	}
	ended, giveUp := s.exits.exec(a.Exec)
	defer giveUp()
	if err := answer(c, streamNames(g.exec), files); err != nil {
		return err
	}
	// The peer says nothing more; that it closes means that its client is gone.
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		var r redeemRequest
		c.Recv(&r, 0)
	}()
	select {
	case e := <-ended:
		return c.Send(exitMessage{Exit: exitBody{Code: e.Code}})
	case <-gone:
		return nil
	}
}

func streamNames(p plan.ExecPlan) []string {
	if p.TTY {
		return []string{"pty"}
	}
	var names []string
	for _, n := range []struct {
		name string
		on   bool
	}{{"stdin", p.Stdin}, {"stdout", p.Stdout}, {"stderr", p.Stderr}} {
		if n.on {
			names = append(names, n.name)
		}
	}
	return names
}

// attachRequest goes to the log process, which holds the container's streams.
type attachRequest struct {
	Op     string `json:"op"`
	ID     string `json:"id"`
	Stdin  bool   `json:"stdin"`
	Stdout bool   `json:"stdout"`
	Stderr bool   `json:"stderr"`
	TTY    bool   `json:"tty"`
}

func (s *Server) attachSession(c *ipc.Conn, g *grant) error {
	l, err := ipc.Dial(s.logs)
	if err != nil {
		return c.Send(redeemAnswer{Error: "the log process: " + err.Error()})
	}
	defer l.Close()
	var a redeemAnswer
	fds, err := l.Call(10*time.Second, attachRequest{"attach", g.container, g.stdin, g.stdout, g.stderr, g.tty}, &a, 4)
	if err != nil {
		seqpacket.CloseAll(fds)
		return c.Send(redeemAnswer{Error: "the log process: " + err.Error()})
	}
	err = c.Send(a, fds...)
	seqpacket.CloseAll(fds) // a copy of stdin kept here would hide the client's end of file from the container
	if err != nil {
		return err
	}
	ended := s.exits.gone(g.container)
	if _, err := s.running(g.container); err != nil {
		s.exits.wake(g.container)
		return nil
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		var r redeemRequest
		c.Recv(&r, 0)
	}()
	select {
	case <-ended:
	case <-gone:
	}
	return nil
}

// forwardSession connects to ports of the pod as long as the client lives.
func (s *Server) forwardSession(c *ipc.Conn, g *grant, r redeemRequest) error {
	for {
		switch {
		case r.Port == 0:
			if err := c.Send(redeemAnswer{OK: true}); err != nil {
				return err
			}
		case r.Port < 0 || r.Port > 65535 || len(g.ports) > 0 && !slices.Contains(g.ports, r.Port):
			if err := c.Send(redeemAnswer{Error: fmt.Sprintf("port %d was not asked for", r.Port)}); err != nil {
				return err
			}
		default:
			f, err := s.connect(g, uint16(r.Port))
			if err != nil {
				err = c.Send(redeemAnswer{Error: text(fail("PortForward", err))})
			} else {
				err = answer(c, []string{"conn"}, []*os.File{f})
			}
			if err != nil {
				return err
			}
		}
		r = redeemRequest{}
		if _, err := c.Recv(&r, 0); err != nil {
			return err
		}
	}
}

// connect returns a connection to a port of the pod's loopback.
func (s *Server) connect(g *grant, port uint16) (*os.File, error) {
	ctx, cancel := context.WithTimeout(g.ctx, 20*time.Second)
	defer cancel()
	p, err := s.store.Pod(g.pod)
	if err != nil {
		return nil, err
	}
	if p.Network == plan.NamespaceNode {
		d := net.Dialer{Timeout: 10 * time.Second}
		conn, err := d.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			conn, err = d.DialContext(ctx, "tcp", fmt.Sprintf("[::1]:%d", port))
		}
		if err != nil {
			return nil, status.Error(codes.Unknown, err.Error())
		}
		defer conn.Close()
		return conn.(*net.TCPConn).File()
	}
	f, err := s.helper.PodSocket(ctx, p.ID, wire.SocketTCP4)
	if err != nil {
		return nil, err
	}
	err = dialFile(f, &unix.SockaddrInet4{Port: int(port), Addr: [4]byte{127, 0, 0, 1}})
	if err == nil {
		return f, nil
	}
	f.Close()
	f, ferr := s.helper.PodSocket(ctx, p.ID, wire.SocketTCP6)
	if ferr != nil {
		return nil, ferr
	}
	addr := &unix.SockaddrInet6{Port: int(port)}
	addr.Addr[15] = 1
	if dialFile(f, addr) == nil {
		return f, nil
	}
	f.Close()
	return nil, status.Errorf(codes.Unknown, "connecting to port %d in the pod: %v", port, err)
}

// dialFile connects a socket that was made elsewhere, within ten seconds.
func dialFile(f *os.File, to unix.Sockaddr) error {
	fd := int(f.Fd()) // blocking from here
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: 10}); err != nil {
		return err
	}
	for {
		if err := unix.Connect(fd, to); err != unix.EINTR {
			return err
		}
	}
}
