package ceiling

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/postern-cri/postern/fuzz/fill"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/wire"
)

// narrow has one root of every kind and a class that may have nothing, beside
// one that may have all: what is refused to the first is the rule at work.
const narrow = `
profile = "test"
max_pids = 100
handlers = ["kata"]
cdi = ["vendor.com/gpu=0"]
devices = ["fuse"]

[[host_path]]
name = "data"
path = "/srv/data"
read_only = true

[[host_path]]
name = "scratch"
path = "/srv/scratch"
create = true

[[host_path]]
name = "labelled"
path = "/srv/labelled"
relabel = true

[[handler]]
name = "crun"
path = "/usr/bin/crun"
args = ["--systemd-cgroup=false"]

[[handler]]
name = "runc"
path = "/usr/sbin/runc"
user_namespaces = true
recursive_read_only = true

[[log_root]]
name = "pods"
path = "/var/log/pods"

[[cgroup_root]]
name = "postern"
path = "/postern"

[class.restricted]
capabilities = ["NET_BIND_SERVICE"]
host_port_min = 8000
host_port_max = 9000
sysctls = ["net.ipv4.tcp_syncookies", "kernel.shm*"]
user_namespaces = true

[class.system]
capabilities = ["ALL"]
privileged = true
host_network = true
host_pid = true
host_ipc = true
unconfined = true
allow_privilege_escalation = true
unmasked_proc = true
run_as_root = true
bidirectional = true
user_namespaces = true
selinux_options = true
host_port_min = 1
host_port_max = 65535
sysctls = ["*"]
`

func parse(t testing.TB, text string) *Ceiling {
	t.Helper()
	c, err := Parse("test.toml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// subject is a pod with a container and an exec that every class may have.
type subject struct {
	pod  plan.PodPlan
	ctr  plan.Plan
	exec plan.ExecPlan
}

func modest() *subject {
	return &subject{
		plan.PodPlan{Class: plan.Restricted, UID: "uid-1", Hostname: "h", Network: plan.NamespacePod, PID: plan.NamespacePod, IPC: plan.NamespacePod,
			CgroupParent: plan.Place{Root: plan.RootCgroup, Name: "postern"}, Logs: plan.Place{Root: plan.RootLog, Name: "pods", Rel: "ns_pod_uid-1"}},
		plan.Plan{Class: plan.Restricted, Args: []string{"sh"}, Cwd: "/", User: plan.User{UID: 1000}, NoNewPrivs: true, PID: plan.NamespaceContainer,
			Seccomp: plan.Profile{Kind: plan.ProfileRuntimeDefault}, AppArmor: plan.Profile{Kind: plan.ProfileRuntimeDefault},
			MaskedPaths: slices.Clone(masked), ReadOnlyPaths: slices.Clone(readOnly), Log: "0.log"},
		plan.ExecPlan{Args: []string{"ls"}, Stdout: true, Stderr: true},
	}
}

func (s *subject) check(c *Ceiling) *wire.Denial {
	return first(c.CheckPod(&s.pod), c.CheckContainer(&s.pod, &s.ctr), c.CheckExec(&s.ctr, &s.exec), c.CheckResources(&s.ctr, &s.ctr.Resources))
}

// trigger is one change of a modest subject that a rule refuses.
type trigger struct {
	rule string
	do   func(*subject)
}

// field is how a field is held: by rules, each with a change that triggers it,
// or not at all, for a reason.
type field struct {
	free  string
	rules []trigger
}

func rule(name string, do func(*subject)) field { return field{rules: []trigger{{name, do}}} }

func (f field) and(name string, do func(*subject)) field {
	f.rules = append(f.rules, trigger{name, do})
	return f
}

func free(reason string) field { return field{free: reason} }

func mount(change func(*plan.Mount)) func(*subject) {
	return func(s *subject) {
		m := plan.Mount{From: plan.Place{Root: plan.RootPodVolumes, Rel: "volumes/x"}, To: "/m", Propagation: plan.Private}
		change(&m)
		s.ctr.Mounts = []plan.Mount{m}
	}
}

func from(root plan.RootKind, name, rel string) func(*subject) {
	return mount(func(m *plan.Mount) { m.From, m.ReadOnly = plan.Place{Root: root, Name: name, Rel: rel}, true })
}

func device(change func(*plan.Device)) func(*subject) {
	return func(s *subject) {
		d := plan.Device{Host: plan.Place{Root: plan.RootHostPath, Name: "dev", Rel: "fuse"}, To: "/dev/fuse", Permissions: plan.DeviceRead}
		change(&d)
		s.ctr.Devices = []plan.Device{d}
	}
}

func userns(change func(*plan.IDMap)) func(*subject) {
	return func(s *subject) {
		m := plan.IDMap{Host: 1 << 16, Length: 1 << 16}
		s.pod.UserNS, s.pod.GIDs = true, []plan.IDMap{m}
		change(&m)
		s.pod.UIDs = []plan.IDMap{m}
	}
}

const (
	byCodec   = "the codec refuses what is not of the enumeration, and no value of it widens anything"
	inside    = "is the container's own affair: it changes nothing outside"
	amount    = "is a share or limit within the pod's cgroup, which the kubelet sizes"
	narrowing = "only ever takes away"
)

// fields says of every field of every plan how the ceiling holds it. A new field
// fails TestEveryFieldIsHeld until somebody has thought about it.
var fields = map[string]field{
	"PodPlan.Class": rule("CEIL-CLASS", func(s *subject) { s.pod.Class = plan.Baseline }),
	"PodPlan.UID": rule("CEIL-UID", func(s *subject) { s.pod.UID, s.pod.Logs, s.ctr.Log = "", plan.Place{}, "" }).
		// The log directory of the pod uid-2, named web, taken by its end.
		and("CEIL-UID", func(s *subject) { s.pod.UID, s.pod.Logs.Rel = "web_uid-2", "ns_web_uid-2" }),
	"PodPlan.Hostname": rule("CEIL-HOSTNAME", func(s *subject) { s.pod.Class, s.pod.Network = plan.System, plan.NamespaceNode }),
	"PodPlan.Network": rule("CEIL-HOSTNET", func(s *subject) { s.pod.Network, s.pod.Hostname = plan.NamespaceNode, "" }).
		and("CEIL-SYSCTL-HOST", func(s *subject) {
			s.pod.Class, s.pod.Network, s.pod.Hostname = plan.System, plan.NamespaceNode, ""
			s.pod.Sysctls = []plan.Sysctl{{Name: "net.ipv4.tcp_syncookies", Value: "1"}}
		}),
	"PodPlan.PID": rule("CEIL-HOSTPID", func(s *subject) { s.pod.PID = plan.NamespaceNode }),
	"PodPlan.IPC": rule("CEIL-HOSTIPC", func(s *subject) { s.pod.IPC = plan.NamespaceNode }).
		and("CEIL-SYSCTL-HOST", func(s *subject) {
			s.pod.Class, s.pod.IPC = plan.System, plan.NamespaceNode
			s.pod.Sysctls = []plan.Sysctl{{Name: "kernel.shmmax", Value: "1"}}
		}),
	"PodPlan.UserNS": rule("CEIL-USERNS-MAP", func(s *subject) { s.pod.UserNS = true }),
	"PodPlan.UIDs":   rule("CEIL-USERNS-MAP", func(s *subject) { s.pod.UIDs = []plan.IDMap{{Host: 1 << 16, Length: 1}} }),
	"PodPlan.GIDs":   rule("CEIL-USERNS-MAP", func(s *subject) { s.pod.GIDs = []plan.IDMap{{Host: 1 << 16, Length: 1}} }),
	"PodPlan.Sysctls": rule("CEIL-SYSCTL", func(s *subject) { s.pod.Sysctls = []plan.Sysctl{{Name: "net.ipv4.ip_forward", Value: "1"}} }).
		and("CEIL-SYSCTL-HOST", func(s *subject) {
			s.pod.Class = plan.System
			s.pod.Sysctls = []plan.Sysctl{{Name: "kernel.core_pattern", Value: "|/x"}}
		}),
	"PodPlan.Ports": rule("CEIL-HOSTPORT", func(s *subject) { s.pod.Ports = []plan.PortMapping{{Protocol: plan.TCP, HostPort: 7999}} }),
	"PodPlan.DNS":   free("goes to the pod's own resolv.conf; the codec keeps line ends out"),
	"PodPlan.CgroupParent": rule("CEIL-ROOT", func(s *subject) { s.pod.CgroupParent.Name = "other" }).
		and("CEIL-ROOT", func(s *subject) { s.pod.CgroupParent.Root = plan.RootLog }).
		and("CEIL-CGROUP", func(s *subject) { s.pod.CgroupParent.Rel = strings.Repeat("x/", 300) + "x" }).
		and("CEIL-CGROUP", func(s *subject) { s.pod.CgroupParent.Rel = "x\ny" }),
	"PodPlan.Logs": rule("CEIL-ROOT", func(s *subject) { s.pod.Logs.Name = "other" }).
		and("CEIL-ROOT", func(s *subject) { s.pod.Logs = plan.Place{Root: plan.RootHostPath, Name: "scratch"} }).
		and("CEIL-LOGDIR", func(s *subject) { s.pod.Logs.Rel = "" }).
		and("CEIL-LOGDIR", func(s *subject) { s.pod.Logs.Rel = "ns_other_uid-2" }).
		and("CEIL-LOGDIR", func(s *subject) { s.pod.Logs.Rel = "ns_other_uid-2/x_uid-1" }).
		and("CEIL-UID", func(s *subject) { s.pod.UID = "" }),
	"PodPlan.Handler": rule("CEIL-HANDLER", func(s *subject) { s.pod.Handler = "other" }).
		and("CEIL-HANDLER", func(s *subject) { s.pod.Handler = "/usr/bin/crun" }).
		and("CEIL-HANDLER", func(s *subject) { userns(func(*plan.IDMap) {})(s); s.pod.Handler = "crun" }).
		and("CEIL-HANDLER", func(s *subject) {
			mount(func(m *plan.Mount) { m.ReadOnly, m.RecursiveReadOnly = true, true })(s)
			s.pod.Handler = "crun"
		}),
	"PodPlan.ShmSize":    rule("CEIL-SHM", func(s *subject) { s.pod.ShmSize = 1<<40 + 1 }),
	"PodPlan.SELinux":    rule("CEIL-SELINUX", func(s *subject) { s.pod.SELinux.Level = "s0:c1" }),
	"PodPlan.Privileged": rule("CEIL-PRIV", func(s *subject) { s.pod.Privileged = true }),

	"IDMap.Host":      rule("CEIL-USERNS-MAP", userns(func(m *plan.IDMap) { m.Host = 65535 })),
	"IDMap.Container": free("an id inside the namespace " + inside),
	"IDMap.Length": rule("CEIL-USERNS-MAP", userns(func(m *plan.IDMap) { m.Length = 0 })).
		and("CEIL-USERNS-MAP", userns(func(m *plan.IDMap) { m.Length = 1<<32 - 1 })),
	"Sysctl.Name":               rule("CEIL-SYSCTL", func(s *subject) { s.pod.Sysctls = []plan.Sysctl{{Name: "net.core.somaxconn"}} }),
	"Sysctl.Value":              free("the kernel bounds the value of a namespaced parameter"),
	"PortMapping.Protocol":      free(byCodec),
	"PortMapping.ContainerPort": free("a port in the pod's network namespace " + inside),
	"PortMapping.HostPort":      rule("CEIL-HOSTPORT", func(s *subject) { s.pod.Ports = []plan.PortMapping{{Protocol: plan.TCP, HostPort: 9001}} }),
	"PortMapping.HostIP":        free("only narrows where the host port is opened; the codec takes literals alone"),
	"DNS.Servers":               free("see PodPlan.DNS"),
	"DNS.Searches":              free("see PodPlan.DNS"),
	"DNS.Options":               free("see PodPlan.DNS"),
	"Place.Root":                rule("CEIL-MOUNT", from(plan.RootLog, "pods", "")).and("CEIL-MOUNT", from(plan.RootCgroup, "postern", "")),
	"Place.Name": rule("CEIL-MOUNT", from(plan.RootHostPath, "other", "")).and("CEIL-MOUNT", from(plan.RootPodVolumes, "x", "")).
		and("CEIL-MOUNT", from(plan.RootScratch, "65536", "")).and("CEIL-MOUNT", from(plan.RootScratch, "x", "")).
		and("CEIL-MOUNT", from(plan.RootPodFile, "passwd", "")).and("CEIL-MOUNT", from(plan.RootPodShm, "x", "")),
	"Place.Rel": rule("CEIL-MOUNT", from(plan.RootPodShm, "", "x")).and("CEIL-MOUNT", from(plan.RootPodFile, "hosts", "x")).
		and("CEIL-MOUNT", from(plan.RootScratch, "1", "x")),
	"SELinux.User":  rule("CEIL-SELINUX", func(s *subject) { s.ctr.SELinux.User = "u" }),
	"SELinux.Role":  rule("CEIL-SELINUX", func(s *subject) { s.ctr.SELinux.Role = "r" }),
	"SELinux.Type":  rule("CEIL-SELINUX", func(s *subject) { s.ctr.SELinux.Type = "spc_t" }),
	"SELinux.Level": rule("CEIL-SELINUX", func(s *subject) { s.ctr.SELinux.Level = "s0:c1,c2" }),

	"Plan.Class": rule("CEIL-CLASS", func(s *subject) { s.ctr.Class = plan.Baseline }),
	"Plan.Image": free("held by the verification record, which the helper reads itself"),
	"Plan.Args":  rule("CEIL-ARGS", func(s *subject) { s.ctr.Args = nil }),
	"Plan.Env":   free(inside),
	"Plan.Cwd": rule("CEIL-CWD", func(s *subject) { s.ctr.Cwd = "/proc/self/fd/7" }).
		and("CEIL-CWD", func(s *subject) { s.ctr.Cwd = "/proc" }),
	"Plan.User": rule("CEIL-ROOTUSER", func(s *subject) { s.ctr.User.UID = 0 }),
	"Plan.CapsBounding": rule("CEIL-CAPS", func(s *subject) { s.ctr.CapsBounding = 1 << 21 }).
		and("CEIL-CAPS", func(s *subject) { s.ctr.CapsBounding = 1<<10 | 1 }),
	"Plan.CapsAmbient": rule("CEIL-CAPS", func(s *subject) { s.ctr.CapsAmbient = 1 << 21 }),
	"Plan.Privileged": rule("CEIL-PRIV", func(s *subject) { s.ctr.Privileged = true }).
		and("CEIL-PRIV", func(s *subject) { s.ctr.Class, s.ctr.Privileged = plan.System, true }), // in a pod that is not
	"Plan.NoNewPrivs":     rule("CEIL-NNP", func(s *subject) { s.ctr.NoNewPrivs = false }),
	"Plan.ReadOnlyRootfs": free(narrowing),
	"Plan.TTY":            free("a pseudo terminal of the container's own " + inside),
	"Plan.Stdin":          free("a pipe to the caller " + inside),
	"Plan.StdinOnce":      free(narrowing),
	"Plan.PID":            rule("CEIL-HOSTPID", func(s *subject) { s.ctr.PID = plan.NamespaceNode }),
	"Plan.Target":         free("the helper looks it up and takes only a running container of the same pod"),
	"Plan.Seccomp":        rule("CEIL-SECCOMP", func(s *subject) { s.ctr.Seccomp.Kind = plan.ProfileUnconfined }),
	"Plan.AppArmor":       rule("CEIL-APPARMOR", func(s *subject) { s.ctr.AppArmor.Kind = plan.ProfileUnconfined }),
	"Plan.SELinux":        rule("CEIL-SELINUX", func(s *subject) { s.ctr.SELinux.Type = "spc_t" }),
	"Plan.MaskedPaths": rule("CEIL-PROC", func(s *subject) { s.ctr.MaskedPaths = nil }).
		and("CEIL-PROC", func(s *subject) { s.ctr.MaskedPaths = []string{"/nothing"} }).
		and("CEIL-PROC", func(s *subject) { s.ctr.MaskedPaths = masked[1:] }).
		and("CEIL-PROC", func(s *subject) { s.ctr.MaskedPaths = append(slices.Clone(masked[1:]), "/proc/acp", "/proc/acpi/x") }),
	"Plan.ReadOnlyPaths": rule("CEIL-PROC", func(s *subject) { s.ctr.ReadOnlyPaths = nil }).
		and("CEIL-PROC", func(s *subject) { s.ctr.ReadOnlyPaths = []string{"/nothing"} }),
	"Plan.Mounts": rule("CEIL-MOUNT", from(plan.RootHostPath, "root", "")),
	"Plan.Devices": rule("CEIL-DEVICE", device(func(d *plan.Device) { d.Host.Rel = "mem" })).
		and("CEIL-DEVICE", device(func(d *plan.Device) { d.Host.Name = "data" })).
		and("CEIL-DEVICE", device(func(d *plan.Device) { d.Host.Root = plan.RootPodVolumes })),
	"Plan.CDI":        rule("CEIL-CDI", func(s *subject) { s.ctr.CDI = []string{"vendor.com/gpu=1"} }),
	"Plan.Rlimits":    rule("CEIL-RLIMIT", func(s *subject) { s.ctr.Rlimits = []plan.Rlimit{{Name: "other", Soft: 1, Hard: 1}} }),
	"Plan.Resources":  rule("CEIL-PIDS", func(s *subject) { s.ctr.Resources.PIDs = 101 }),
	"Plan.Log":        rule("CEIL-LOG", func(s *subject) { s.pod.Logs = plan.Place{} }),
	"Plan.StopSignal": free("goes to the container's own process"),

	"User.UID":     rule("CEIL-ROOTUSER", func(s *subject) { s.ctr.User.UID = 0 }),
	"User.GID":     free("without uid 0 and without capabilities a group opens nothing outside the mounts, which are held above"),
	"User.Groups":  free("as User.GID"),
	"Profile.Kind": rule("CEIL-SECCOMP", func(s *subject) { s.ctr.Seccomp = plan.Profile{Kind: plan.ProfileUnconfined} }),
	"Profile.Name": free("an entry of a root-owned directory: root put it there to be used"),
	"Mount.From":   rule("CEIL-MOUNT", from(plan.RootHostPath, "root", "etc")),
	"Mount.To": rule("CEIL-MOUNT-TO", mount(func(m *plan.Mount) { m.To = "/proc" })).
		and("CEIL-MOUNT-TO", mount(func(m *plan.Mount) { m.To = "/proc/self/attr" })).
		and("CEIL-MOUNT-TO", mount(func(m *plan.Mount) { m.To = "/sys/fs/cgroup" })).
		and("CEIL-MOUNT-TO", mount(func(m *plan.Mount) { m.To = "/" })),
	"Mount.ReadOnly": rule("CEIL-MOUNT", mount(func(m *plan.Mount) { m.From = plan.Place{Root: plan.RootHostPath, Name: "data"} })).
		and("CEIL-MOUNT", mount(func(m *plan.Mount) { m.From = plan.Place{Root: plan.RootImage, Name: "sha256:x"} })),
	"Mount.RecursiveReadOnly": rule("CEIL-MOUNT-RRO", mount(func(m *plan.Mount) { m.RecursiveReadOnly = true })),
	"Mount.Propagation":       rule("CEIL-MOUNT-PROP", mount(func(m *plan.Mount) { m.Propagation = plan.Bidirectional })),
	"Mount.NoExec":            free(narrowing),
	"Mount.NoDev":             free(narrowing),
	"Mount.NoSuid":            free(narrowing),
	"Mount.Relabel": rule("CEIL-RELABEL", mount(func(m *plan.Mount) {
		m.From, m.Relabel = plan.Place{Root: plan.RootHostPath, Name: "scratch", Rel: "x"}, true
	})).and("CEIL-RELABEL", mount(func(m *plan.Mount) {
		m.From, m.Relabel = plan.Place{Root: plan.RootHostPath, Name: "labelled"}, true
	})),
	"Mount.MakeDir": rule("CEIL-MOUNT", mount(func(m *plan.Mount) {
		m.From, m.ReadOnly, m.MakeDir = plan.Place{Root: plan.RootHostPath, Name: "data", Rel: "x"}, true, true
	})).and("CEIL-MOUNT-DIR", mount(func(m *plan.Mount) { m.From, m.MakeDir = plan.Place{Root: plan.RootPodShm}, true })),
	"Device.Host":        rule("CEIL-DEVICE", device(func(d *plan.Device) { d.Host.Rel = "sda" })),
	"Device.To":          free("a name in the container's own /dev " + inside),
	"Device.Permissions": free("the list of devices says which nodes, and root put them there to be used"),
	"Rlimit.Name":        rule("CEIL-RLIMIT", func(s *subject) { s.ctr.Rlimits = []plan.Rlimit{{Name: "NOFILE", Soft: 1, Hard: 1}} }),
	"Rlimit.Soft":        rule("CEIL-RLIMIT", func(s *subject) { s.ctr.Rlimits = []plan.Rlimit{{Name: "nofile", Soft: 2, Hard: 1}} }),
	"Rlimit.Hard":        free("the kernel holds it to what the helper itself may have"),

	"Resources.CPUShares":    free(amount),
	"Resources.CPUQuota":     free(amount),
	"Resources.CPUPeriod":    free(amount),
	"Resources.CPUSetCPUs":   free(amount),
	"Resources.CPUSetMems":   free(amount),
	"Resources.Memory":       free(amount),
	"Resources.MemorySwap":   free(amount),
	"Resources.OOMScoreAdj":  rule("CEIL-OOM", func(s *subject) { s.ctr.Resources.OOMScoreAdj = -1001 }).and("CEIL-OOM", func(s *subject) { s.ctr.Resources.OOMScoreAdj = 1001 }),
	"Resources.PIDs":         rule("CEIL-PIDS", func(s *subject) { s.ctr.Resources.PIDs = -1 }).and("CEIL-PIDS", func(s *subject) { s.ctr.Resources.PIDs = 101 }),
	"Resources.Hugepages":    free(amount),
	"Resources.Unified":      rule("CEIL-UNIFIED", func(s *subject) { s.ctr.Resources.Unified = []plan.Unified{{Key: "cgroup.procs", Value: "1"}} }),
	"HugepageLimit.PageSize": free(amount),
	"HugepageLimit.Bytes":    free(amount),
	"Unified.Key": rule("CEIL-UNIFIED", func(s *subject) { s.ctr.Resources.Unified = []plan.Unified{{Key: "memory", Value: "1"}} }).
		and("CEIL-UNIFIED", func(s *subject) { s.ctr.Resources.Unified = []plan.Unified{{Key: "devices.allow", Value: "a"}} }).
		and("CEIL-UNIFIED", func(s *subject) { s.ctr.Resources.Unified = []plan.Unified{{Key: "pids.max", Value: "max"}} }),
	"Unified.Value": free(amount),

	"ExecPlan.Args": rule("CEIL-ARGS", func(s *subject) { s.exec.Args = nil }).and("CEIL-ARGS", func(s *subject) { s.exec.Args = []string{""} }),
	"ExecPlan.TTY":  rule("CEIL-TTY", func(s *subject) { s.exec.TTY = true }),
	"ExecPlan.Stderr": rule("CEIL-TTY", func(s *subject) {
		s.exec = plan.ExecPlan{Args: []string{"x"}, TTY: true, Stderr: true}
	}),
	"ExecPlan.Stdin":  free("a pipe to the caller " + inside),
	"ExecPlan.Stdout": free("a pipe to the caller " + inside),
	"ExecPlan.Sync":   free("names the CRI method; policy judges by it"),
}

// TestRequiredUserNamespace: the one key that takes away.
func TestRequiredUserNamespace(t *testing.T) {
	s := modest()
	c := parse(t, narrow)
	if d := s.check(c); d != nil {
		t.Fatal(d)
	}
	c.Classes[s.pod.Class].RequireUserNS = true
	if d := s.check(c); d == nil || d.Rule != "CEIL-USERNS-NONE" {
		t.Errorf("a pod without a user namespace: %+v", d)
	}
	userns(func(*plan.IDMap) {})(s)
	c.Classes[s.pod.Class].UserNamespaces = true
	if d := s.check(c); d != nil {
		t.Errorf("a pod with one: %+v", d)
	}
}

func TestEveryFieldIsHeld(t *testing.T) {
	c := parse(t, narrow)
	if d := modest().check(c); d != nil {
		t.Fatalf("the modest subject is refused: %+v", d)
	}
	left := maps.Clone(fields)
	for _, of := range []any{plan.PodPlan{}, plan.Plan{}, plan.ExecPlan{}, plan.Resources{}} {
		for _, name := range fill.Fields(of) {
			delete(left, name)
			f, ok := fields[name]
			if !ok {
				t.Errorf("%s: nobody has said how the ceiling holds it: write a rule, or why there is none", name)
				continue
			}
			if (f.free == "") == (len(f.rules) == 0) {
				t.Errorf("%s: want rules or a reason", name)
			}
			for i, r := range f.rules {
				s := modest()
				r.do(s)
				d := s.check(c)
				if d == nil || d.Rule != r.rule {
					t.Errorf("%s, change %d: %+v, want %s", name, i, d, r.rule)
					continue
				}
				if d.By != "ceiling" || d.Field == "" || d.Message == "" || d.Remedy == "" {
					t.Errorf("%s: a denial that does not say what and how: %+v", name, d)
				}
			}
		}
	}
	for name := range left {
		t.Errorf("%s is no field", name)
	}
}
