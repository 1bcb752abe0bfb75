package container

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/profiles/capability"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type places struct{}

func (places) Mount(uid, p string) (plan.Place, bool, error) {
	if rel, ok := strings.CutPrefix(p, "/var/lib/kubelet/pods/"+uid+"/"); ok {
		return plan.Place{Root: plan.RootPodVolumes, Rel: rel}, false, nil
	}
	if rel, ok := strings.CutPrefix(p, "/data/"); ok {
		return plan.Place{Root: plan.RootHostPath, Name: "data", Rel: rel}, true, nil
	}
	return plan.Place{}, false, errors.New("beneath no root of the ceiling")
}

func (places) SeccompProfile(ref string) string { return strings.TrimPrefix(ref, "/profiles/") }

func (places) SeccompUnset() plan.ProfileKind { return plan.ProfileRuntimeDefault }

func (places) Device(p string) (plan.Place, error) {
	if rel, ok := strings.CutPrefix(p, "/dev/"); ok {
		return plan.Place{Root: plan.RootHostPath, Name: "dev", Rel: rel}, nil
	}
	return plan.Place{}, errors.New("not a device of the ceiling")
}

type users struct{}

func (users) ByName(n string) (uint32, uint32, bool, error) {
	if n == "web" {
		return 1000, 1001, true, nil
	}
	return 0, 0, false, nil
}

func (users) ByUID(u uint32) (string, uint32, bool, error) {
	if u == 1000 {
		return "web", 1001, true, nil
	}
	return "", 0, false, nil
}
func (users) Group(n string) (uint32, bool, error) { return 2000, n == "wheel", nil }
func (users) Member(n string) ([]uint32, error)    { return []uint32{50, 51}, nil }

// restricted is a container that fits in the narrowest class.
func restricted() Input {
	return Input{
		Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: "c"},
			LogPath:  "c/0.log",
			Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{
				RunAsUser: &cri.Int64Value{Value: 1000}, NoNewPrivs: true, MaskedPaths: []string{"/proc/kcore"}, ReadonlyPaths: []string{"/proc/sys"},
				Capabilities:     &cri.Capability{DropCapabilities: []string{"ALL"}},
				NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER},
			}},
		},
		Pod: Pod{UID: "u-1", Network: plan.NamespacePod, PID: plan.NamespaceContainer, IPC: plan.NamespacePod, Hostname: "web", HasLogs: true},
		Image: Image{
			Manifest: "sha256:" + strings.Repeat("a", 64), Entrypoint: []string{"/bin/app"}, Cmd: []string{"serve"},
			Env: []string{"A=image", "B=image"}, WorkingDir: "/srv", User: "web",
		},
		At: places{}, Users: users{},
		VolumeImage: func(s *cri.ImageSpec) (string, error) { return "sha256:" + strings.Repeat("b", 64), nil },
		Target: func(id string) error {
			if id != "known" {
				return errors.New("no such container in this pod")
			}
			return nil
		},
	}
}

func TestPlan(t *testing.T) {
	in := restricted()
	in.Config.Envs = []*cri.KeyValue{{Key: "B", Value: []byte("request")}, {Key: "C", Value: []byte("x=y")}}
	in.Config.Mounts = []*cri.Mount{
		{ContainerPath: "/etc/hosts", HostPath: "/var/lib/kubelet/pods/u-1/etc-hosts"},
		{ContainerPath: "/a/b/c/d", HostPath: "/data/x", Readonly: true, RecursiveReadOnly: true, ImageSubPath: "a volume's"},
	}
	in.Image.Volumes = []string{"/vol"}
	got, err := Plan(in)
	if err != nil {
		t.Fatal(err)
	}
	def := plan.Profile{Kind: plan.ProfileRuntimeDefault}
	want := plan.Plan{
		Class: plan.System, Image: in.Image.Manifest, Args: []string{"/bin/app", "serve"}, Cwd: "/srv", NoNewPrivs: true,
		Env:  []string{defaultPath, "HOSTNAME=web", "A=image", "B=request", "C=x=y"},
		User: plan.User{UID: 1000, GID: 1001, Groups: []uint32{1001, 50, 51}},
		PID:  plan.NamespaceContainer, Seccomp: def, AppArmor: def, MaskedPaths: []string{"/proc/kcore"}, ReadOnlyPaths: []string{"/proc/sys"}, Log: "c/0.log",
		Mounts: []plan.Mount{
			{From: plan.Place{Root: plan.RootPodVolumes, Rel: "etc-hosts"}, To: "/etc/hosts", Propagation: plan.Private},
			{From: plan.Place{Root: plan.RootPodFile, Name: "hostname"}, To: "/etc/hostname", Propagation: plan.Private, NoDev: true, NoSuid: true},
			{From: plan.Place{Root: plan.RootPodFile, Name: "resolv.conf"}, To: "/etc/resolv.conf", Propagation: plan.Private, NoDev: true, NoSuid: true},
			{From: plan.Place{Root: plan.RootPodShm}, To: "/dev/shm", Propagation: plan.Private, NoDev: true, NoSuid: true, NoExec: true},
			{From: plan.Place{Root: plan.RootHostPath, Name: "data", Rel: "x"}, To: "/a/b/c/d", ReadOnly: true, RecursiveReadOnly: true, Propagation: plan.Private, MakeDir: true},
		},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func sc(in *Input) *cri.LinuxContainerSecurityContext { return in.Config.Linux.SecurityContext }

func TestClass(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(*Input)
		want plan.Class
	}{
		{"restricted", func(*Input) {}, plan.Restricted},
		{"root", func(in *Input) { sc(in).RunAsUser.Value = 0 }, plan.Baseline},
		{"new privileges", func(in *Input) { sc(in).NoNewPrivs = false }, plan.Baseline},
		{"default capabilities", func(in *Input) { sc(in).Capabilities = nil }, plan.Baseline},
		{"bind service", func(in *Input) { sc(in).Capabilities.AddCapabilities = []string{"NET_BIND_SERVICE"} }, plan.Restricted},
		{"net admin", func(in *Input) { sc(in).Capabilities.AddCapabilities = []string{"cap_net_admin"} }, plan.System},
		{"unconfined", func(in *Input) {
			sc(in).Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined}
		}, plan.System},
		{"unmasked", func(in *Input) { sc(in).MaskedPaths = nil }, plan.System},
		{"privileged", func(in *Input) { in.Pod.Privileged, sc(in).Privileged = true, true }, plan.System},
		{"host network", func(in *Input) { in.Pod.Network = plan.NamespaceNode }, plan.System},
		{"device", func(in *Input) {
			in.Config.Devices = []*cri.Device{{HostPath: "/dev/fuse", ContainerPath: "/dev/fuse", Permissions: "rw"}}
		}, plan.System},
	} {
		in := restricted()
		c.do(&in)
		p, err := Plan(in)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if p.Class != c.want {
			t.Errorf("%s: class %d, want %d", c.name, p.Class, c.want)
		}
	}
}

// TestImageVolumes: a read-only root leaves the image's volumes writable; with a
// writable one they are part of it, with what the image has there.
func TestImageVolumes(t *testing.T) {
	for _, readOnly := range []bool{false, true} {
		in := restricted()
		in.Image.Volumes = []string{"/vol"}
		in.Config.Linux.SecurityContext.ReadonlyRootfs = readOnly
		p, err := Plan(in)
		if err != nil {
			t.Fatal(err)
		}
		got := slices.ContainsFunc(p.Mounts, func(m plan.Mount) bool { return m.To == "/vol" && m.From.Root == plan.RootScratch })
		if got != readOnly {
			t.Errorf("read-only root %v: a directory of its own for the volume: %v", readOnly, got)
		}
	}
}

func TestCapabilities(t *testing.T) {
	bit := func(n string) uint64 { b, _ := capability.Parse(n); return 1 << b }
	for _, c := range []struct {
		name              string
		caps              *cri.Capability
		privileged        bool
		bounding, ambient uint64
	}{
		{"default", &cri.Capability{}, false, capability.Default, 0},
		{"drop all", &cri.Capability{DropCapabilities: []string{"ALL"}}, false, 0, 0},
		{"add all", &cri.Capability{AddCapabilities: []string{"all"}}, false, capability.All, 0},
		{"add all but one", &cri.Capability{AddCapabilities: []string{"ALL"}, DropCapabilities: []string{"CAP_SYS_ADMIN"}}, false, capability.All &^ bit("SYS_ADMIN"), 0},
		{"drop all, add one", &cri.Capability{AddCapabilities: []string{"KILL"}, DropCapabilities: []string{"ALL"}}, false, bit("KILL"), 0},
		{"ambient", &cri.Capability{AddAmbientCapabilities: []string{"NET_RAW"}, DropCapabilities: []string{"ALL"}}, false, bit("NET_RAW"), bit("NET_RAW")},
		{"privileged", &cri.Capability{DropCapabilities: []string{"ALL"}}, true, capability.All, 0},
	} {
		in := restricted()
		sc(&in).Capabilities = c.caps
		in.Pod.Privileged, sc(&in).Privileged = c.privileged, c.privileged
		p, err := Plan(in)
		if err != nil || p.CapsBounding != c.bounding || p.CapsAmbient != c.ambient {
			t.Errorf("%s: %x %x %v, want %x %x", c.name, p.CapsBounding, p.CapsAmbient, err, c.bounding, c.ambient)
		}
	}
}

func TestCommand(t *testing.T) {
	for _, c := range []struct{ command, args, want []string }{
		{nil, nil, []string{"/bin/app", "serve"}},
		{nil, []string{"x"}, []string{"/bin/app", "x"}},
		{[]string{"y"}, nil, []string{"y"}},
		{[]string{"y"}, []string{"x"}, []string{"y", "x"}},
	} {
		in := restricted()
		in.Config.Command, in.Config.Args = c.command, c.args
		p, err := Plan(in)
		if err != nil || !slices.Equal(p.Args, c.want) {
			t.Errorf("%v %v: %v %v, want %v", c.command, c.args, p.Args, err, c.want)
		}
	}
}

func TestUser(t *testing.T) {
	v := func(n int64) *cri.Int64Value { return &cri.Int64Value{Value: n} }
	for _, c := range []struct {
		name  string
		do    func(*Input)
		want  plan.User
		field string
	}{
		{"image name", func(in *Input) {}, plan.User{UID: 1000, GID: 1001, Groups: []uint32{1001, 50, 51}}, ""},
		{"image name and group", func(in *Input) { in.Image.User = "web:wheel" }, plan.User{UID: 1000, GID: 2000, Groups: []uint32{2000, 50, 51}}, ""},
		{"image nothing", func(in *Input) { in.Image.User = "" }, plan.User{Groups: []uint32{0}}, ""},
		{"image number", func(in *Input) { in.Image.User = "7:8" }, plan.User{UID: 7, GID: 8, Groups: []uint32{8}}, ""},
		{"run as user", func(in *Input) { sc(in).RunAsUser = v(5) }, plan.User{UID: 5, Groups: []uint32{0}}, ""},
		{"run as group", func(in *Input) { sc(in).RunAsUser, sc(in).RunAsGroup = v(5), v(6) }, plan.User{UID: 5, GID: 6, Groups: []uint32{6}}, ""},
		{"strict", func(in *Input) {
			sc(in).SupplementalGroups, sc(in).SupplementalGroupsPolicy = []int64{9}, cri.SupplementalGroupsPolicy_Strict
		}, plan.User{UID: 1000, GID: 1001, Groups: []uint32{1001, 9}}, ""},
		{"user name", func(in *Input) { sc(in).RunAsUsername = "web" }, plan.User{UID: 1000, GID: 1001, Groups: []uint32{1001, 50, 51}}, ""},
		{"group alone", func(in *Input) { sc(in).RunAsGroup = v(6) }, plan.User{}, "run_as_group"},
		{"unknown name", func(in *Input) { in.Image.User = "nobody" }, plan.User{}, "User"},
		{"33 bits", func(in *Input) { in.Image.User = "4294967296:1" }, plan.User{}, "User"},
		{"32 bits", func(in *Input) { in.Image.User = "4294967295" }, plan.User{}, "User"},
		{"negative", func(in *Input) { in.Image.User = "-1" }, plan.User{}, "User"},
		{"plus", func(in *Input) { in.Image.User = "+0" }, plan.User{}, "User"},
		{"hex", func(in *Input) { in.Image.User = "0x0" }, plan.User{}, "User"},
		{"exponent", func(in *Input) { in.Image.User = "1e3" }, plan.User{}, "User"},
		{"space", func(in *Input) { in.Image.User = " 0" }, plan.User{}, "User"},
		{"line break", func(in *Input) { in.Image.User = "web\nroot" }, plan.User{}, "User"},
		{"long uid", func(in *Input) { sc(in).RunAsUser = v(1 << 32) }, plan.User{}, "run_as_user"},
	} {
		in := restricted()
		sc(&in).RunAsUser = nil
		c.do(&in)
		p, err := Plan(in)
		if c.field != "" {
			if err == nil || !strings.Contains(err.Error(), c.field) {
				t.Errorf("%s: %v, want an error that names %s", c.name, err, c.field)
			}
			continue
		}
		if d := cmp.Diff(c.want, p.User); d != "" || err != nil {
			t.Errorf("%s: %v %s", c.name, err, d)
		}
	}
}

func TestRefused(t *testing.T) {
	env := func(k, v string) func(*Input) {
		return func(in *Input) { in.Config.Envs = []*cri.KeyValue{{Key: k, Value: []byte(v)}} }
	}
	mount := func(m *cri.Mount) func(*Input) {
		return func(in *Input) { in.Config.Mounts = []*cri.Mount{m} }
	}
	for _, c := range []struct {
		name, field string
		do          func(*Input)
	}{
		{"name", "metadata.name", func(in *Input) { in.Config.Metadata.Name = "a/b" }},
		{"HOME with line break", "HOME", env("HOME", "/x\nroot2::0:0::/:/bin/sh")},
		{"HOME of the image", "HOME", func(in *Input) { in.Image.Env = []string{"HOME=/x\ry"} }},
		{"HOME with separator", "HOME", env("HOME", "/x\u2028y")},
		{"NUL", "A", env("A", "x\x00y")},
		{"equals", "envs", env("A=B", "x")},
		{"env of the image", "Env", func(in *Input) { in.Image.Env = []string{"novalue"} }},
		{"cwd in proc", "working_dir", func(in *Input) { in.Config.WorkingDir = "/proc/self/fd/7" }},
		{"cwd of the image", "WorkingDir", func(in *Input) { in.Image.WorkingDir = "//proc/1/cwd" }},
		{"cwd with line break", "WorkingDir", func(in *Input) { in.Image.WorkingDir = "/a\nb" }},
		{"cwd with parent", "working_dir", func(in *Input) { in.Config.WorkingDir = "/a/../../b" }},
		{"log path", "log_path", func(in *Input) { in.Config.LogPath = "../x" }},
		{"absolute log path", "log_path", func(in *Input) { in.Config.LogPath = "/x" }},
		{"privileged in a plain pod", "privileged", func(in *Input) { sc(in).Privileged = true }},
		{"unknown capability", "add_capabilities", func(in *Input) { sc(in).Capabilities.AddCapabilities = []string{"EVERYTHING"} }},
		{"mount over proc", "container_path", mount(&cri.Mount{ContainerPath: "//proc/self", HostPath: "/data/x"})},
		{"mount over root", "container_path", mount(&cri.Mount{ContainerPath: "/", HostPath: "/data/x"})},
		{"mount with parent", "container_path", mount(&cri.Mount{ContainerPath: "/x/../proc", HostPath: "/data/x"})},
		{"unknown host path", "host_path", mount(&cri.Mount{ContainerPath: "/x", HostPath: "/etc/shadow"})},
		{"other pod's volume", "host_path", mount(&cri.Mount{ContainerPath: "/x", HostPath: "/var/lib/kubelet/pods/u-2/x"})},
		{"host path with parent", "host_path", mount(&cri.Mount{ContainerPath: "/x", HostPath: "/data/../etc/shadow"})},
		{"mount option", "mount_options", mount(&cri.Mount{ContainerPath: "/x", HostPath: "/data/x", MountOptions: []string{"suid"}})},
		{"bidirectional", "propagation", mount(&cri.Mount{ContainerPath: "/x", HostPath: "/data/x", Propagation: 2})},
		{"id map", "uidMappings", mount(&cri.Mount{ContainerPath: "/x", HostPath: "/data/x", UidMappings: []*cri.IDMapping{{Length: 1}}})},
		{"image sub path", "image_sub_path", mount(&cri.Mount{ContainerPath: "/x", Image: &cri.ImageSpec{Image: "i"}, ImageSubPath: "../x"})},
		{"volume of the image", "Volumes", func(in *Input) { in.Image.Volumes = []string{"/proc"} }},
		{"volume in dev", "Volumes", func(in *Input) { in.Image.Volumes = []string{"/dev/x"} }},
		{"stop signal", "StopSignal", func(in *Input) { in.Image.StopSignal = "SIGNOPE" }},
		{"localhost profile", "seccomp", func(in *Input) {
			sc(in).Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: ".."}
		}},
		{"target", "target_id", func(in *Input) {
			sc(in).NamespaceOptions = &cri.NamespaceOption{Pid: cri.NamespaceMode_TARGET, TargetId: "x"}
		}},
		{"host pid in a plain pod", "pid", func(in *Input) { sc(in).NamespaceOptions.Pid = cri.NamespaceMode_NODE }},
		{"CDI", "CDI_devices", func(in *Input) { in.Config.CDIDevices = []*cri.CDIDevice{{Name: "x"}} }},
		{"unified", "unified", func(in *Input) {
			in.Config.Linux.Resources = &cri.LinuxContainerResources{Unified: map[string]string{"../memory.max": "1"}}
		}},
		{"quota", "cpu_quota", func(in *Input) { in.Config.Linux.Resources = &cri.LinuxContainerResources{CpuQuota: -2} }},
	} {
		in := restricted()
		c.do(&in)
		_, err := Plan(in)
		if err == nil || !strings.Contains(err.Error(), c.field) {
			t.Errorf("%s: error %v, want one that names %s", c.name, err, c.field)
		}
	}
}

func TestSignals(t *testing.T) {
	for name, n := range cri.Signal_value {
		got, ok := SignalNumber(cri.Signal(n))
		if !ok {
			t.Errorf("%s: unknown", name)
		}
		short := strings.TrimPrefix(name, "SIGNAL_SIG")
		short = strings.NewReplacer("RTMINPLUS", "RTMIN+", "RTMAXMINUS", "RTMAX-").Replace(short)
		if want, ok := ParseSignal(short); n != 0 && (!ok || want != got) {
			t.Errorf("%s: number %d, by name %d", name, got, want)
		}
		if back, _ := SignalNumber(SignalEnum(got)); back != got {
			t.Errorf("%s: %d comes back as %d", name, got, back)
		}
	}
	for _, bad := range []string{"", "0", "65", "256", "-1", "SIG", "RTMIN+31", "SIGSIGTERM"} {
		if n, ok := ParseSignal(bad); ok {
			t.Errorf("%q is signal %d", bad, n)
		}
	}
}

func FuzzImageConfig(f *testing.F) {
	f.Add("web", "/srv", "A=b", "/vol", "SIGTERM")
	f.Fuzz(func(t *testing.T, user, cwd, env, volume, signal string) {
		in := restricted()
		sc(&in).RunAsUser = nil
		in.Image.User, in.Image.WorkingDir, in.Image.Env = user, cwd, []string{env}
		in.Image.Volumes, in.Image.StopSignal = []string{volume}, signal
		p, err := Plan(in)
		if err != nil {
			return
		}
		if p.User.UID == 0 && strings.Trim(user, "0") != "" && !strings.HasPrefix(strings.TrimLeft(user, "0"), ":") {
			t.Errorf("user %q became root", user)
		}
		if strings.HasPrefix(p.Cwd, "/proc") && (p.Cwd == "/proc" || p.Cwd[5] == '/') || strings.ContainsAny(p.Cwd, "\n\x00") {
			t.Errorf("cwd %q", p.Cwd)
		}
	})
}
