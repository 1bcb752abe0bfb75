package cri

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/postern-cri/postern/privsep/keeper"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/seqpacket"
	"github.com/postern-cri/postern/privsep/wire"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// groupFiles are those of a control group of version 2.
var groupFiles = map[string]string{
	"cpu.stat":       "usage_usec 5000000\nuser_usec 3000000\nsystem_usec 2000000\nnr_periods 3\nnr_throttled 2\nthrottled_usec 1000000\nnr_bursts 1\nburst_usec 1000000\n",
	"cpu.pressure":   "some avg10=1.00 avg60=2.00 avg300=3.00 total=4000000\nfull avg10=1.00 avg60=2.00 avg300=3.00 total=4000000\n",
	"memory.current": "8388608\n", "memory.max": "16777216\n", "memory.peak": "9000000\n", "memory.swap.current": "4096\n", "memory.swap.max": "8192\n",
	"memory.stat":     "anon 4096\nfile 8192\nkernel 1024\nfile_mapped 2048\ninactive_file 1024\nactive_file 512\npgfault 7\npgmajfault 3\nfile_dirty 512\nfile_writeback 256\npgscan 5\npgsteal 4\nworkingset_refault_file 2\nworkingset_refault_anon 1\n",
	"memory.events":   "low 0\nhigh 2\nmax 3\noom 1\noom_kill 1\n",
	"memory.pressure": "some avg10=1.00 avg60=2.00 avg300=3.00 total=4000000\nfull avg10=1.00 avg60=2.00 avg300=3.00 total=4000000\n",
	"io.pressure":     "some avg10=1.00 avg60=2.00 avg300=3.00 total=4000000\nfull avg10=1.00 avg60=2.00 avg300=3.00 total=4000000\n",
	"io.stat":         "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n",
	"pids.current":    "3\n", "pids.max": "100\n", "pids.peak": "4\n",
	"cpu.max": "20000 100000\n", "cpu.weight": "20\n", "cgroup.procs": "",
}

func (w *world) group(t *testing.T, names ...string) {
	t.Helper()
	for _, n := range names {
		dir := filepath.Join(w.dir, n)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for f, text := range groupFiles {
			if err := os.WriteFile(filepath.Join(dir, f), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		// What was measured before, so that there is a rate.
		w.rates.last[filepath.Base(n)] = rate{nanos: 1, at: time.Now().Add(-10 * time.Second)}
	}
}

const netDev = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:       1       1    0    0    0     0          0         0        1       1    0    0    0     0       0          0
  eth0:    1000      10    1    2    0     0          0         0     2000      20    3    4    0     0       0          0
`

// full fills a world with all that an answer can speak of.
func (w *walkWorld) full(t *testing.T) {
	ctx := t.Context()
	w.rates.last = map[string]rate{}
	w.helper.mu.Lock()
	w.helper.netdev, w.helper.ips = netDev, []string{"10.0.0.2", "fd00::2"}
	w.helper.mu.Unlock()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	w.pod, w.ctr, w.second = w.fullPod(t, "full")
	_, err := w.runtime.UpdatePodSandboxResources(ctx, &cri.UpdatePodSandboxResourcesRequest{PodSandboxId: w.pod, Resources: &cri.LinuxContainerResources{CpuShares: 2}})
	check(err)
	// A container that was killed for memory, and one that could not start.
	_, err = w.runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: w.second})
	check(err)
	c, err := w.runtime.CreateContainer(ctx, containerRequest(w.pod, "broken"))
	check(err)
	w.helper.onAny(func(v wire.Verb) *wire.Answer {
		if v == wire.CtrStart {
			return &wire.Answer{Code: wire.Failed, Message: "exec format error"}
		}
		return nil
	})
	if _, err := w.runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: c.ContainerId}); err == nil {
		t.Fatal("a container that cannot start was started")
	}
	w.helper.onAny(nil)
	_, err = w.runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: "node", Uid: "uid-node", Namespace: "ns"},
		Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{
			Network: cri.NamespaceMode_NODE, Ipc: cri.NamespaceMode_NODE,
		}}},
	}})
	check(err)
	// A pod that was stopped.
	old, _, _ := w.fullPod(t, "old")
	_, err = w.runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: old})
	check(err)
	w.measureAll(ctx, false)
}

// fullPod runs a pod of which everything is asked for, with two such containers.
func (w *walkWorld) fullPod(t *testing.T, name string) (pod, a, b string) {
	t.Helper()
	ctx := t.Context()
	maps := []*cri.IDMapping{{HostId: 1 << 20, Length: 1 << 16}}
	ns := &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER, UsernsOptions: &cri.UserNamespace{Uids: maps, Gids: maps}}
	p, err := w.runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{RuntimeHandler: "test-handler", Config: &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: name, Uid: "uid-" + name, Namespace: "ns", Attempt: 1}, LogDirectory: "/var/log/pods/ns_" + name + "_uid-" + name,
		Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"c": "d"},
		Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: ns}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, n := range []string{"a", "b"} {
		c, err := w.runtime.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: p.PodSandboxId, Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: n, Attempt: 2}, Image: &cri.ImageSpec{Image: testImage.ID, UserSpecifiedImage: "reg/app:1"}, LogPath: n,
			Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"c": "d"}, StopSignal: cri.Signal_SIGNAL_SIGHUP,
			Mounts: []*cri.Mount{
				{ContainerPath: "/data", HostPath: "/srv", Readonly: true, RecursiveReadOnly: true, SelinuxRelabel: true, UidMappings: maps, GidMappings: maps, MountOptions: []string{"noexec"}},
				{ContainerPath: "/slave", HostPath: "/srv", Propagation: cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER},
				{ContainerPath: "/image", Image: &cri.ImageSpec{Image: testImage.ID, UserSpecifiedImage: "reg/app:1"}, ImageSubPath: "sub"},
			},
			Linux: &cri.LinuxContainerConfig{
				Resources: &cri.LinuxContainerResources{CpuPeriod: 100000, CpuQuota: 20000, CpuShares: 5, MemoryLimitInBytes: 1 << 24, OomScoreAdj: 9, CpusetCpus: "0",
					CpusetMems: "0", HugepageLimits: []*cri.HugepageLimit{{PageSize: "2MB", Limit: 5}}, Unified: map[string]string{"memory.high": "9"}, MemorySwapLimitInBytes: 1 << 25},
				SecurityContext: &cri.LinuxContainerSecurityContext{RunAsUser: &cri.Int64Value{Value: 5}, RunAsGroup: &cri.Int64Value{Value: 6}},
			},
		}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: c.ContainerId}); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, c.ContainerId)
	}
	w.group(t, "pods/"+p.PodSandboxId, "pods/"+ids[0], "pods/"+ids[1])
	return p.PodSandboxId, ids[0], ids[1]
}

// asks are the requests that make a call answer with all it can.
func (w *walkWorld) asks(t *testing.T, m string) []proto.Message {
	switch m {
	case "PodSandboxStatus":
		var out []proto.Message
		for _, p := range w.store.Pods() {
			out = append(out, &cri.PodSandboxStatusRequest{PodSandboxId: p.ID, Verbose: true})
		}
		return out
	case "ContainerStatus":
		var out []proto.Message
		for _, c := range w.store.Containers("") {
			out = append(out, &cri.ContainerStatusRequest{ContainerId: c.ID, Verbose: true})
		}
		return out
	case "ImageStatus":
		return []proto.Message{&cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: testImage.ID}, Verbose: true}, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: namedUser.ID}, Verbose: true}}
	case "Status":
		return []proto.Message{&cri.StatusRequest{Verbose: true}, &cri.StatusRequest{Verbose: true}}
	case "ContainerStats":
		return []proto.Message{&cri.ContainerStatsRequest{ContainerId: w.ctr}}
	case "PodSandboxStats":
		return []proto.Message{&cri.PodSandboxStatsRequest{PodSandboxId: w.pod}}
	case "ExecSync":
		return []proto.Message{&cri.ExecSyncRequest{ContainerId: w.ctr, Cmd: []string{"out"}}}
	case "Exec":
		return []proto.Message{&cri.ExecRequest{ContainerId: w.ctr, Cmd: []string{"out"}, Stdout: true}}
	case "Attach":
		return []proto.Message{&cri.AttachRequest{ContainerId: w.ctr, Stdout: true}}
	case "PortForward":
		return []proto.Message{&cri.PortForwardRequest{PodSandboxId: w.pod}}
	}
	return []proto.Message{w.base(m)}
}

// answers calls m in a world that is full.
func (w *walkWorld) answers(t *testing.T, m *method) []proto.Message {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	few := 0
	if m.name() == "GetContainerEvents" {
		few = 2 + len(w.store.Pods())
		go func() { // an event of each kind, with a pod that is ready and one that is not
			for !w.events.any() {
				if ctx.Err() != nil {
					return
				}
				time.Sleep(time.Millisecond)
			}
			w.event(w.ctr, cri.ContainerEventType_CONTAINER_STARTED_EVENT)
			w.event(w.second, cri.ContainerEventType_CONTAINER_STOPPED_EVENT)
			for _, p := range w.store.Pods() {
				w.podEvent(p.ID, cri.ContainerEventType_CONTAINER_DELETED_EVENT)
			}
		}()
	}
	var out []proto.Message
	for i, r := range w.asks(t, m.name()) {
		w.helper.mu.Lock()
		w.helper.hello = &wire.HelloAnswer{Version: wire.Version}
		if i == 0 {
			w.helper.hello.Features = ^uint64(0)
		}
		w.helper.mu.Unlock()
		w.hello.forget()
		a, err := w.call(ctx, m, r, few)
		if err != nil {
			t.Fatalf("%s: %v", m.name(), err)
		}
		out = append(out, a...)
	}
	return out
}

// populate notes every field with a value in m.
func populate(seen map[string]bool, path string, m protoreflect.Message) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		p := path + "." + string(f.Name())
		switch {
		case f.Message() == nil || f.IsMap():
			seen[p] = true
		case f.IsList():
			for i := range v.List().Len() {
				populate(seen, p, v.List().Get(i).Message())
			}
		default:
			populate(seen, p, v.Message())
		}
		return true
	})
}

// TestEveryResponseField asks every call about a full world and holds the answers
// against the claims.
func TestEveryResponseField(t *testing.T) {
	c := readClaims(t)
	for _, m := range methods() {
		if len(m.output) == 0 || find(c.request, m.name()+".x") != nil && find(c.request, m.name()+".x").kind == "refused" {
			continue // the whole call is refused
		}
		t.Run(m.name(), func(t *testing.T) {
			t.Parallel()
			w := newWalkWorld(t)
			defer w.stop()
			w.full(t)
			w.helper.onExec(func(id string, p plan.ExecPlan, fds []int) {
				for _, fd := range fds {
					unix.Write(fd, []byte("x"))
				}
				seqpacket.CloseAll(fds)
				w.Exited(keeper.Exit{Key: id, Code: 7})
			})
			seen := map[string]bool{}
			for _, a := range w.answers(t, m) {
				populate(seen, m.name(), a.ProtoReflect())
			}
			for _, l := range m.output {
				switch n := l.response(c); {
				case n == nil: // TestEveryFieldIsClaimed says so
				case n.kind == "filled" && !seen[l.path]:
					t.Errorf("%s is claimed to be filled, and is not", l.path)
				case n.kind == "empty" && seen[l.path]:
					t.Errorf("%s is claimed to be empty, and is not", l.path)
				}
				delete(seen, l.path)
			}
			for _, p := range slices.Sorted(maps.Keys(seen)) {
				t.Errorf("%s: not in the walk", p)
			}
		})
	}
}
