package cri

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/ceiling"
	"github.com/postern-cri/postern/privsep/gate"
	"github.com/postern-cri/postern/privsep/keeper"
	"github.com/postern-cri/postern/privsep/layout"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/seqpacket"
	"github.com/postern-cri/postern/runtime/cdi"
	"github.com/postern-cri/postern/runtime/image/client"
	"github.com/postern-cri/postern/runtime/stats"
	"github.com/postern-cri/postern/runtime/store"
)

// Fds that init hands over.
const (
	FDListener = 3
	FDExits    = 4
	FDGrants   = 5
	FDs        = 3
)

// Main is posternd after it was confined. It returns when it is told to stop.
func Main(l layout.Layout, users layout.Users, version string, rlimits []plan.Rlimit) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	f := os.NewFile(FDListener, "cri")
	listener, err := net.FileListener(f)
	f.Close()
	if err != nil {
		return fmt.Errorf("taking the CRI listener over: %w", err)
	}
	exits, err := seqpacket.NewConn(FDExits)
	if err != nil {
		return fmt.Errorf("taking the exits channel over: %w", err)
	}
	grants, err := seqpacket.NewListener(FDGrants)
	if err != nil {
		return fmt.Errorf("taking the grant listener over: %w", err)
	}
	limits, err := ceiling.Load(l.Ceiling())
	if err != nil {
		return err
	}
	st, err := store.Open(filepath.Join(l.FrontState(), "state"), log)
	if err != nil {
		return err
	}
	defer st.Close()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	boundary, err := waitHelper(ctx, l.HelperSocket(), log)
	if err != nil {
		return err
	}
	s := New(Options{
		Helper: boundary, Policy: gate.NewPolicy(l.PolicySocket()), Audit: gate.NewAudit(l.AuditSocket()),
		Images: ImageStore{client.New(l)}, Store: st, Places: CeilingPlaces{limits},
		Cgroups: stats.New("/sys/fs/cgroup"), Handlers: limits.Handlers, Runtimes: limits.Runtimes, Systemd: limits.Systemd, Users: OpenUsers(l.Layers()), CDI: cdi.In(cdi.Dirs(l)), Rlimits: rlimits,
		Stream: l.StreamSocket(), Logs: l.LogSocket(), StateDir: l.BoxState(), Version: version, Log: log,
	})
	replayed := make(chan struct{})
	go s.readExits(exits, replayed)
	select {
	case <-replayed:
	case <-time.After(10 * time.Second):
		log.Error("init has not sent the retained exits: what ended meanwhile will be said to have ended unknown")
	case <-ctx.Done():
		return nil
	}
	for {
		if err = s.Reconcile(ctx); err == nil {
			break
		}
		log.Error("finding out what runs", "error", err)
		if !pause(ctx, time.Second) {
			return nil
		}
	}
	go s.Run(ctx)
	go func() {
		if err := s.ServeGrants(grants, func(u *unix.Ucred) bool { return u.Uid == users.Stream.UID }); err != nil {
			log.Error("serving grants", "error", err)
		}
	}()
	g := s.GRPC()
	go func() {
		<-ctx.Done()
		// A request that is under way gets a moment; the containers do not need us.
		timer := time.AfterFunc(3*time.Second, g.Stop)
		defer timer.Stop()
		g.GracefulStop()
	}()
	log.Info("serving", "pods", len(st.Pods()), "containers", len(st.Containers("")), "ceiling", limits.Profile)
	if err := Serve(g, listener); err != nil {
		return err
	}
	s.flushReads(context.Background())
	return nil
}

// waitHelper connects to the privileged side, which may be starting too.
func waitHelper(ctx context.Context, path string, log *slog.Logger) (*Boundary, error) {
	for n := 0; ; n++ {
		b, err := DialHelper(path)
		if err == nil {
			return b, nil
		}
		if n%20 == 0 {
			log.Warn("the privileged side does not answer yet", "error", err)
		}
		if !pause(ctx, 250*time.Millisecond) {
			return nil, errors.New("stopped while waiting for the privileged side")
		}
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// readExits takes the reports of init: first everything that it retained, then
// an empty one, then what happens. When init is gone so is the reason to live:
// it starts us again.
func (s *Server) readExits(c *seqpacket.Conn, replayed chan<- struct{}) {
	buf := make([]byte, keeper.ExitLen+1)
	for {
		n, fds, err := c.Recv(buf)
		seqpacket.CloseAll(fds)
		if err != nil {
			s.log.Error("the exits channel", "error", err)
			os.Exit(1)
		}
		e, err := keeper.DecodeExit(buf[:n])
		if err != nil {
			s.log.Error("the exits channel", "error", err)
			continue
		}
		if e.Key != "" {
			s.Exited(e)
		} else if replayed != nil {
			close(replayed)
			replayed = nil
		}
	}
}
