package fuzz

import (
	"fmt"
	"path"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/postern-cri/postern/privsep/ceiling"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/wire"
	shipped "github.com/postern-cri/postern/profiles/ceiling"
	"github.com/postern-cri/postern/profiles/paths"
)

// source turns fuzz input into choices; when it is used up it chooses the first.
type source struct{ b []byte }

func (s *source) n(limit int) int {
	if len(s.b) == 0 {
		return 0
	}
	v := int(s.b[0]) % limit
	s.b = s.b[1:]
	return v
}

func (s *source) yes() bool { return s.n(4) == 1 }

func pick[T any](s *source, v ...T) T { return v[s.n(len(v))] }

func list[T any](s *source, most int, make func() T) (out []T) {
	for range s.n(most + 1) {
		out = append(out, make())
	}
	return out
}

// pod is a pod as a kubelet, a user or an attacker in the front end might ask
// for it. Its places are host paths still: each ceiling names its roots itself.
type pod struct {
	plan         plan.PodPlan
	ctr          plan.Plan
	exec         plan.ExecPlan
	logs, cgroup string
	mounts       []string // host paths of the mounts that have one
}

var hostPaths = []string{"", "/etc", "/var/lib/kubelet/pods/uid-1/volumes/x", "/", "/proc", "/var/lib/kubelet/pods/uid-2/volumes/x", "/var/run/../log"}

func random(s *source) *pod {
	p := &pod{}
	p.plan = plan.PodPlan{
		Class: pick(s, plan.Restricted, plan.Baseline, plan.System), UID: pick(s, "uid-1", "", "uid-2"), Hostname: pick(s, "", "host"),
		Network: pick(s, plan.NamespacePod, plan.NamespaceNode, plan.NamespaceContainer), PID: pick(s, plan.NamespacePod, plan.NamespaceContainer, plan.NamespaceNode),
		IPC: pick(s, plan.NamespacePod, plan.NamespaceNode), UserNS: s.yes(), Privileged: s.yes(), ShmSize: pick(s, uint64(0), 1<<20, 1<<41),
		Handler: pick(s, "", "test-handler", "other"),
		Sysctls: list(s, 2, func() plan.Sysctl {
			return plan.Sysctl{Name: pick(s, "net.ipv4.tcp_syncookies", "kernel.shm_rmid_forced", "net.ipv4.ip_forward", "kernel.panic", "net..x", "kernel.sem"), Value: "1"}
		}),
		Ports: list(s, 2, func() plan.PortMapping {
			return plan.PortMapping{Protocol: plan.TCP, HostPort: pick(s, uint16(0), 80, 8080, 65535)}
		}),
	}
	if s.yes() {
		p.plan.SELinux.Type = "t"
	}
	if p.plan.UserNS || s.yes() {
		m := func() plan.IDMap {
			return plan.IDMap{Host: pick(s, uint32(1<<16), 0, 1000, 1<<32-1), Length: pick(s, uint32(1<<16), 0, 1)}
		}
		p.plan.UIDs, p.plan.GIDs = list(s, 2, m), list(s, 2, m)
	}
	p.logs, p.cgroup = pick(s, "/var/log/pods/ns_pod_uid-1", "", "/var/log/pods/ns_pod_uid-2", "/etc"), pick(s, "/kubepods/x", "", "/postern", "/system.slice")
	p.ctr = plan.Plan{
		Class: pick(s, p.plan.Class, plan.Restricted, plan.Baseline, plan.System), Image: "sha256:x", Args: list(s, 2, func() string { return pick(s, "sh", "") }),
		Cwd: pick(s, "/", "/proc/self/fd/3", "/x", "x"), User: plan.User{UID: pick(s, uint32(1000), 0)}, CapsBounding: pick(s, uint64(0), 1<<10, 1, 1<<21, 1<<41-1, 1<<41),
		Privileged: s.yes(), NoNewPrivs: !s.yes(), PID: pick(s, plan.NamespaceContainer, plan.NamespacePod, plan.NamespaceNode, plan.NamespaceTarget),
		Seccomp: plan.Profile{Kind: pick(s, plan.ProfileRuntimeDefault, plan.ProfileUnconfined)}, AppArmor: plan.Profile{Kind: pick(s, plan.ProfileRuntimeDefault, plan.ProfileUnconfined)},
		MaskedPaths: pick(s, paths.Masked(), nil, []string{"/nothing"}, []string{"/"}), ReadOnlyPaths: pick(s, paths.ReadOnly(), nil, []string{"/proc"}),
		CDI: list(s, 1, func() string { return "vendor.com/gpu=0" }), Log: pick(s, "", "0.log", "../0.log"),
		Rlimits: list(s, 1, func() plan.Rlimit {
			return plan.Rlimit{Name: pick(s, "nofile", "other"), Soft: uint64(s.n(3)), Hard: uint64(s.n(3))}
		}),
		Resources: plan.Resources{PIDs: pick(s, int64(0), 4096, 4097, 32769, -1), OOMScoreAdj: pick(s, int32(0), -1000, 2000),
			Unified: list(s, 1, func() plan.Unified { return plan.Unified{Key: pick(s, "memory.high", "cgroup.procs"), Value: "1"} })},
	}
	if s.yes() {
		p.ctr.CapsAmbient = pick(s, p.ctr.CapsBounding, 1, 1<<21)
	}
	for i := range s.n(3) {
		m := plan.Mount{To: pick(s, "/m", "/proc", "/sys/x", "/", "/dev/shm", "m") + pick(s, "", fmt.Sprint(i)), ReadOnly: s.yes(), RecursiveReadOnly: s.yes(),
			Propagation: pick(s, plan.Private, plan.HostToContainer, plan.Bidirectional), MakeDir: s.yes()}
		m.From = plan.Place{Root: plan.RootKind(1 + s.n(8)), Name: pick(s, "", "hosts", "1", "sha256:x", ".."), Rel: pick(s, "", "x/y", "../x")}
		p.mounts = append(p.mounts, pick(s, hostPaths...))
		p.ctr.Mounts = append(p.ctr.Mounts, m)
	}
	if s.yes() {
		p.ctr.Devices = []plan.Device{{Host: plan.Place{Root: plan.RootHostPath, Name: "dev", Rel: pick(s, "fuse", "mem")}, To: "/dev/x", Permissions: uint8(s.n(9))}}
	}
	p.exec = plan.ExecPlan{Args: list(s, 1, func() string { return "ls" }), TTY: s.yes(), Stderr: s.yes()}
	return p
}

// under returns the plans with the places as the front end finds them beneath
// this ceiling, or false where it has none.
func (p *pod) under(c *ceiling.Ceiling) (plan.PodPlan, plan.Plan, bool) {
	pp, cp := p.plan, p.ctr
	cp.Mounts = slices.Clone(cp.Mounts)
	ok := true
	locate := func(kind plan.RootKind, host string) (place plan.Place) {
		if host == "" {
			return place
		}
		found := false
		if kind == plan.RootHostPath {
			if place, found = c.LocateVolume(pp.UID, host); found {
				return place
			}
		}
		place, found = c.Locate(kind, host)
		ok = ok && found
		return place
	}
	pp.Logs, pp.CgroupParent = locate(plan.RootLog, p.logs), locate(plan.RootCgroup, p.cgroup)
	for i, host := range p.mounts {
		if host != "" {
			cp.Mounts[i].From = locate(plan.RootHostPath, host)
		}
	}
	return pp, cp, ok
}

// cross sends a plan over the boundary, as the front end and the helper do.
func cross[T any](t *testing.T, v T, enc func(T) ([]byte, error), dec func([]byte) (T, error)) (T, bool) {
	b, err := enc(v)
	if err != nil {
		return v, false
	}
	cb, err := plan.EncodeClaims(plan.Claims{})
	if err != nil {
		t.Fatal(err)
	}
	pb, _, err := wire.SplitSections(wire.JoinSections(b, cb))
	if err != nil {
		t.Fatal(err)
	}
	got, err := dec(pb)
	if err != nil || !reflect.DeepEqual(got, v) {
		t.Fatalf("crossed as %+v (%v), was %+v", got, err, v)
	}
	return got, true
}

func ceilings(t testing.TB) (out []*ceiling.Ceiling) {
	for _, name := range shipped.Names() {
		b, _ := shipped.Shipped(name)
		c, err := ceiling.Parse(name, b)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, c)
	}
	return out
}

// FuzzBoundary sends random plans through the codec to the ceilings. Nothing
// panics; a ceiling that is wider refuses nothing that a narrow one allows, and
// nor does a wider class; and some things no unprivileged plan ever gets.
func FuzzBoundary(f *testing.F) {
	all := ceilings(f)
	f.Add([]byte{})
	for i := range 64 {
		f.Add([]byte(strings.Repeat(string(rune(i)), 80)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p := random(&source{b})
		narrower := ""
		for _, c := range all {
			d := judge(t, c, p)
			if d != nil && narrower != "" {
				t.Fatalf("%s allows what %s refuses (%+v): %+v", narrower, c.Profile, d, p)
			}
			if d == nil {
				narrower = c.Profile
				if p.plan.Class == p.ctr.Class && p.ctr.Class < plan.System && c.Classes[p.ctr.Class+1] != nil {
					wide := *p
					wide.plan.Class++
					wide.ctr.Class++
					if d := judge(t, c, &wide); d != nil {
						t.Fatalf("%s refuses to class %d what it allows to the one below: %+v: %+v", c.Profile, wide.ctr.Class, d, p)
					}
				}
			}
			if d == nil && c.Profile != "conformance" {
				never(t, p)
			}
		}
	})
}

func judge(t *testing.T, c *ceiling.Ceiling, p *pod) *wire.Denial {
	no := &wire.Denial{Rule: "front end or codec"}
	pp, cp, ok := p.under(c)
	if !ok {
		return no
	}
	if pp, ok = cross(t, pp, plan.EncodePod, plan.DecodePod); !ok {
		return no
	}
	if cp, ok = cross(t, cp, plan.EncodeContainer, plan.DecodeContainer); !ok {
		return no
	}
	ep, ok := cross(t, p.exec, plan.EncodeExec, plan.DecodeExec)
	if !ok {
		return no
	}
	for _, d := range []*wire.Denial{c.CheckPod(&pp), c.CheckContainer(&pp, &cp), c.CheckExec(&cp, &ep), c.CheckResources(&cp, &cp.Resources)} {
		if d != nil {
			if d.By != "ceiling" || d.Rule == "" || d.Field == "" || d.Message == "" || d.Remedy == "" {
				t.Fatalf("a denial that does not say what and how: %+v", d)
			}
			return d
		}
	}
	return nil
}

// never is what neither the restricted nor the baseline ceiling gives to anybody.
func never(t *testing.T, p *pod) {
	pp, cp := p.plan, p.ctr
	masked := func(list []string, want string) bool {
		return slices.ContainsFunc(list, func(l string) bool { return l == want || l == "/" || strings.HasPrefix(want, l+"/") })
	}
	for what, got := range map[string]bool{
		"host namespaces": pp.Network != plan.NamespacePod || pp.IPC != plan.NamespacePod || pp.PID == plan.NamespaceNode || cp.PID == plan.NamespaceNode,
		"privileged":      pp.Privileged || cp.Privileged,
		"SYS_ADMIN":       (cp.CapsBounding|cp.CapsAmbient)&(1<<21) != 0,
		"unconfined":      cp.Seccomp.Kind == plan.ProfileUnconfined || cp.AppArmor.Kind == plan.ProfileUnconfined,
		"kcore":           !pp.UserNS && !masked(cp.MaskedPaths, "/proc/kcore"),
		"proc/sys":        !pp.UserNS && !masked(slices.Concat(cp.MaskedPaths, cp.ReadOnlyPaths), "/proc/sys/kernel/core_pattern"),
		"a device":        len(cp.Devices) > 0,
		"root as root":    pp.UserNS && slices.ContainsFunc(slices.Concat(pp.UIDs, pp.GIDs), func(m plan.IDMap) bool { return m.Host < 1<<16 }),
		"another's logs":  cp.Log != "" && !strings.HasSuffix(p.logs, "_"+pp.UID),
		"a climbing log":  cp.Log != path.Clean("/" + cp.Log)[1:],
	} {
		if got {
			t.Fatalf("%s: %+v", what, p)
		}
	}
	for i, m := range cp.Mounts {
		host := p.mounts[i]
		if host != "" && !strings.HasPrefix(path.Clean(host), "/var/lib/kubelet/pods/"+pp.UID+"/") || m.To == "/proc" || m.To == "/" || m.Propagation == plan.Bidirectional {
			t.Fatalf("a mount of %q: %+v", host, m)
		}
	}
}

// FuzzMemfd gives the helper's side any bytes at all, as a memfd of each verb.
func FuzzMemfd(f *testing.F) {
	all := ceilings(f)
	for i := range 40 {
		p := random(&source{[]byte(strings.Repeat(string(rune(i)), 80))})
		pb, err1 := plan.EncodePod(p.plan)
		cb, err2 := plan.EncodeContainer(p.ctr)
		eb, err3 := plan.EncodeExec(p.exec)
		for _, b := range [][]byte{pb, cb, eb} {
			if err1 == nil && err2 == nil && err3 == nil {
				f.Add(wire.JoinSections(pb, b))
				f.Add(wire.JoinSections(b, nil))
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		first, second, err := wire.SplitSections(b)
		if err != nil {
			return
		}
		plan.DecodeClaims(second)
		var pods []plan.PodPlan
		var ctrs []plan.Plan
		for _, s := range [][]byte{first, second} {
			if p, err := plan.DecodePod(s); err == nil {
				pods = append(pods, p)
			}
			if p, err := plan.DecodeContainer(s); err == nil {
				ctrs = append(ctrs, p)
			}
			if p, err := plan.DecodeExec(s); err == nil {
				all[0].CheckExec(nil, &p)
			}
			if r, err := plan.DecodeResources(s); err == nil {
				all[0].CheckResources(&plan.Plan{}, &r)
			}
		}
		for _, c := range all {
			for i := range pods {
				c.CheckPod(&pods[i])
				for k := range ctrs {
					c.CheckContainer(&pods[i], &ctrs[k])
				}
			}
		}
	})
}
