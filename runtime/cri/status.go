package cri

import (
	"context"
	"sync"
	"time"

	"github.com/postern-cri/postern/privsep/wire"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Name is the name of the runtime, as CRI clients see it.
const Name = "postern"

// Version tells who answers.
func (s *Server) Version(ctx context.Context, _ *cri.VersionRequest) (*cri.VersionResponse, error) {
	if err := s.askRead(ctx, "Version"); err != nil {
		return nil, err
	}
	return &cri.VersionResponse{Version: "0.1.0", RuntimeName: Name, RuntimeVersion: s.version, RuntimeApiVersion: "v1"}, nil
}

// RuntimeConfig tells the kubelet who names the cgroups.
func (s *Server) RuntimeConfig(ctx context.Context, _ *cri.RuntimeConfigRequest) (*cri.RuntimeConfigResponse, error) {
	if err := s.askRead(ctx, "RuntimeConfig"); err != nil {
		return nil, err
	}
	driver := cri.CgroupDriver_CGROUPFS
	if s.systemd {
		driver = cri.CgroupDriver_SYSTEMD
	}
	return &cri.RuntimeConfigResponse{Linux: &cri.LinuxRuntimeConfiguration{CgroupDriver: driver}}, nil
}

// helloFor is how long an answer about the privileged side is believed.
const helloFor = 2 * time.Second

// helloCache remembers what the privileged side can do.
type helloCache struct {
	mu   sync.Mutex
	last *wire.HelloAnswer
	err  error
	at   time.Time
}

// forget makes the next question a new one.
func (h *helloCache) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.at = time.Time{}
}

func (s *Server) hi(ctx context.Context) (*wire.HelloAnswer, error) {
	h := &s.hello
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Since(h.at) < helloFor {
		return h.last, h.err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	h.last, h.err = s.helper.Hello(ctx)
	h.at = time.Now()
	return h.last, h.err
}

// Status tells whether the runtime and the network are ready.
func (s *Server) Status(ctx context.Context, r *cri.StatusRequest) (*cri.StatusResponse, error) {
	if err := s.askRead(ctx, "Status"); err != nil {
		return nil, err
	}
	runtime := &cri.RuntimeCondition{Type: cri.RuntimeReady, Status: true}
	network := &cri.RuntimeCondition{Type: cri.NetworkReady, Status: true}
	h, err := s.hi(ctx)
	if err != nil {
		h = &wire.HelloAnswer{}
		runtime.Status, runtime.Reason, runtime.Message = false, "HelperUnavailable", clip(err.Error(), 512)
	}
	if h.Features&wire.FeatureNetwork == 0 {
		network.Status, network.Reason, network.Message = false, "NetworkNotReady", "no CNI configuration is there"
	}
	f := &cri.RuntimeHandlerFeatures{
		RecursiveReadOnlyMounts: h.Features&wire.FeatureRecursiveReadOnly != 0,
		UserNamespaces:          h.Features&wire.FeatureUserNS != 0,
	}
	a := &cri.StatusResponse{
		Status:          &cri.RuntimeStatus{Conditions: []*cri.RuntimeCondition{runtime, network}},
		RuntimeHandlers: []*cri.RuntimeHandler{{Features: f}},
		Features:        &cri.RuntimeFeatures{SupplementalGroupsPolicy: true, MountOptions: true},
	}
	for _, n := range s.handlers {
		a.RuntimeHandlers = append(a.RuntimeHandlers, &cri.RuntimeHandler{Name: n, Features: f})
	}
	for _, n := range s.runtimes {
		can := &cri.RuntimeHandlerFeatures{RecursiveReadOnlyMounts: f.RecursiveReadOnlyMounts && n.RecursiveReadOnly, UserNamespaces: f.UserNamespaces && n.UserNamespaces}
		a.RuntimeHandlers = append(a.RuntimeHandlers, &cri.RuntimeHandler{Name: n.Name, Features: can})
	}
	if r.Verbose {
		on := map[string]bool{}
		for name, bit := range map[string]uint64{
			"seccomp": wire.FeatureSeccomp, "apparmor": wire.FeatureAppArmor, "selinux": wire.FeatureSELinux,
			"userNamespaces": wire.FeatureUserNS, "recursiveReadOnly": wire.FeatureRecursiveReadOnly, "network": wire.FeatureNetwork,
		} {
			on[name] = h.Features&bit != 0
		}
		a.Info = info(map[string]any{
			"ceiling": h.Profile, "cgroupVersion": h.CgroupVersion, "features": on,
			"podCIDR": s.podCIDR.Load(), "pods": len(s.store.Pods()), "containers": len(s.store.Containers("")),
		})
	}
	return a, nil
}
