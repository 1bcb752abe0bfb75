package machine

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/ceiling"
	"github.com/postern-cri/postern/privsep/helper"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/record"
)

// A class of the ceiling that is read-only is so all the way down: a file system
// of the host that is mounted in it cannot be written to either.
func TestReadOnlyClassIsRecursive(t *testing.T) {
	r := newRig(t)
	r.m.Ceiling.HostPaths = append(r.m.Ceiling.HostPaths, ceiling.HostPath{Name: "ro", Path: r.host, ReadOnly: true})
	r.must(os.Mkdir(r.host+"/sub", 0o755))
	r.must(unix.Mount("tmpfs", r.host+"/sub", "tmpfs", 0, ""))
	defer unix.Unmount(r.host+"/sub", unix.MNT_DETACH)
	in, out := r.pod(1, plan.NamespaceContainer)
	ci, co := r.ctr(2, in, out, "(echo x > /h/sub/x) 2>/dev/null && echo written || echo refused", func(p *plan.Plan) {
		p.Mounts = []plan.Mount{{From: plan.Place{Root: plan.RootHostPath, Name: "ro"}, To: "/h", ReadOnly: true, Propagation: plan.Private}}
	})
	r.must(r.m.CtrStart(ci.ID, co.Proc))
	if s := r.output(ci.ID); s != "refused\n" {
		t.Errorf("a write beneath a read-only class: %q", s)
	}
	r.gone(co.Proc)
	r.must(r.m.CtrDelete(ci.ID, co))
	r.must(r.m.PodDelete(in, out))
	r.must(r.m.NetworkDelete(helper.PodIn{ID: in.ID, Plan: in.Plan}))
}

// A target in the host's PID namespace does not give it to a container whose
// class must not have it.
func TestTargetIsNoWayToTheHost(t *testing.T) {
	r := newRig(t)
	in, out := r.pod(1, plan.NamespaceContainer)
	ci, co := r.ctr(2, in, out, "sleep 1000", func(p *plan.Plan) { p.PID = plan.NamespaceNode })
	p := *ci.Plan
	p.PID, p.Target, p.Log = plan.NamespaceTarget, ci.ID, ""
	second := helper.CtrIn{ID: id(3), PodID: in.ID, Pod: in.Plan, PodOut: &out, Plan: &p, Records: map[string]*record.Record{r.record.Manifest: r.record}, Target: co.Proc}
	made, err := r.m.CtrCreate(second)
	if err == nil || !strings.Contains(err.Error(), "host_pid") {
		t.Errorf("a container in the host's PID namespace: %v", err)
	}
	r.must(r.m.CtrDelete(second.ID, made))
	r.must(r.m.CtrDelete(ci.ID, co))
	r.must(r.m.PodDelete(in, out))
	r.must(r.m.NetworkDelete(helper.PodIn{ID: in.ID, Plan: in.Plan}))
}

// A pod can be taken off the network whatever its names: one that cannot would
// take a place of max_pods for ever.
func TestNetworkDeleteWithAnyName(t *testing.T) {
	r := newRig(t)
	in := helper.PodIn{ID: id(1), Claims: &plan.Claims{PodName: "a;b", Namespace: "c=d e", PodUID: "\x01"}, Plan: &plan.PodPlan{UID: "u", Network: plan.NamespacePod, IPC: plan.NamespacePod, PID: plan.NamespaceContainer}}
	out, err := r.m.PodCreate(in)
	if err == nil {
		t.Error("a pod without a network configuration")
	}
	r.must(r.m.PodDelete(in, out))
	if err := r.m.NetworkDelete(in); err != nil {
		t.Error(err)
	}
}

// A process of another cgroup is none of the container's, whatever its number.
func TestMember(t *testing.T) {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	own := strings.SplitN(strings.SplitN(string(b), "\n", 2)[0], ":", 3)[2]
	if !member(os.Getpid(), own) || member(os.Getpid(), own+"/other") || member(os.Getpid(), "") {
		t.Errorf("cgroup %q", own)
	}
}

// What a container may write of its pod's files is bounded: they are beneath the
// node's /run otherwise, which its root could fill.
func TestPodFilesAreBounded(t *testing.T) {
	r := newRig(t)
	in, out := r.pod(1, plan.NamespaceContainer)
	ci, co := r.ctr(2, in, out, "busybox dd if=/dev/zero of=/etc/resolv.conf bs=65536 count=64 2>/dev/null && echo filled || echo bounded", func(p *plan.Plan) {
		p.Mounts = []plan.Mount{{From: plan.Place{Root: plan.RootPodFile, Name: "resolv.conf"}, To: "/etc/resolv.conf", Propagation: plan.Private}}
	})
	r.must(r.m.CtrStart(ci.ID, co.Proc))
	if s := r.output(ci.ID); s != "bounded\n" {
		t.Errorf("4 MiB in resolv.conf: %q", s)
	}
	r.gone(co.Proc)
	r.must(r.m.CtrDelete(ci.ID, co))
	r.must(r.m.PodDelete(in, out))
	r.must(r.m.NetworkDelete(helper.PodIn{ID: in.ID, Plan: in.Plan}))
}
