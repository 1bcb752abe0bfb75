package stream

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"github.com/postern-cri/postern/privsep/seqpacket"
	"github.com/postern-cri/postern/runtime/ipc"
)

// Options configure a Server.
type Options struct {
	Control *seqpacket.Listener    // where the front end mints
	Peer    func(*unix.Ucred) bool // whether a connection there is the front end's
	Clients net.Listener           // where clients come
	Grants  string                 // path of the socket where grants are redeemed
	Idle    time.Duration          // leave after so long without a session
	Printf  func(string, ...any)   // the process's own log; may be nil
}

// Server is the streaming server.
type Server struct {
	opts     Options
	sessions *table
	library  streaming.Server
	http     *http.Server
	base     string
}

// New returns a server for opts.
func New(opts Options) (*Server, error) {
	if opts.Printf == nil {
		opts.Printf = func(string, ...any) {}
	}
	s := &Server{opts: opts, sessions: newTable()}
	host := opts.Clients.Addr().String()
	if a, ok := opts.Clients.Addr().(*net.TCPAddr); ok && a.IP.IsUnspecified() {
		loopback := net.IPv4(127, 0, 0, 1)
		if a.IP.To4() == nil {
			loopback = net.IPv6loopback
		}
		host = (&net.TCPAddr{IP: loopback, Port: a.Port}).String()
	}
	s.base = "http://" + host
	config := streaming.DefaultConfig
	config.Addr = host
	config.BaseURL = &url.URL{Scheme: "http", Host: host}
	var err error
	if s.library, err = streaming.NewServer(config, &executor{s}); err != nil {
		return nil, fmt.Errorf("making the streaming server: %w", err)
	}
	s.http = &http.Server{
		Handler: s, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10,
		ErrorLog: log.New(os.Stderr, "postern-streamd: ", 0),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
	}
	return s, nil
}

// Serve serves until nothing has happened for opts.Idle, or a listener fails.
func (s *Server) Serve() error {
	failed := make(chan error, 1)
	go func() {
		failed <- s.http.Serve(&watchedListener{Listener: s.opts.Clients, slots: make(chan struct{}, 2*maxActive)})
	}()
	defer s.http.Close()
	for {
		select {
		case err := <-failed:
			return fmt.Errorf("serving clients: %w", err)
		default:
		}
		// Who accepts also decides to leave: a request that came meanwhile stays in
		// the listener's queue for the next process.
		s.opts.Control.SetDeadline(time.Now().Add(time.Second))
		c, err := s.opts.Control.Accept()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if s.sessions.idle() >= s.opts.Idle {
				return nil
			}
			continue
		}
		if err != nil {
			return err
		}
		s.control(c)
	}
}

type (
	mintRequest = ipc.MintRequest
	mintAnswer  = ipc.MintAnswer
)

// control serves one connection of the front end, which sends its request at
// once: it is the one peer, and waiting for it holds up nobody else.
func (s *Server) control(c *seqpacket.Conn) {
	defer c.Close()
	if u, err := c.Peer(); err != nil || !s.opts.Peer(u) {
		s.opts.Printf("a stranger at the control socket: %+v", u)
		return
	}
	conn := ipc.New(c)
	c.SetDeadline(time.Now().Add(5 * time.Second))
	for {
		var r mintRequest
		if _, err := conn.Recv(&r, 0); err != nil {
			if !errors.Is(err, seqpacket.ErrEOF) {
				s.opts.Printf("receiving a request: %v", err)
			}
			return
		}
		a := mintAnswer{OK: true}
		var err error
		if a.URL, err = s.mint(&r); err != nil {
			a = mintAnswer{Error: err.Error()}
		}
		if err := conn.Send(a); err != nil {
			return
		}
	}
}

// mint makes a URL for r. The library is told of the session under our token in
// place of a container's name, and its own short token never leaves the process.
func (s *Server) mint(r *mintRequest) (string, error) {
	if r.Op != "mint" {
		return "", fmt.Errorf("unknown operation %q", r.Op)
	}
	if len(r.Grant) == 0 || len(r.Grant) > 128 {
		return "", errors.New("bad grant")
	}
	n := &session{token: newToken(), grant: r.Grant, kind: r.Kind, tty: r.TTY,
		stdin: r.Stdin, stdout: r.Stdout, stderr: r.Stderr && !r.TTY}
	var inner string
	switch r.Kind {
	case kindExec:
		a, err := s.library.GetExec(&cri.ExecRequest{ContainerId: n.token, Tty: n.tty, Stdin: n.stdin, Stdout: n.stdout, Stderr: n.stderr})
		if err != nil {
			return "", err
		}
		inner = a.Url
	case kindAttach:
		a, err := s.library.GetAttach(&cri.AttachRequest{ContainerId: n.token, Tty: n.tty, Stdin: n.stdin, Stdout: n.stdout, Stderr: n.stderr})
		if err != nil {
			return "", err
		}
		inner = a.Url
	case kindForward:
		a, err := s.library.GetPortForward(&cri.PortForwardRequest{PodSandboxId: n.token, Port: r.Ports})
		if err != nil {
			return "", err
		}
		inner = a.Url
	default:
		return "", fmt.Errorf("unknown kind %q", r.Kind)
	}
	u, err := url.Parse(inner)
	if err != nil {
		return "", fmt.Errorf("the library's URL: %w", err)
	}
	n.path = u.Path
	if err := s.sessions.add(n); err != nil {
		return "", err
	}
	return s.base + "/" + string(n.kind) + "/" + n.token, nil
}

// ServeHTTP serves a client with a token. Whoever has none learns nothing.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k, token, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	conn, ok := r.Context().Value(connKey{}).(*watchedConn)
	n := s.sessions.take(kind(k), token)
	if n == nil || !ok {
		http.NotFound(w, r)
		return
	}
	n.conn, n.gone = conn, conn.gone
	n.websocket = wsstream.IsWebSocketRequest(r)
	defer func() {
		s.sessions.done(n)
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.granted != nil {
			n.granted.Close()
		}
	}()
	if k != string(kindForward) && wsstream.IsWebSocketRequestWithStreamCloseProtocol(r) {
		s.serveV5(w, r, n)
		return
	}
	if k == string(kindForward) && wsstream.IsWebSocketRequestWithTunnelingProtocol(r) {
		n.websocket = false // what is inside has half-closes
		s.serveTunnel(w, r, n, conn)
		return
	}
	r = r.Clone(r.Context())
	r.URL.Path, r.URL.RawPath = n.path, ""
	s.library.ServeHTTP(w, r)
}
