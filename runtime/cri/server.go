package cri

import (
	"context"
	"log/slog"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-cri/postern/privsep/ceiling"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/runtime/cdi"
	"github.com/postern-cri/postern/runtime/stats"
	"github.com/postern-cri/postern/runtime/store"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Options is what a Server is made of.
type Options struct {
	Helper   Helper
	Policy   Policy
	Audit    Audit
	Images   Images
	Store    *store.Store
	Places   Places
	Cgroups  *stats.Cgroups
	Handlers []string          // other names of the built-in runtime
	Runtimes []ceiling.Handler // OCI runtimes beside it
	Systemd  bool              // who makes cgroups
	Users    UserOpener
	CDI      func(name string) ([]cdi.Edits, error) // what a device needs
	Rlimits  []plan.Rlimit                          // of every container
	Stream   string                                 // socket of the streaming server
	Logs     string                                 // socket of the log process
	StateDir string                                 // directory whose filesystem holds the writable layers
	Version  string
	Log      *slog.Logger
}

// Server implements both CRI services.
type Server struct {
	cri.UnimplementedRuntimeServiceServer
	cri.UnimplementedImageServiceServer

	helper   Helper
	policy   Policy
	audit    Audit
	images   Images
	store    *store.Store
	places   Places
	cgroups  *stats.Cgroups
	handlers []string
	runtimes []ceiling.Handler
	systemd  bool
	users    UserOpener
	cdi      func(string) ([]cdi.Edits, error)
	rlimits  []plan.Rlimit
	stream   string
	logs     string
	stateDir string
	version  string
	log      *slog.Logger

	podCIDR atomic.Pointer[string] // as the kubelet said

	blocks idBlocks
	reads  readCounter
	exits  exitBox
	events broadcaster
	grants grants
	usage  usageCache
	rates  rateCache

	creating underWay
	doubts   chan struct{}

	hello     helloCache
	startOnce sync.Map // container id to *sync.Mutex: one start or stop at a time
}

// New returns a Server. Reconcile must succeed before it serves.
func New(o Options) *Server {
	s := &Server{
		helper: o.Helper, policy: o.Policy, audit: o.Audit, images: o.Images, store: o.Store, places: o.Places,
		cgroups: o.Cgroups, handlers: o.Handlers, runtimes: o.Runtimes, systemd: o.Systemd, users: o.Users, cdi: o.CDI, rlimits: o.Rlimits, stream: o.Stream, logs: o.Logs, stateDir: o.StateDir,
		version: o.Version, log: o.Log,
	}
	s.usage.kick, s.doubts = make(chan struct{}, 1), make(chan struct{}, 1)
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s
}

// Limits of the CRI socket. The kubelet uses one connection; what is far beyond
// it is a mistake or an attack on this process's memory.
const (
	maxRecv       = 16 << 20
	maxStreams    = 256
	maxHeaderList = 64 << 10
)

// GRPC returns a gRPC server with both services registered.
func (s *Server) GRPC() *grpc.Server {
	g := grpc.NewServer(
		grpc.Creds(peerCredentials{}),
		grpc.MaxRecvMsgSize(maxRecv),
		grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxHeaderListSize(maxHeaderList),
		grpc.ConnectionTimeout(10*time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 2 * time.Minute, Timeout: 20 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.ReadBufferSize(16<<10), grpc.WriteBufferSize(16<<10),
		grpc.UnaryInterceptor(s.unary), grpc.StreamInterceptor(s.streaming),
	)
	cri.RegisterRuntimeServiceServer(g, s)
	cri.RegisterImageServiceServer(g, s)
	return g
}

// Run does the background work of the server until ctx ends.
func (s *Server) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { s.countReads(ctx) })
	wg.Go(func() { s.measure(ctx) })
	wg.Go(func() { s.clearDoubts(ctx) })
	wg.Wait()
	s.flushReads(context.WithoutCancel(ctx))
}

// Serve answers requests on l until the gRPC server is stopped.
func Serve(g *grpc.Server, l net.Listener) error { return g.Serve(l) }
