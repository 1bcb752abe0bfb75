package ceiling

import (
	"fmt"
	"strings"
	"testing"

	"github.com/postern-cri/postern/privsep/plan"
)

// What a row allows is allowed, so that the triggers above fail for their reason.
func TestAllowed(t *testing.T) {
	c := parse(t, narrow)
	for name, do := range map[string]func(*subject){
		"port in range": func(s *subject) {
			s.pod.Ports = []plan.PortMapping{{HostPort: 8000}, {HostPort: 9000}, {ContainerPort: 80}}
		},
		"sysctl by name":   func(s *subject) { s.pod.Sysctls = []plan.Sysctl{{Name: "net.ipv4.tcp_syncookies"}} },
		"sysctl by prefix": func(s *subject) { s.pod.Sysctls = []plan.Sysctl{{Name: "kernel.shmmax"}} },
		"own capability":   func(s *subject) { s.ctr.CapsBounding, s.ctr.CapsAmbient = 1<<10, 1<<10 },
		"cdi":              func(s *subject) { s.ctr.CDI = []string{"vendor.com/gpu=0"} },
		"device":           device(func(*plan.Device) {}),
		"volume":           mount(func(*plan.Mount) {}),
		"volume, made":     mount(func(m *plan.Mount) { m.MakeDir = true }),
		"host path":        from(plan.RootHostPath, "data", "x"),
		"host path, made": mount(func(m *plan.Mount) {
			m.From, m.MakeDir = plan.Place{Root: plan.RootHostPath, Name: "scratch", Rel: "x"}, true
		}),
		"pod file":         from(plan.RootPodFile, "resolv.conf", ""),
		"shm":              mount(func(m *plan.Mount) { m.From, m.To = plan.Place{Root: plan.RootPodShm}, "/dev/shm" }),
		"scratch":          from(plan.RootScratch, "65535", ""),
		"image volume":     from(plan.RootImage, "sha256:x", "sub"),
		"recursive":        mount(func(m *plan.Mount) { m.ReadOnly, m.RecursiveReadOnly = true, true }),
		"slave":            mount(func(m *plan.Mount) { m.Propagation = plan.HostToContainer }),
		"beside /proc":     mount(func(m *plan.Mount) { m.To = "/process" }),
		"cwd beside /proc": func(s *subject) { s.ctr.Cwd = "/processor" },
		"handler":          func(s *subject) { s.pod.Handler = "kata" },
		"runtime":          func(s *subject) { s.pod.Handler = "crun" },
		"runtime, able": func(s *subject) {
			userns(func(*plan.IDMap) {})(s)
			mount(func(m *plan.Mount) { m.ReadOnly, m.RecursiveReadOnly = true, true })(s)
			s.pod.Handler = "runc"
		},
		"pids":              func(s *subject) { s.ctr.Resources.PIDs = 100 },
		"user namespace":    userns(func(*plan.IDMap) {}),
		"root in userns":    func(s *subject) { userns(func(*plan.IDMap) {})(s); s.ctr.User.UID = 0 },
		"unmasked, userns":  func(s *subject) { userns(func(*plan.IDMap) {})(s); s.ctr.MaskedPaths, s.ctr.ReadOnlyPaths = nil, nil },
		"mask all of proc":  func(s *subject) { s.ctr.MaskedPaths, s.ctr.ReadOnlyPaths = []string{"/proc", "/sys"}, nil },
		"terminal":          func(s *subject) { s.exec.TTY, s.exec.Stderr = true, false },
		"unified":           func(s *subject) { s.ctr.Resources.Unified = []plan.Unified{{Key: "memory.high", Value: "1"}} },
		"no place for logs": func(s *subject) { s.pod.Logs, s.ctr.Log = plan.Place{}, "" },
		"relabel a volume":  mount(func(m *plan.Mount) { m.Relabel = true }),
		"relabel": mount(func(m *plan.Mount) {
			m.From, m.Relabel = plan.Place{Root: plan.RootHostPath, Name: "labelled", Rel: "x"}, true
		}),
		"label": func(s *subject) {
			s.pod.Class, s.pod.SELinux = plan.System, plan.SELinux{Type: "t", Level: "s0:c1,c2"}
			s.ctr.SELinux = s.pod.SELinux
		},
		"privileged": func(s *subject) {
			s.pod.Class, s.pod.Privileged, s.ctr.Class, s.ctr.Privileged = plan.System, true, plan.System, true
			s.ctr.Resources.PIDs, s.ctr.CapsBounding, s.ctr.User.UID, s.ctr.NoNewPrivs = -1, 1<<41-1, 0, false
			s.ctr.MaskedPaths, s.ctr.ReadOnlyPaths = nil, nil
			mount(func(m *plan.Mount) { m.To, m.Propagation = "/sys/fs/bpf", plan.Bidirectional })(s)
		},
	} {
		s := modest()
		do(s)
		if d := s.check(c); d != nil {
			t.Errorf("%s: %+v", name, d)
		}
	}
}

func TestClassNames(t *testing.T) {
	c := parse(t, narrow)
	s := modest()
	s.pod.Class = 9
	if d := c.CheckPod(&s.pod); d == nil || !strings.Contains(d.Message, "no class 9") {
		t.Errorf("%+v", d)
	}
	s.pod.Class = plan.Baseline
	if d := c.CheckPod(&s.pod); d == nil || !strings.Contains(d.Message, fmt.Sprintf("ceiling %q has no class baseline", "test")) {
		t.Errorf("%+v", d)
	}
	s.ctr.CapsBounding = 1<<21 | 1<<12
	if d := c.CheckContainer(&s.pod, &s.ctr); d == nil || !strings.Contains(d.Message, "NET_ADMIN, SYS_ADMIN are not") {
		t.Errorf("%+v", d)
	}
}
