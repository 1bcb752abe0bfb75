package ceiling

import (
	"strings"
	"testing"

	"github.com/postern-cri/postern/privsep/plan"
	shipped "github.com/postern-cri/postern/profiles/ceiling"
)

// asks are all the things that a class may or may not have, each alone.
var asks = map[string]func(*subject){
	"nothing":         func(*subject) {},
	"privileged":      func(s *subject) { s.pod.Privileged, s.ctr.Privileged = true, true },
	"host network":    func(s *subject) { s.pod.Network, s.pod.Hostname = plan.NamespaceNode, "" },
	"host pid":        func(s *subject) { s.pod.PID, s.ctr.PID = plan.NamespaceNode, plan.NamespaceNode },
	"host ipc":        func(s *subject) { s.pod.IPC = plan.NamespaceNode },
	"seccomp off":     func(s *subject) { s.ctr.Seccomp.Kind = plan.ProfileUnconfined },
	"apparmor off":    func(s *subject) { s.ctr.AppArmor.Kind = plan.ProfileUnconfined },
	"escalation":      func(s *subject) { s.ctr.NoNewPrivs = false },
	"unmasked":        func(s *subject) { s.ctr.MaskedPaths, s.ctr.ReadOnlyPaths = nil, nil },
	"root":            func(s *subject) { s.ctr.User.UID = 0 },
	"bidirectional":   mount(func(m *plan.Mount) { m.Propagation = plan.Bidirectional }),
	"user namespace":  userns(func(*plan.IDMap) {}),
	"userns of root":  userns(func(m *plan.IDMap) { m.Host = 0 }),
	"pod label":       func(s *subject) { s.pod.SELinux.Type = "t" },
	"container label": func(s *subject) { s.ctr.SELinux.Type = "t" },
	"port 80":         func(s *subject) { s.pod.Ports = []plan.PortMapping{{Protocol: plan.TCP, HostPort: 80}} },
	"port 65535":      func(s *subject) { s.pod.Ports = []plan.PortMapping{{Protocol: plan.TCP, HostPort: 65535}} },
	"safe sysctl":     func(s *subject) { s.pod.Sysctls = []plan.Sysctl{{Name: "net.ipv4.tcp_syncookies"}} },
	"other sysctl":    func(s *subject) { s.pod.Sysctls = []plan.Sysctl{{Name: "net.ipv4.ip_forward"}} },
	"node sysctl":     func(s *subject) { s.pod.Sysctls = []plan.Sysctl{{Name: "kernel.panic"}} },
	"bind low":        func(s *subject) { s.ctr.CapsBounding, s.ctr.CapsAmbient = 1<<10, 1<<10 },
	"host path":       from(plan.RootHostPath, "root", "etc"),
	"device":          device(func(*plan.Device) {}),
	"handler":         func(s *subject) { s.pod.Handler = "test-handler" },
	"cdi":             func(s *subject) { s.ctr.CDI = []string{"v.com/x=1"} },
	"many pids":       func(s *subject) { s.ctr.Resources.PIDs = 32768 },
	"unlimited pids":  func(s *subject) { s.ctr.Resources.PIDs = -1 },
	"mount over proc": mount(func(m *plan.Mount) { m.To = "/proc/sys" }),
	"cgroup of node":  func(s *subject) { s.pod.CgroupParent = plan.Place{Root: plan.RootCgroup, Name: "root"} },
	"logs anywhere":   func(s *subject) { s.pod.Logs = plan.Place{Root: plan.RootLog, Name: "root", Rel: "x_uid-1"} },
}

// allowed is the whole truth about the three shipped ceilings: by ceiling and
// class, what of asks is allowed. What is not here is refused, and a class that
// is not here is refused everything.
var allowed = map[string]map[plan.Class]string{
	"restricted": {plan.Restricted: "nothing, user namespace, safe sysctl, bind low"},
	"baseline": {
		plan.Restricted: "nothing, user namespace, safe sysctl, bind low",
		plan.Baseline:   "nothing, user namespace, safe sysctl, bind low, escalation, root",
	},
	"conformance": {plan.Restricted: conformance, plan.Baseline: conformance, plan.System: conformance},
}

// Even as good as no ceiling keeps: what is of the node and not of the pod, what
// nobody listed, and what only a privileged container may.
const conformance = "nothing, privileged, host network, host pid, host ipc, seccomp off, apparmor off, escalation, unmasked, root, bidirectional, " +
	"user namespace, userns of root, pod label, container label, port 80, port 65535, safe sysctl, other sysctl, bind low, host path, device, cdi, handler, many pids, " +
	"cgroup of node, logs anywhere"

var defaultCaps = map[string]map[plan.Class]string{
	"restricted": {plan.Restricted: "NET_BIND_SERVICE"},
	"baseline": {plan.Restricted: "NET_BIND_SERVICE",
		plan.Baseline: "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE SETFCAP SETGID SETPCAP SETUID SYS_CHROOT"},
}

func TestShippedCeilings(t *testing.T) {
	for _, name := range shipped.Names() {
		b, _ := shipped.Shipped(name)
		c := parse(t, string(b))
		for class := plan.Restricted; class <= plan.System; class++ {
			may := map[string]bool{}
			for _, a := range strings.Split(allowed[name][class], ", ") {
				if may[a] = true; a != "" && asks[a] == nil {
					t.Fatalf("%q is nothing to ask for", a)
				}
			}
			for ask, do := range asks {
				s := modest()
				do(s)
				s.pod.Class, s.ctr.Class = class, class
				if name == "conformance" && s.pod.Logs.Name == "pods" {
					s.pod.Logs.Name = "root"
				}
				if d := s.check(c); (d == nil) != may[ask] {
					t.Errorf("%s, class %s, %s: %+v, allowed should be %v", name, className(class), ask, d, may[ask])
				}
			}
			for i, n := range capabilities {
				s := modest()
				s.pod.Class, s.ctr.Class, s.ctr.CapsBounding, s.pod.Logs, s.ctr.Log = class, class, 1<<i, plan.Place{}, ""
				want := name == "conformance" || strings.Contains(" "+defaultCaps[name][class]+" ", " "+n+" ")
				if d := s.check(c); (d == nil) != want {
					t.Errorf("%s, class %s, capability %s: %+v, allowed should be %v", name, className(class), n, d, want)
				}
			}
		}
	}
}
