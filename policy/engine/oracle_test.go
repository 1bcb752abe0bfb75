package engine

import (
	"bytes"
	"context"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/postern-cri/postern/policy/input"
	"github.com/postern-cri/postern/privsep/gate"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/record"
	"github.com/postern-cri/postern/profiles/capability"
)

// TestPodSecurityOracle makes thousands of pods, asks the admission controller of
// Kubernetes about each and asks the packs about what the pod becomes on a node.
// The two must agree, but where a node can see more: then the pod is judged by
// what it will have and not by what its author wrote, and the difference is named.
func TestPodSecurityOracle(t *testing.T) {
	checks, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for level, prof := range map[api.Level]string{api.LevelBaseline: "baseline", api.LevelRestricted: "restricted"} {
		files := profile(t, prof)
		// A pod that writes NET_RAW down is told from one that has it by default
		// in Kubernetes only: judge by the list.
		files[dataFile] = []byte(`{"postern_config":{"require_signature":false}}`)
		p := compile(t, files)
		allowed, denied := 0, 0
		for i := range 3000 {
			spec := randomPod(rng, i%4 == 0)
			want := policy.AggregateCheckResults(checks.EvaluatePod(api.LevelVersion{Level: level, Version: api.LatestVersion()}, &metav1.ObjectMeta{}, spec))
			reasons := strings.Join(want.ForbiddenReasons, "; ")
			ok := true
			var rules []string
			for _, q := range translate(spec) {
				d, err := input.Build(input.RoleHelper, q, 1, redactor)
				if err != nil {
					t.Fatal(err)
				}
				res, err := p.eval(context.Background(), d.Value(), 1, patience, true)
				if err != nil {
					t.Fatal(err)
				}
				for _, v := range res.Violations {
					ok = false
					rules = append(rules, v.ID)
				}
			}
			if ok {
				allowed++
			} else {
				denied++
			}
			if ok != want.Allowed {
				t.Fatalf("%s: Kubernetes says %v (%s), we say %v (%v) of\n%+v", level, want.Allowed, reasons, ok, rules, spec)
			}
		}
		if allowed < 100 || denied < 100 {
			t.Errorf("%s: %d allowed and %d denied: the generator is lopsided", level, allowed, denied)
		}
		t.Logf("%s: %d allowed, %d denied, all alike", level, allowed, denied)
	}
}

// patience is a deadline for tests that run beside others on few cores.
const patience = 10 * time.Second

func ptr[T any](v T) *T { return &v }

// pick returns one of its arguments, the first more often than the others.
func pick[T any](r *rand.Rand, usual T, others ...T) T {
	if len(others) == 0 || r.IntN(12) != 0 {
		return usual
	}
	return others[r.IntN(len(others))]
}

// randomPod makes a pod that is restricted but for a few things. What the node
// cannot see in the same way is written the way that Kubernetes demands: see
// docs/POLICY.md, "What differs from Pod Security Admission".
func randomPod(r *rand.Rand, wild bool) *corev1.PodSpec {
	spec := &corev1.PodSpec{
		HostNetwork: pick(r, false, true), HostPID: pick(r, false, true), HostIPC: pick(r, false, true),
		HostUsers: pick(r, nil, ptr(false)),
		SecurityContext: &corev1.PodSecurityContext{
			SELinuxOptions: selinux(r),
			Sysctls: pick(r, nil, []corev1.Sysctl{{Name: "kernel.msgmax", Value: "1"}},
				[]corev1.Sysctl{{Name: "net.ipv4.tcp_syncookies", Value: "1"}}, []corev1.Sysctl{{Name: "net.ipv4.tcp_rmem", Value: "1"}}),
		},
	}
	spec.Volumes = []corev1.Volume{pick(r, volume("a", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}),
		volume("a", corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/etc"}}),
		volume("a", corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{}}),
		volume("a", corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{}}),
		volume("a", corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{}}),
		volume("a", corev1.VolumeSource{ISCSI: &corev1.ISCSIVolumeSource{}}),
	)}
	n := 1 + r.IntN(2)
	for range n {
		spec.Containers = append(spec.Containers, randomContainer(r, wild))
	}
	if r.IntN(3) == 0 {
		spec.InitContainers = append(spec.InitContainers, randomContainer(r, wild))
	}
	return spec
}

func volume(name string, s corev1.VolumeSource) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: s}
}

func selinux(r *rand.Rand) *corev1.SELinuxOptions {
	return pick(r, nil, &corev1.SELinuxOptions{Type: "container_t"}, &corev1.SELinuxOptions{Type: "container_engine_t"},
		&corev1.SELinuxOptions{Type: "spc_t"}, &corev1.SELinuxOptions{User: "root"}, &corev1.SELinuxOptions{Role: "x"},
		&corev1.SELinuxOptions{Level: "s0:c1"})
}

func randomContainer(r *rand.Rand, wild bool) corev1.Container {
	sc := &corev1.SecurityContext{
		Privileged:               pick(r, nil, ptr(true), ptr(false)),
		AllowPrivilegeEscalation: pick(r, ptr(false), ptr(true), nil),
		RunAsNonRoot:             ptr(true),
		RunAsUser:                pick(r, ptr(int64(1000)), nil),
		SELinuxOptions:           selinux(r),
		ProcMount:                pick(r, nil, ptr(corev1.UnmaskedProcMount), ptr(corev1.DefaultProcMount)),
		SeccompProfile: pick(r, &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			&corev1.SeccompProfile{Type: corev1.SeccompProfileTypeLocalhost, LocalhostProfile: ptr("x")},
			&corev1.SeccompProfile{Type: corev1.SeccompProfileTypeUnconfined}),
		AppArmorProfile: pick(r, nil, &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault},
			&corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}),
		Capabilities: pick(r, &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			&corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"NET_BIND_SERVICE"}},
			&corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"CHOWN", "KILL"}},
			&corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"NET_RAW"}},
			&corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"SYS_ADMIN"}},
			&corev1.Capabilities{Drop: []corev1.Capability{"NET_RAW"}}, nil),
	}
	if wild && r.IntN(6) == 0 {
		// A root user that says so: RunAsNonRoot would keep the kubelet from it.
		sc.RunAsUser, sc.RunAsNonRoot = ptr(int64(0)), nil
	}
	if sc.Privileged != nil && *sc.Privileged {
		sc.AllowPrivilegeEscalation = nil // the API server refuses the contradiction
	}
	return corev1.Container{
		SecurityContext: sc,
		Ports:           pick(r, nil, []corev1.ContainerPort{{ContainerPort: 80}}, []corev1.ContainerPort{{ContainerPort: 80, HostPort: 80}}),
		VolumeMounts:    []corev1.VolumeMount{{Name: "a", MountPath: "/a"}},
	}
}

// translate is what the kubelet and the front end make of a pod, in short.
func translate(spec *corev1.PodSpec) []gate.Question {
	node := func(host bool, mode plan.NamespaceMode) plan.NamespaceMode {
		if host {
			return plan.NamespaceNode
		}
		return mode
	}
	label := func(o *corev1.SELinuxOptions) plan.SELinux {
		if o == nil {
			return plan.SELinux{}
		}
		return plan.SELinux{User: o.User, Role: o.Role, Type: o.Type, Level: o.Level}
	}
	def := plan.Profile{Kind: plan.ProfileRuntimeDefault}
	none := plan.Place{Root: plan.RootLog, Name: "pods"}
	pod := plan.PodPlan{
		Class: plan.System, UID: "u", Network: node(spec.HostNetwork, plan.NamespacePod),
		PID: node(spec.HostPID, plan.NamespaceContainer), IPC: node(spec.HostIPC, plan.NamespacePod),
		CgroupParent: plan.Place{Root: plan.RootCgroup, Name: "kubepods"}, Logs: none, SELinux: label(spec.SecurityContext.SELinuxOptions),
	}
	if !spec.HostNetwork {
		pod.Hostname = "h"
	}
	if spec.HostUsers != nil && !*spec.HostUsers {
		pod.UserNS = true
		pod.UIDs = []plan.IDMap{{Host: 65536, Container: 0, Length: 65536}}
		pod.GIDs = pod.UIDs
	}
	for _, s := range spec.SecurityContext.Sysctls {
		pod.Sysctls = append(pod.Sysctls, plan.Sysctl{Name: s.Name, Value: s.Value})
	}
	var out []gate.Question
	seen := map[plan.PortMapping]bool{}
	var ctrs []plan.Plan
	for i, c := range append(append([]corev1.Container{}, spec.InitContainers...), spec.Containers...) {
		sc := c.SecurityContext
		for _, p := range c.Ports {
			m := plan.PortMapping{Protocol: plan.TCP, ContainerPort: uint16(p.ContainerPort), HostPort: uint16(p.HostPort)}
			if i >= len(spec.InitContainers) && !seen[m] || p.HostPort != 0 && !seen[m] {
				seen[m] = true
				pod.Ports = append(pod.Ports, m)
			}
		}
		ctr := plan.Plan{
			Class: plan.System, Image: digest, Args: []string{"/x"}, Cwd: "/", User: plan.User{UID: 1000, GID: 1000},
			PID: node(spec.HostPID, plan.NamespaceContainer), Seccomp: def, AppArmor: def, SELinux: label(sc.SELinuxOptions),
			CapsBounding: bounding(sc.Capabilities), NoNewPrivs: sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation,
			MaskedPaths: []string{"/proc/kcore", "/proc/keys", "/proc/timer_list"}, ReadOnlyPaths: []string{"/proc/sys"},
			Mounts: []plan.Mount{{From: source(spec.Volumes[0]), To: "/a", Propagation: plan.Private}},
		}
		if sc.SELinuxOptions == nil {
			ctr.SELinux = pod.SELinux
		}
		if sc.RunAsUser != nil {
			ctr.User.UID = uint32(*sc.RunAsUser)
		}
		if sc.SeccompProfile.Type == corev1.SeccompProfileTypeUnconfined {
			ctr.Seccomp = plan.Profile{Kind: plan.ProfileUnconfined}
		}
		if sc.AppArmorProfile != nil && sc.AppArmorProfile.Type == corev1.AppArmorProfileTypeUnconfined {
			ctr.AppArmor = plan.Profile{Kind: plan.ProfileUnconfined}
		}
		if sc.ProcMount != nil && *sc.ProcMount == corev1.UnmaskedProcMount {
			ctr.MaskedPaths, ctr.ReadOnlyPaths = nil, nil
		}
		if sc.Privileged != nil && *sc.Privileged {
			ctr.Privileged, pod.Privileged = true, true
		}
		ctrs = append(ctrs, ctr)
	}
	p := must(plan.EncodePod(pod))
	out = append(out, gate.Question{Method: "RunPodSandbox", Sections: []gate.Section{{Kind: gate.SectionPodPlan, Data: p}}})
	rec := record.Record{Schema: record.Schema, Manifest: digest, Config: digest, Repository: "r.example/a",
		Layers: []record.Layer{{Digest: digest, DiffID: digest}}, Status: record.AcceptedUnsigned}
	for _, c := range ctrs {
		out = append(out, gate.Question{Method: "CreateContainer", Sections: []gate.Section{
			{Kind: gate.SectionPodPlan, Data: p}, {Kind: gate.SectionPlan, Data: must(plan.EncodeContainer(c))},
			{Kind: gate.SectionRecord, Data: must(rec.Encode())},
		}})
	}
	return out
}

const digest = "sha256:1111111111111111111111111111111111111111111111111111111111111111"

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return bytes.Clone(b)
}

func source(v corev1.Volume) plan.Place {
	switch {
	case v.HostPath != nil:
		return plan.Place{Root: plan.RootHostPath, Name: "etc"}
	case v.NFS != nil:
		return plan.Place{Root: plan.RootPodVolumes, Rel: "volumes/kubernetes.io~nfs/a"}
	case v.ISCSI != nil:
		return plan.Place{Root: plan.RootPodVolumes, Rel: "volumes/kubernetes.io~iscsi/a"}
	case v.CSI != nil:
		return plan.Place{Root: plan.RootPodVolumes, Rel: "volumes/kubernetes.io~csi/a/mount"}
	case v.Secret != nil:
		return plan.Place{Root: plan.RootPodVolumes, Rel: "volumes/kubernetes.io~secret/a"}
	}
	return plan.Place{Root: plan.RootPodVolumes, Rel: "volumes/kubernetes.io~empty-dir/a"}
}

func bit(name string) uint64 {
	if b, ok := capability.Parse(name); ok {
		return 1 << b
	}
	return 0
}

// bounding is the default set without NET_RAW, plus and minus what is asked for.
func bounding(c *corev1.Capabilities) uint64 {
	var mask uint64
	for _, n := range strings.Fields("CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE") {
		mask |= bit(n)
	}
	if c == nil {
		return mask
	}
	for _, n := range c.Drop {
		if n == "ALL" {
			mask = 0
		}
		mask &^= bit(string(n))
	}
	for _, n := range c.Add {
		mask |= bit(string(n))
	}
	return mask
}

// corpusQuestions is what n random pods ask.
func corpusQuestions(n int) []gate.Question {
	rng := rand.New(rand.NewPCG(3, 4))
	var out []gate.Question
	for range n {
		out = append(out, translate(randomPod(rng, true))...)
	}
	return out
}

// corpus is the documents of n random pods and one of every method.
func corpus(t testing.TB, n int) []*input.Document {
	qs := corpusQuestions(n)
	for _, m := range input.Methods() {
		qs = append(qs, gate.Question{Method: m})
	}
	var out []*input.Document
	for _, q := range qs {
		d, err := input.Build(input.RoleHelper, q, 1, redactor)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, d)
	}
	return out
}

// TestIndexingDoesNotDecide evaluates with and without OPA's rule index: a bug in
// the index (there was one, where a rule with "in" never matched) shows here.
func TestIndexingDoesNotDecide(t *testing.T) {
	p := compile(t, profile(t, "restricted"))
	for _, d := range corpus(t, 150) {
		a, err1 := p.eval(context.Background(), d.Value(), 1, patience, true)
		b, err2 := p.eval(context.Background(), d.Value(), 1, patience, false)
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		if len(a.Violations) != len(b.Violations) {
			t.Fatalf("with the index %v, without %v of %s", a, b, d.Canonical())
		}
		for i := range a.Violations {
			if a.Violations[i] != b.Violations[i] {
				t.Fatalf("with the index %v, without %v of %s", a, b, d.Canonical())
			}
		}
	}
}
