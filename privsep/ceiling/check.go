package ceiling

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/wire"
)

// deny is a refusal by the ceiling.
func deny(rule, field, remedy, format string, a ...any) *wire.Denial {
	return &wire.Denial{By: "ceiling", Rule: rule, Field: field, Remedy: remedy, Message: fmt.Sprintf(format, a...)}
}

// need refuses when a plan wants what its class's row does not have.
func need(allowed, wanted bool, rule, field, what string) *wire.Denial {
	if !wanted || allowed {
		return nil
	}
	return deny(rule, field, "remove it from the pod, or allow it for this class in ceiling.toml", "%s is not allowed", what)
}

// needSeccomp has a remedy of its own, because of the pods that name no profile:
// the kubelet asks for none on their behalf unless it is told otherwise.
func needSeccomp(ok bool) *wire.Denial {
	if ok {
		return nil
	}
	return deny("CEIL-SECCOMP", "seccomp", "name a profile in the pod, or set seccompDefault: true in the kubelet's configuration, or allow it for this class in ceiling.toml",
		"an unconfined seccomp profile is not allowed")
}

// first returns the first refusal.
func first(checks ...*wire.Denial) *wire.Denial {
	for _, d := range checks {
		if d != nil {
			return d
		}
	}
	return nil
}

// row returns the row of a class. Where the ceiling has no such class, the denial
// comes with the widest row below it: what that one lacks explains more.
func (c *Ceiling) row(class plan.Class) (*Row, *wire.Denial) {
	if r := c.Classes[class]; r != nil {
		return r, nil
	}
	below := &Row{}
	for k := plan.Restricted; k < class; k++ {
		if r := c.Classes[k]; r != nil {
			below = r
		}
	}
	return below, deny("CEIL-CLASS", "class", "ask for less, or add the class to ceiling.toml", "ceiling %q has no class %s", c.Profile, className(class))
}

func className(class plan.Class) string {
	for n, k := range classNames {
		if k == class {
			return n
		}
	}
	return strconv.Itoa(int(class))
}

const (
	uidLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-"
	maxCgroup  = 512 // bytes; with a handle after it, it has to fit into an answer
)

func unprintable(r rune) bool { return r < ' ' || r == 0x7f }

// CheckPod holds a pod's plan against the ceiling.
func (c *Ceiling) CheckPod(p *plan.PodPlan) *wire.Denial {
	r, noClass := c.row(p.Class)
	node := func(m plan.NamespaceMode) bool { return m == plan.NamespaceNode }
	d := first(
		need(r.HostNetwork, node(p.Network), "CEIL-HOSTNET", "network", "the host's network namespace"),
		need(r.HostPID, node(p.PID), "CEIL-HOSTPID", "pid", "the host's PID namespace"),
		need(r.HostIPC, node(p.IPC), "CEIL-HOSTIPC", "ipc", "the host's IPC namespace"),
		need(r.Privileged, p.Privileged, "CEIL-PRIV", "privileged", "a privileged pod"),
		need(r.UserNamespaces, p.UserNS || len(p.UIDs)+len(p.GIDs) > 0, "CEIL-USERNS", "user_namespace", "a user namespace"),
		need(!r.RequireUserNS, !p.UserNS, "CEIL-USERNS-NONE", "user_namespace", "a pod without a user namespace"),
		need(r.SELinuxOptions, p.SELinux != (plan.SELinux{}), "CEIL-SELINUX", "selinux", "an SELinux label of the pod's choice"),
		c.knownRoot(p.CgroupParent, plan.RootCgroup, "cgroup_parent"),
		c.knownRoot(p.Logs, plan.RootLog, "logs"),
	)
	if d != nil {
		return d
	}
	if p.UID == "" || strings.Trim(p.UID, uidLetters) != "" {
		// Names on the node are made of it. With an underscore in it, the end of
		// one pod's log directory could be another's uid.
		return deny("CEIL-UID", "uid", "send the pod's uid: letters, digits and '-'", "the uid %q of a pod names its volumes and logs", p.UID)
	}
	if _, _, ok := c.Root(p.CgroupParent); c.Systemd && (!ok || !strings.HasSuffix(p.CgroupParent.Rel, ".slice")) {
		return deny("CEIL-CGROUP", "cgroup_parent", "name a slice, as the kubelet does, beneath a [[cgroup_root]]", "with cgroup_driver = \"systemd\" a pod lies in a slice")
	}
	if dir, _, ok := c.Root(p.CgroupParent); ok && (len(dir)+len(p.CgroupParent.Rel) > maxCgroup || strings.ContainsFunc(p.CgroupParent.Rel, unprintable)) {
		return deny("CEIL-CGROUP", "cgroup_parent", "name it as the kubelet does", "a cgroup parent that is too long, or holds a control character")
	}
	if dir, _, ok := c.Root(p.Logs); ok && dir != "/" {
		// The kubelet names a pod's log directory namespace_name_uid. Bound to the
		// uid, no pod can have its log appended to another's.
		if top, _, _ := strings.Cut(p.Logs.Rel, "/"); !strings.HasSuffix(top, "_"+p.UID) {
			return deny("CEIL-LOGDIR", "logs", "name it <namespace>_<name>_<uid>, as the kubelet does", "log directory %q does not end in the pod's uid", p.Logs.Rel)
		}
	}
	if d := r.checkMaps(p); d != nil {
		return d
	}
	if node(p.Network) && p.Hostname != "" {
		return deny("CEIL-HOSTNAME", "hostname", "leave it empty with the host's network", "a pod in the host's network cannot have a host name of its own")
	}
	if d := c.checkHandler(p, nil); d != nil {
		return d
	}
	if p.ShmSize > 1<<40 {
		return deny("CEIL-SHM", "shm_size", "ask for less", "%d bytes of /dev/shm", p.ShmSize)
	}
	for _, s := range p.Sysctls {
		if d := r.checkSysctl(p, s); d != nil {
			return d
		}
	}
	for _, m := range p.Ports {
		if m.HostPort != 0 && (r.HostPortMax == 0 || int64(m.HostPort) < r.HostPortMin || int64(m.HostPort) > r.HostPortMax) {
			return deny("CEIL-HOSTPORT", "ports", "use a Service, or widen host_port_min and host_port_max in ceiling.toml", "host port %d is not allowed", m.HostPort)
		}
	}
	return noClass
}

// checkHandler is asked for each container, too: the file may have changed since
// the pod was made, and no other runtime may take its place.
func (c *Ceiling) checkHandler(pod *plan.PodPlan, mounts []plan.Mount) *wire.Denial {
	h := c.Runtime(pod.Handler)
	recursive := slices.ContainsFunc(mounts, func(m plan.Mount) bool { return m.RecursiveReadOnly })
	switch {
	case h == nil && pod.Handler != "" && !slices.Contains(c.Handlers, pod.Handler):
		return deny("CEIL-HANDLER", "handler", "give it a [[handler]] in ceiling.toml", "runtime handler %q is not known", pod.Handler)
	case h != nil && pod.UserNS && !h.UserNamespaces:
		return deny("CEIL-HANDLER", "handler", "say user_namespaces = true if the runtime has them", "runtime handler %q has no user namespaces", pod.Handler)
	case h != nil && recursive && !h.RecursiveReadOnly:
		return deny("CEIL-HANDLER", "mounts", "say recursive_read_only = true if the runtime has them", "runtime handler %q has no recursively read-only mounts", pod.Handler)
	}
	return nil
}

// checkMaps refuses a user namespace that is none: root in it would be root, or a
// daemon of the node, outside. The kubelet hands out nothing below 65536 either.
// Where the row allows without a user namespace what one makes harmless, the ids
// do not matter.
func (r *Row) checkMaps(p *plan.PodPlan) *wire.Denial {
	lowest := uint32(1 << 16)
	if r.RunAsRoot && r.UnmaskedProc {
		lowest = 0
	}
	if p.UserNS != (len(p.UIDs) > 0) || p.UserNS != (len(p.GIDs) > 0) {
		return deny("CEIL-USERNS-MAP", "user_namespace", "send uid and gid mappings with a user namespace, and only then", "a user namespace without mappings, or mappings without it")
	}
	for _, m := range slices.Concat(p.UIDs, p.GIDs) {
		if m.Length == 0 || m.Host < lowest || uint64(m.Host)+uint64(m.Length) > 1<<32-1 {
			return deny("CEIL-USERNS-MAP", "user_namespace", "map to host ids from 65536 on", "a mapping of %d ids to host id %d", m.Length, m.Host)
		}
	}
	return nil
}

// namespaced are the sysctls that a namespace keeps apart, by the namespace.
func namespaced(name string) (ipc, net bool) {
	for _, p := range []string{"kernel.shm", "kernel.msg", "fs.mqueue."} {
		ipc = ipc || strings.HasPrefix(name, p)
	}
	return ipc || name == "kernel.sem", strings.HasPrefix(name, "net.")
}

func (r *Row) checkSysctl(p *plan.PodPlan, s plan.Sysctl) *wire.Denial {
	ipc, net := namespaced(s.Name)
	if !ipc && !net {
		return deny("CEIL-SYSCTL-HOST", "sysctls", "remove it; set it on the node instead", "sysctl %s is not namespaced: it would change the host", s.Name)
	}
	if (ipc && p.IPC == plan.NamespaceNode) || (net && p.Network == plan.NamespaceNode) {
		return deny("CEIL-SYSCTL-HOST", "sysctls", "give the pod a namespace of its own", "sysctl %s with the host's namespace would change the host", s.Name)
	}
	for _, a := range r.Sysctls {
		if prefix, ok := strings.CutSuffix(a, "*"); s.Name == a || (ok && strings.HasPrefix(s.Name, prefix)) {
			return nil
		}
	}
	return deny("CEIL-SYSCTL", "sysctls", "remove it, or list it in sysctls of the class in ceiling.toml", "sysctl %s is not allowed", s.Name)
}

// knownRoot refuses a place of another kind than want, or beneath an unknown root.
func (c *Ceiling) knownRoot(p plan.Place, want plan.RootKind, field string) *wire.Denial {
	if p == (plan.Place{}) {
		return nil
	}
	if _, _, ok := c.Root(p); p.Root != want || !ok {
		return deny("CEIL-ROOT", field, "use a directory beneath a root of ceiling.toml", "root %q is not known", p.Name)
	}
	return nil
}

// CheckContainer holds a container's plan against the ceiling.
func (c *Ceiling) CheckContainer(pod *plan.PodPlan, p *plan.Plan) *wire.Denial {
	r, noClass := c.row(p.Class)
	if extra := (p.CapsBounding | p.CapsAmbient) &^ r.Capabilities; extra != 0 {
		return deny("CEIL-CAPS", "capabilities", "drop them, or list them in capabilities of the class in ceiling.toml", "capabilities %s are not allowed", capabilityNames(extra))
	}
	d := first(
		need(r.Privileged && pod.Privileged, p.Privileged, "CEIL-PRIV", "privileged", "a privileged container"),
		need(r.PrivilegeEscalation, !p.NoNewPrivs, "CEIL-NNP", "no_new_privs", "privilege escalation (no_new_privs off)"),
		need(r.RunAsRoot || pod.UserNS, p.User.UID == 0, "CEIL-ROOTUSER", "user", "uid 0"),
		need(r.HostPID, p.PID == plan.NamespaceNode, "CEIL-HOSTPID", "pid", "the host's PID namespace"),
		needSeccomp(r.Unconfined || p.Seccomp.Kind != plan.ProfileUnconfined),
		need(r.Unconfined, p.AppArmor.Kind == plan.ProfileUnconfined, "CEIL-APPARMOR", "apparmor", "an unconfined AppArmor profile"),
		need(r.UnmaskedProc || pod.UserNS, !covers(p.MaskedPaths, masked), "CEIL-PROC", "masked_paths", "an unmasked /proc or /sys"),
		need(r.UnmaskedProc || pod.UserNS, !covers(slices.Concat(p.ReadOnlyPaths, p.MaskedPaths), readOnly), "CEIL-PROC", "readonly_paths", "a writable /proc/sys or its like"),
		// What the pod may have its containers may; other categories would be another pod's.
		need(r.SELinuxOptions || p.SELinux == pod.SELinux, p.SELinux != (plan.SELinux{}), "CEIL-SELINUX", "selinux", "an SELinux label of the container's choice"),
		c.CheckResources(p, &p.Resources),
		c.checkHandler(pod, p.Mounts),
	)
	if d != nil {
		return d
	}
	if len(p.Args) == 0 {
		return deny("CEIL-ARGS", "args", "give a command, or an image that has one", "a container without a command")
	}
	if _, ok := beneath("/proc", p.Cwd); ok {
		return deny("CEIL-CWD", "cwd", "choose another working directory", "working directory %s", p.Cwd) // CVE-2024-21626
	}
	if p.Log != "" && pod.Logs == (plan.Place{}) {
		return deny("CEIL-LOG", "log", "give the pod a log directory", "a log file in a pod without a log directory")
	}
	for i := range p.Mounts {
		if d := c.checkMount(r, p, &p.Mounts[i]); d != nil {
			return d
		}
	}
	for _, v := range p.Devices {
		if v.Host.Root != plan.RootHostPath || v.Host.Name != "dev" || !(slices.Contains(c.Devices, "*") || slices.Contains(c.Devices, v.Host.Rel)) {
			return deny("CEIL-DEVICE", "devices", "list it in devices of ceiling.toml", "device /dev/%s is not allowed", v.Host.Rel)
		}
	}
	for _, n := range p.CDI {
		if !slices.Contains(c.CDI, n) && !slices.Contains(c.CDI, "*") {
			return deny("CEIL-CDI", "cdi", "list it in cdi of ceiling.toml", "CDI device %s is not allowed", n)
		}
	}
	for _, l := range p.Rlimits {
		if !slices.Contains(rlimits, l.Name) || l.Soft > l.Hard {
			return deny("CEIL-RLIMIT", "rlimits", "use a name of getrlimit(2) and soft <= hard", "rlimit %q %d:%d", l.Name, l.Soft, l.Hard)
		}
	}
	return noClass
}

// masked and readOnly are what every kubelet sends with a container whose /proc
// is not to be unmasked. Any other list would be an unmasked /proc by another
// name, so a list must cover these.
var (
	masked   = strings.Fields("/proc/acpi /proc/kcore /proc/keys /proc/latency_stats /proc/timer_list /proc/timer_stats /proc/sched_debug /proc/scsi /sys/firmware")
	readOnly = strings.Fields("/proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger")
)

// covers tells whether each of paths, or a directory above it, is in list.
func covers(list, paths []string) bool {
	for _, p := range paths {
		if !slices.ContainsFunc(list, func(l string) bool { _, ok := beneath(l, p); return ok }) {
			return false
		}
	}
	return true
}

var rlimits = strings.Fields("as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack")

func (c *Ceiling) checkMount(r *Row, p *plan.Plan, m *plan.Mount) *wire.Denial {
	// Over /proc and /sys a mount could stand in for what the runtime itself
	// writes labels and sysctls to (CVE-2019-16884).
	for _, top := range []string{"/proc", "/sys"} {
		if _, ok := beneath(top, m.To); (ok || m.To == "/") && !p.Privileged {
			return deny("CEIL-MOUNT-TO", "mounts", "mount it elsewhere", "a mount over %s", m.To)
		}
	}
	if m.RecursiveReadOnly && !m.ReadOnly {
		return deny("CEIL-MOUNT-RRO", "mounts", "make it read-only", "%s is recursively read-only but not read-only", m.To)
	}
	if d := need(r.Bidirectional, m.Propagation == plan.Bidirectional, "CEIL-MOUNT-PROP", "mounts", "bidirectional propagation at "+m.To); d != nil {
		return d
	}
	from := m.From
	if m.MakeDir && from.Root != plan.RootHostPath && from.Root != plan.RootPodVolumes {
		return deny("CEIL-MOUNT-DIR", "mounts", "drop it", "a directory cannot be made there, for %s", m.To)
	}
	bad := func(why string) *wire.Denial {
		return deny("CEIL-MOUNT", "mounts", "use a volume, or a path beneath a [[host_path]] of ceiling.toml", "the mount at %s: %s", m.To, why)
	}
	switch from.Root {
	case plan.RootHostPath:
		_, class, ok := c.Root(from)
		switch {
		case !ok:
			return bad(fmt.Sprintf("host path class %q is not known", from.Name))
		case class.ReadOnly && !m.ReadOnly:
			return bad(fmt.Sprintf("host path class %q is read-only", from.Name))
		case m.MakeDir && !class.Create:
			return bad(fmt.Sprintf("no directory may be made in host path class %q", from.Name))
		case m.Relabel && (!class.Relabel || from.Rel == ""):
			// The label of a host's file decides who else can use it (CVE-2021-43816).
			return deny("CEIL-RELABEL", "mounts", "label it on the host, or set relabel = true in its [[host_path]] of ceiling.toml", "the source of %s cannot be given the container's SELinux label", m.To)
		}
	case plan.RootPodVolumes, plan.RootPodShm:
		if from.Name != "" || (from.Root == plan.RootPodShm && from.Rel != "") {
			return bad("malformed place")
		}
	case plan.RootPodFile:
		if from.Rel != "" || !slices.Contains([]string{"hosts", "hostname", "resolv.conf"}, from.Name) {
			return bad(fmt.Sprintf("the pod has no file %q", path.Join(from.Name, from.Rel)))
		}
	case plan.RootScratch:
		if _, err := strconv.ParseUint(from.Name, 10, 16); err != nil || from.Rel != "" {
			return bad("malformed scratch directory")
		}
	case plan.RootImage:
		if !m.ReadOnly {
			return bad("an image volume is read-only")
		}
	default:
		return bad("logs and cgroups are not mounted")
	}
	return nil
}

// CheckExec holds an exec against the ceiling. It inherits everything from its
// container, so there is nothing wider that it could ask for.
func (c *Ceiling) CheckExec(_ *plan.Plan, e *plan.ExecPlan) *wire.Denial {
	if len(e.Args) == 0 || e.Args[0] == "" {
		return deny("CEIL-ARGS", "args", "give a command", "an exec without a command")
	}
	if e.TTY && e.Stderr {
		return deny("CEIL-TTY", "stderr", "drop stderr: a terminal has one stream", "an exec with a terminal and a separate stderr")
	}
	return nil
}

// CheckResources holds limits against the ceiling.
func (c *Ceiling) CheckResources(p *plan.Plan, r *plan.Resources) *wire.Denial {
	if r.PIDs > c.MaxPIDs || (r.PIDs < 0 && !p.Privileged) {
		return deny("CEIL-PIDS", "resources.pids", "ask for less, or raise max_pids in ceiling.toml", "a pids limit of %d, at most %d", r.PIDs, c.MaxPIDs)
	}
	if r.OOMScoreAdj < -1000 || r.OOMScoreAdj > 1000 {
		return deny("CEIL-OOM", "resources.oom_score_adj", "use -1000 to 1000", "oom_score_adj %d", r.OOMScoreAdj)
	}
	for _, u := range r.Unified {
		ctl, _, ok := strings.Cut(u.Key, ".")
		if !ok || !slices.Contains([]string{"cpu", "cpuset", "io", "memory", "hugetlb", "rdma", "misc"}, ctl) {
			return deny("CEIL-UNIFIED", "resources.unified", "name a controller's file", "unified key %q", u.Key) // never cgroup.procs and its like, nor pids.max, which has a field
		}
	}
	return nil
}
