package cri

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-cri/postern/privsep/ceiling"
	"github.com/postern-cri/postern/privsep/keeper"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/seqpacket"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// walkWorld is a world whose outside is deterministic, under the widest ceiling,
// with one running pod and container that the requests are about.
type walkWorld struct {
	*world
	pod, ctr string
	second   string // another running container, where a request wants one
	did      []string
}

func newWalkWorld(t *testing.T) *walkWorld {
	t.Helper()
	c, err := ceiling.Load("../../profiles/ceiling/conformance.toml")
	if err != nil {
		t.Fatal(err)
	}
	ww := &walkWorld{}
	w := newWorldWith(t, func(w *world) {
		must(os.WriteFile(filepath.Join(w.dir, "cgroup.controllers"), nil, 0o644)) // version 2
		w.places, w.names, w.images, w.helper.keep = CeilingPlaces{c}, c.Handlers, &ww.did, true
	})
	ww.world = w
	w.fakeStreamer(t)
	w.helper.onExec(func(id string, p plan.ExecPlan, fds []int) {
		for _, fd := range fds {
			unix.Write(fd, []byte(p.Args[0]))
		}
		seqpacket.CloseAll(fds)
		if p.Args[0] != "forever" {
			w.Exited(keeper.Exit{Key: id, Code: 7})
		}
	})
	ww.pod, ww.ctr = w.runPod(t, "web")
	return ww
}

// base is the request that a method's fields are set on, one at a time.
func (w *walkWorld) base(method string) proto.Message {
	mapping := func() []*cri.IDMapping { return []*cri.IDMapping{{HostId: 1 << 20, Length: 1 << 16}} }
	switch method {
	case "RunPodSandbox":
		return &cri.RunPodSandboxRequest{Config: &cri.PodSandboxConfig{
			Metadata: &cri.PodSandboxMetadata{Name: "other", Uid: "uid-other", Namespace: "ns"}, LogDirectory: "/var/log/pods/ns_other_uid-other",
			PortMappings: []*cri.PortMapping{{ContainerPort: 80, HostPort: 8080}},
			Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{
				UsernsOptions: &cri.UserNamespace{Uids: mapping(), Gids: mapping()},
			}}},
		}}
	case "CreateContainer":
		r := containerRequest(w.pod, "other")
		r.Config.Mounts = []*cri.Mount{{ContainerPath: "/data", HostPath: "/srv"}, {ContainerPath: "/image", Image: &cri.ImageSpec{Image: "reg/app:1"}}}
		r.Config.Devices = []*cri.Device{{HostPath: "/dev/fuse", ContainerPath: "/dev/fuse", Permissions: "r"}}
		r.Config.Envs = []*cri.KeyValue{{Key: "K", Value: []byte("v")}}
		r.Config.Linux = &cri.LinuxContainerConfig{Resources: &cri.LinuxContainerResources{}, SecurityContext: &cri.LinuxContainerSecurityContext{
			RunAsUser: &cri.Int64Value{Value: 5}, Capabilities: &cri.Capability{AddAmbientCapabilities: []string{"CHOWN"}},
		}}
		return r
	case "UpdateContainerResources":
		return &cri.UpdateContainerResourcesRequest{ContainerId: w.ctr, Linux: &cri.LinuxContainerResources{}}
	case "UpdatePodSandboxResources":
		return &cri.UpdatePodSandboxResourcesRequest{PodSandboxId: w.pod}
	case "StopPodSandbox", "RemovePodSandbox", "PodSandboxStatus", "PodSandboxStats", "PortForward", "CheckpointPod":
		return w.request(method, "pod_sandbox_id", w.pod)
	case "StartContainer":
		c, err := w.runtime.CreateContainer(context.Background(), containerRequest(w.pod, "second"))
		must(err)
		return &cri.StartContainerRequest{ContainerId: c.ContainerId}
	case "ExecSync":
		return &cri.ExecSyncRequest{ContainerId: w.ctr, Cmd: []string{"true"}}
	case "Exec":
		return &cri.ExecRequest{ContainerId: w.ctr, Cmd: []string{"true"}, Stdin: true}
	case "Attach":
		return &cri.AttachRequest{ContainerId: w.ctr, Stdin: true}
	case "StopContainer", "RemoveContainer", "ContainerStatus", "ReopenContainerLog", "ContainerStats", "CheckpointContainer":
		return w.request(method, "container_id", w.ctr)
	case "ImageStatus":
		return &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: "reg/app:1"}}
	case "PullImage":
		return &cri.PullImageRequest{Image: &cri.ImageSpec{Image: "reg/app:1"}, SandboxConfig: &cri.PodSandboxConfig{Metadata: &cri.PodSandboxMetadata{Name: "web"}}}
	case "RemoveImage":
		return &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: "reg/other:1"}}
	}
	return w.request(method, "", "")
}

// request makes a method's request with one string in it.
func (w *walkWorld) request(name, field, value string) proto.Message {
	all := methods()
	m := newMessage(all[slices.IndexFunc(all, func(m *method) bool { return m.name() == name })].desc.Input())
	if field != "" {
		m.ProtoReflect().Set(m.ProtoReflect().Descriptor().Fields().ByName(protoreflect.Name(field)), protoreflect.ValueOfString(value))
	}
	return m
}

func newMessage(d protoreflect.MessageDescriptor) proto.Message {
	t, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	must(err)
	return t.New().Interface()
}

// setField gives the field at the end of l another value than it has.
func setField(m proto.Message, l leaf) {
	at := m.ProtoReflect()
	for _, f := range l.via[:len(l.via)-1] {
		if f.IsList() {
			list := at.Mutable(f).List()
			if list.Len() == 0 {
				list.Append(list.NewElement())
			}
			n := 0
			if i, ok := elements[l.path]; ok && i < list.Len() {
				n = i
			}
			at = list.Get(n).Message()
			continue
		}
		at = at.Mutable(f).Message()
	}
	f := l.via[len(l.via)-1]
	v, given := samples[l.path]
	one := func() protoreflect.Value {
		switch f.Kind() {
		case protoreflect.StringKind:
			if given {
				return protoreflect.ValueOfString(v.(string))
			}
			return protoreflect.ValueOfString("x1")
		case protoreflect.BytesKind:
			return protoreflect.ValueOfBytes([]byte("x1"))
		case protoreflect.BoolKind:
			return protoreflect.ValueOfBool(true)
		}
		n := 1
		if given {
			n = v.(int)
		}
		switch f.Kind() {
		case protoreflect.EnumKind:
			return protoreflect.ValueOfEnum(protoreflect.EnumNumber(n))
		case protoreflect.Int32Kind:
			return protoreflect.ValueOfInt32(int32(n))
		case protoreflect.Int64Kind:
			return protoreflect.ValueOfInt64(int64(n))
		case protoreflect.Uint32Kind:
			return protoreflect.ValueOfUint32(uint32(n))
		case protoreflect.Uint64Kind:
			return protoreflect.ValueOfUint64(uint64(n))
		}
		panic("no sample for " + l.path)
	}
	switch {
	case f.IsMap():
		key, value := "x1", "y1"
		if given {
			key, value, _ = strings.Cut(v.(string), "=")
		}
		at.Mutable(f).Map().Set(protoreflect.ValueOfString(key).MapKey(), protoreflect.ValueOfString(value))
	case f.IsList():
		at.Mutable(f).List().Append(one())
	default:
		at.Set(f, one())
	}
}

var (
	ulids = regexp.MustCompile(`\b0[0-9A-HJKMNP-TV-Z]{25}\b`)
	times = regexp.MustCompile(`\b1[0-9]{18}\b`)
	mints = regexp.MustCompile(`/(exec|attach|portforward)/[0-9a-f]{64}`)
)

// observe calls a method and writes down all that it did and said.
func (w *walkWorld) observe(t *testing.T, m *method, r proto.Message) (seen string, failed error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	w.helper.mu.Lock()
	w.helper.seen = nil
	w.helper.mu.Unlock()
	w.policy.mu.Lock()
	w.policy.facts = nil
	w.policy.mu.Unlock()
	w.did = nil
	answers, failed := w.call(ctx, m, r, 0)
	var b strings.Builder
	fmt.Fprintf(&b, "error %v\n", failed)
	for _, a := range answers {
		j, err := protojson.Marshal(a)
		must(err)
		// protojson sets spaces as it likes.
		var v any
		must(json.Unmarshal(j, &v))
		j, err = json.Marshal(v)
		must(err)
		fmt.Fprintf(&b, "answer %s\n", j)
	}
	w.helper.mu.Lock()
	fmt.Fprintf(&b, "helper %s\n", strings.Join(w.helper.seen, "\n"))
	w.helper.mu.Unlock()
	w.policy.mu.Lock()
	fmt.Fprintf(&b, "policy %s\n", strings.Join(w.policy.facts, "\n"))
	w.policy.mu.Unlock()
	fmt.Fprintf(&b, "images %q\n", w.did)
	for _, p := range w.store.Pods() {
		p = p.Clone()
		p.Request = ""
		j, err := json.Marshal(p)
		must(err)
		fmt.Fprintf(&b, "pod %s\n", j)
	}
	for _, c := range w.store.Containers("") {
		c = c.Clone()
		c.Request = ""
		j, err := json.Marshal(c)
		must(err)
		fmt.Fprintf(&b, "container %s\n", j)
	}
	if c := w.podCIDR.Load(); c != nil {
		fmt.Fprintf(&b, "pod cidr %s\n", *c)
	}
	w.grants.mu.Lock()
	for _, g := range w.grants.open {
		fmt.Fprintf(&b, "grant %s %s %s %v %v %v %v %v %v\n", g.kind, g.container, g.pod, g.exec, g.tty, g.stdin, g.stdout, g.stderr, g.ports)
	}
	w.grants.open = nil
	w.grants.mu.Unlock()
	s := ulids.ReplaceAllString(b.String(), "ULID")
	s = times.ReplaceAllString(s, "TIME")
	return mints.ReplaceAllString(s, "/$1/GRANT"), failed
}

// call calls any method; of a stream it takes everything, or the first few.
func (w *world) call(ctx context.Context, m *method, r proto.Message, few int) ([]proto.Message, error) {
	if !m.desc.IsStreamingServer() {
		a := newMessage(m.desc.Output())
		if err := w.cc.Invoke(ctx, m.full, r, a); err != nil {
			return nil, err
		}
		return []proto.Message{a}, nil
	}
	s, err := w.cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, m.full)
	if err != nil {
		return nil, err
	}
	if err := s.SendMsg(r); err != nil {
		return nil, err
	}
	if err := s.CloseSend(); err != nil {
		return nil, err
	}
	var out []proto.Message
	for few == 0 || len(out) < few {
		a := newMessage(m.desc.Output())
		if err := s.RecvMsg(a); err == io.EOF {
			return out, nil
		} else if err != nil {
			return out, err
		}
		out = append(out, a)
	}
	return out, nil
}

// trial tries the fields of one method, each in a world of its own.
type trial struct {
	*testing.T
	m    *method
	base map[string]string // what happens without the field, by what is given
}

// run makes the request with fields set and says what happens.
func (t *trial) run(given string, set ...leaf) (string, error) {
	w := newWalkWorld(t.T)
	defer w.stop()
	r := w.base(t.m.name())
	if f := givens[given]; f != nil {
		f(w, r)
	}
	for _, l := range set {
		if f := changes[l.path]; f != nil {
			f(w, r)
		} else {
			setField(r, l)
		}
	}
	return w.observe(t.T, t.m, r)
}

// without is what happens with nothing set.
func (t *trial) without(given string) string {
	if givens[given] == nil {
		given = ""
	}
	if _, ok := t.base[given]; !ok {
		s, err := t.run(given)
		if err != nil {
			t.Fatalf("the request that fields are set on (%s): %v", given, err)
		}
		t.base[given] = s
	}
	return t.base[given]
}

func (t *trial) honoured(l leaf) {
	after, err := t.run(l.path, l)
	if after == t.without(l.path) {
		t.Errorf("%s is claimed to be honoured, and setting it changes nothing", l.path)
	}
	if want := failing[l.path]; err != nil && want == "" || want != "" && !strings.Contains(fmt.Sprint(err), want) {
		t.Errorf("%s: %v, want %q", l.path, err, want)
	}
}

// refused needs one world: a refusal changes nothing in it.
func (t *trial) refused(list []leaf, words []string) {
	if len(list) == 0 {
		return
	}
	w := newWalkWorld(t.T)
	defer w.stop()
	for i, l := range list {
		r := w.base(t.m.name())
		setField(r, l)
		before := fmt.Sprint(w.helper.list(), w.store.Pods(), w.store.Containers(""))
		_, err := w.observe(t.T, t.m, r)
		if err == nil || !strings.Contains(status.Convert(err).Message(), words[i]) {
			t.Errorf("%s is claimed to be refused with %q in the message: %v", l.path, words[i], err)
		}
		if fmt.Sprint(w.helper.list(), w.store.Pods(), w.store.Containers("")) != before {
			t.Errorf("%s is refused, and something was changed", l.path)
		}
	}
}

// ignored sets all of them at once; if that changes something, one after the other.
func (t *trial) ignored(list []leaf) {
	if len(list) == 0 {
		return
	}
	if after, _ := t.run("", list...); after == t.without("") {
		return
	}
	for _, l := range list {
		if after, _ := t.run("", l); after != t.without("") {
			t.Errorf("%s is claimed to be ignored, and setting it changes\n%s\nto\n%s", l.path, t.without(""), after)
		}
	}
}

// TestEveryRequestField sets the fields and holds what happens against the claims.
func TestEveryRequestField(t *testing.T) {
	c := readClaims(t)
	for _, m := range methods() {
		t.Run(m.name(), func(t *testing.T) {
			t.Parallel()
			try := &trial{T: t, m: m, base: map[string]string{}}
			var refused, ignored []leaf
			var words []string
			for _, l := range m.input {
				switch n := find(c.request, l.path); {
				case n == nil: // TestEveryFieldIsClaimed says so
				case n.kind == "honoured":
					try.honoured(l)
				case n.kind == "refused":
					refused, words = append(refused, l), append(words, n.proof)
				default:
					ignored = append(ignored, l)
				}
			}
			try.refused(refused, words)
			try.ignored(ignored)
		})
	}
}
