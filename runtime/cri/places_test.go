package cri

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/postern-cri/postern/privsep/ceiling"
	"github.com/postern-cri/postern/privsep/plan"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const testCeiling = `profile = "test"
kubelet_root = "/var/lib/kubelet"

[[host_path]]
name = "data"
path = "/srv/data"
create = true

[[host_path]]
name = "inner"
path = "/srv/data/inner"
read_only = true

[[log_root]]
name = "pods"
path = "/var/log/pods"

[[cgroup_root]]
name = "kubepods"
path = "/kubepods"

[class.restricted]
capabilities = ["NET_BIND_SERVICE"]
sysctls = ["net.ipv4.ping_group_range"]

[class.system]
capabilities = ["ALL"]
host_network = true
allow_privilege_escalation = true
run_as_root = true
unmasked_proc = true
`

func TestSeccompNames(t *testing.T) {
	c, err := ceiling.Parse("test", []byte(testCeiling))
	if err != nil {
		t.Fatal(err)
	}
	for dir, names := range map[string]map[string]string{
		"": {"/var/lib/kubelet/seccomp/a.json": "a.json", "/var/lib/kubelet/seccomp/team/a.json": "team/a.json", "team/a.json": "team/a.json",
			"/etc/postern/seccomp/team/a.json": "a.json", "/var/lib/kubelet/seccomp/../a.json": "a.json"},
		"/srv/p": {"/srv/p/team/a.json": "team/a.json", "/srv/p/x/../../q/a.json": "a.json"},
		"/":      {"/var/lib/kubelet/seccomp/a.json": "var/lib/kubelet/seccomp/a.json", "/a.json": "a.json"},
	} {
		c.SeccompDir = dir
		for ref, want := range names {
			if got := (CeilingPlaces{c}).SeccompProfile(ref); got != want {
				t.Errorf("directory %q: %s is %q, want %q", dir, ref, got, want)
			}
		}
	}
	if k := (CeilingPlaces{c}).SeccompUnset(); k != plan.ProfileRuntimeDefault {
		t.Error("a profile that was forgotten is", k)
	}
	c.SeccompUnsetUnconfined = true
	if k := (CeilingPlaces{c}).SeccompUnset(); k != plan.ProfileUnconfined {
		t.Error("unset is", k)
	}
}

func TestPlaces(t *testing.T) {
	c, err := ceiling.Parse("test", []byte(testCeiling))
	if err != nil {
		t.Fatal(err)
	}
	p := CeilingPlaces{c}
	for path, want := range map[string]plan.Place{
		"/var/lib/kubelet/pods/u-1/volumes/x": {Root: plan.RootPodVolumes, Rel: "volumes/x"},
		"/srv/data/x":                         {Root: plan.RootHostPath, Name: "data", Rel: "x"},
		"/srv/data/inner/y":                   {Root: plan.RootHostPath, Name: "inner", Rel: "y"},
	} {
		got, makeDir, err := p.Mount("u-1", path)
		if err != nil || got != want || makeDir != (want.Name == "data") {
			t.Errorf("%s: %v %v %v", path, got, makeDir, err)
		}
	}
	for _, path := range []string{"/etc/shadow", "/var/lib/kubelet/pods/u-2/volumes/x", "/srv/database", "/srv/data/../../etc"} {
		if got, _, err := p.Mount("u-1", path); err == nil {
			t.Errorf("%s: %v", path, got)
		}
	}
	_, _, err = p.Mount("u-1", "/etc/shadow")
	if got := badPlan("CreateContainer", err); status.Code(got) != codes.PermissionDenied {
		t.Error(got)
	}
	var out *Outside
	if _, err := p.CgroupParent("/elsewhere"); !errors.As(err, &out) {
		t.Error(err)
	}
	// A kubelet with the other driver names no path: it is told so, whatever the roots are.
	c.CgroupRoots = append(c.CgroupRoots, ceiling.Root{Name: "root", Path: "/"})
	if got, err := p.CgroupParent("kubepods-burstable-pod1.slice"); !errors.As(err, &out) || !strings.Contains(err.Error(), "cgroupDriver: cgroupfs") {
		t.Errorf("%v, %v", got, err)
	}
	c.Systemd = true
	c.CgroupRoots = []ceiling.Root{{Name: "slices", Path: "/kubepods.slice"}}
	for name, want := range map[string]string{"kubepods-burstable-pod1.slice": "kubepods-burstable.slice/kubepods-burstable-pod1.slice", "kubepods.slice": "",
		"/kubepods.slice/kubepods-x.slice": "kubepods-x.slice", "system-x.slice": "no", "kubepods-.slice": "no", "-kubepods.slice": "no", "kubepods--x.slice": "no", ".slice": "no"} {
		got, err := p.CgroupParent(name)
		if (err != nil) != (want == "no") || err == nil && got != (plan.Place{Root: plan.RootCgroup, Name: "slices", Rel: want}) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	c.Systemd, c.CgroupRoots = false, []ceiling.Root{{Name: "root", Path: "/"}}
	if got, err := p.CgroupParent("/a.slice/b"); err != nil || got.Rel != "a.slice/b" {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := p.Device("/etc/passwd"); !errors.As(err, &out) {
		t.Error(err)
	}
}

func TestFit(t *testing.T) {
	c, err := ceiling.Parse("test", []byte(testCeiling))
	if err != nil {
		t.Fatal(err)
	}
	p := CeilingPlaces{c}
	pod := plan.PodPlan{Class: plan.Baseline, UID: "u", Network: plan.NamespacePod, PID: plan.NamespacePod, IPC: plan.NamespacePod}
	p.FitPod(&pod)
	if pod.Class != plan.Restricted || len(pod.Sysctls) != 1 || pod.Sysctls[0].Name != "net.ipv4.ping_group_range" {
		t.Error(pod)
	}
	host := plan.PodPlan{Class: plan.System, UID: "u", Network: plan.NamespaceNode, PID: plan.NamespacePod, IPC: plan.NamespacePod}
	p.FitPod(&host)
	if host.Class != plan.System || len(host.Sysctls) != 0 {
		t.Error(host)
	}
	none := plan.PodPlan{Class: plan.Baseline, UID: "u", Network: plan.NamespacePod, PID: plan.NamespaceNode, IPC: plan.NamespacePod}
	p.FitPod(&none)
	if none.Class != plan.Baseline {
		t.Error("what fits nowhere keeps its class:", none.Class)
	}
	ctr := plan.Plan{Class: plan.Baseline, Args: []string{"x"}, NoNewPrivs: false, User: plan.User{UID: 5}}
	p.FitContainer(&pod, &ctr)
	if ctr.Class != plan.System {
		t.Error(ctr.Class)
	}
}

// TestAutoUserNS: a pod that does not ask gets ids that no other pod has, until
// there are none left; those that cannot have any, or asked for theirs, do not.
func TestAutoUserNS(t *testing.T) {
	c, err := ceiling.Parse("test", []byte("userns_auto = 2147483648\nmax_pods = 4\n"+testCeiling))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range c.Classes {
		r.UserNamespaces = true
	}
	w := newWorldWith(t, func(w *world) { w.places = CeilingPlaces{c} })
	run := func(name string, change func(*cri.LinuxSandboxSecurityContext)) *cri.UserNamespace {
		t.Helper()
		r := podRequest(name)
		r.Config.LogDirectory = "/var/log/pods/ns_" + name + "_uid-" + name
		sc := &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{}}
		change(sc)
		r.Config.Linux = &cri.LinuxPodSandboxConfig{SecurityContext: sc}
		a, err := w.runtime.RunPodSandbox(t.Context(), r)
		if err != nil {
			t.Fatal(name, err)
		}
		s, err := w.runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: a.PodSandboxId})
		if err != nil {
			t.Fatal(err)
		}
		return s.Status.Linux.Namespaces.Options.UsernsOptions
	}
	nothing := func(*cri.LinuxSandboxSecurityContext) {}
	if u := run("host", func(s *cri.LinuxSandboxSecurityContext) { s.NamespaceOptions.Network = cri.NamespaceMode_NODE }); u != nil {
		t.Errorf("a pod in the host's network: %v", u)
	}
	own := []*cri.IDMapping{{HostId: 1<<31 + 1<<16 + 5, Length: 1 << 16}} // in the second block and the third
	if u := run("own", func(s *cri.LinuxSandboxSecurityContext) {
		s.NamespaceOptions.UsernsOptions = &cri.UserNamespace{Uids: own, Gids: own}
	}); u.GetUids()[0].HostId != own[0].HostId {
		t.Errorf("a pod with its own: %v", u)
	}
	for i, want := range []uint32{1 << 31, 1<<31 + 3<<16} {
		u := run(fmt.Sprint("auto", i), nothing)
		if len(u.GetUids()) != 1 || u.Uids[0].HostId != want || u.Uids[0].Length != 1<<16 || u.Gids[0].HostId != want {
			t.Errorf("pod %d: %v, want ids from %d on", i, u, want)
		}
	}
	if u := run("late", nothing); u != nil {
		t.Errorf("there are no more ids: %v", u)
	}
}

// TestShipped: every ceiling that is shipped admits the pods that it is for.
func TestShipped(t *testing.T) {
	for _, name := range []string{"restricted", "baseline", "conformance"} {
		b, err := os.ReadFile("../../profiles/ceiling/" + name + ".toml")
		if err != nil {
			t.Fatal(err)
		}
		c, err := ceiling.Parse(name, b)
		if err != nil {
			t.Fatal(err)
		}
		pod := plan.PodPlan{Class: plan.System, UID: "u", Hostname: "h", Network: plan.NamespacePod, PID: plan.NamespaceContainer, IPC: plan.NamespacePod}
		CeilingPlaces{c}.FitPod(&pod)
		if d := c.CheckPod(&pod); d != nil || pod.Class != plan.Restricted {
			t.Errorf("%s: class %d, %v", name, pod.Class, d)
		}
	}
}
