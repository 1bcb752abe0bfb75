// Package ceiling is the root-owned upper bound on what the privileged side does
// for anybody. It is a pure function from a plan to a refusal: no policy engine,
// no network, no state.
//
// Rules of this package:
//   - what the file does not allow is refused: an absent key means no;
//   - a check names the field, the rule and what would help;
//   - every field of every plan is checked here or listed as free with the
//     reason (ceiling_test.go walks the structs).
package ceiling

import (
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/plan"
)

// HostPath is a class of host directories that containers may mount from.
type HostPath struct {
	Name, Path string
	ReadOnly   bool // every mount of the class must be read-only
	Symlinks   bool // symlinks are followed, beneath Path
	Create     bool // a missing source directory may be made
	Relabel    bool // the SELinux label of what is there may be changed, for a container that asks
}

// Root is a named directory: for logs, or below the cgroup mounts.
type Root struct{ Name, Path string }

// Handler is an OCI runtime that a RuntimeClass may name.
type Handler struct {
	Name, Path        string
	Args              []string
	UserNamespaces    bool // it can
	RecursiveReadOnly bool
}

// Network says where the CNI configuration and plugins are.
type Network struct {
	ConfDir string
	BinDirs []string
}

// Row is what one class of plans may have.
type Row struct {
	Capabilities        uint64
	Privileged          bool
	HostNetwork         bool
	HostPID             bool
	HostIPC             bool
	Unconfined          bool // seccomp and AppArmor
	PrivilegeEscalation bool // no_new_privs may be off
	UnmaskedProc        bool
	RunAsRoot           bool
	Bidirectional       bool
	UserNamespaces      bool
	RequireUserNS       bool // a pod must have a user namespace
	SELinuxOptions      bool
	HostPortMin         int64
	HostPortMax         int64 // 0: none
	Sysctls             []string
}

// Ceiling is the parsed file.
type Ceiling struct {
	Profile     string
	KubeletRoot string
	SeccompDir  string // "" is the layout's
	// SeccompUnsetUnconfined has a request that names no seccomp profile mean
	// none, as the kubelet's predecessors had it, and not the default one. The
	// front end reads it so; what comes here says unconfined, and is held to it.
	SeccompUnsetUnconfined bool
	// Unfiltered leaves the helper without its own seccomp filter, which every
	// container inherits otherwise.
	Unfiltered    bool
	MaxPods       int64
	MaxContainers int64
	MaxPIDs       int64 // for a container; also its default
	// UserNSAuto is the first host id for pods that do not ask for a user namespace:
	// the front end then asks for one in their place. 0 is no such thing.
	UserNSAuto  int64
	Handlers    []string // names of the built-in runtime
	Runtimes    []Handler
	CDI         []string
	Devices     []string // paths below /dev, or "*"
	Network     Network
	HostPaths   []HostPath
	LogRoots    []Root
	CgroupRoots []Root // the first is the default
	Systemd     bool   // a pod's cgroup is a slice of systemd's, a container's a scope in it
	Classes     map[plan.Class]*Row
}

// classNames are the tables [class.…] of the file.
var classNames = map[string]plan.Class{"restricted": plan.Restricted, "baseline": plan.Baseline, "system": plan.System}

const maxFile = 64 << 10

// Load reads the file at path. It must be a regular file of root's that nobody
// else can write: whoever can write it owns the machine.
//
// Expected syscalls: openat, fstat, read.
func Load(path string) (*Ceiling, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("reading the ceiling: %w", err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, fmt.Errorf("reading the ceiling: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Uid != 0 || st.Mode&0o022 != 0 {
		return nil, fmt.Errorf("%s: mode %o of uid %d: want a regular file of root's that only root can write; fix: chown root %s && chmod 644 %s", path, st.Mode&0o7777, st.Uid, path, path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading the ceiling: %w", err)
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("%s: longer than %d bytes", path, maxFile)
	}
	return Parse(path, b)
}

// Parse parses a ceiling; name is for messages.
func Parse(name string, b []byte) (*Ceiling, error) {
	tables, err := parseFile(name, b)
	if err != nil {
		return nil, err
	}
	c := &Ceiling{Classes: map[plan.Class]*Row{}, KubeletRoot: "/var/lib/kubelet", MaxPods: 250, MaxContainers: 2000, MaxPIDs: 4096}
	for _, t := range tables {
		r := &reader{file: name, t: t}
		list := t.name == "host_path" || t.name == "handler" || t.name == "log_root" || t.name == "cgroup_root"
		single := t.name == "network" || strings.HasPrefix(t.name, "class.")
		if list && !t.array || single && t.array {
			// Two of a single table would hide one behind the other.
			r.fail(t.line, "table %q: want [[ ]] for host_path, handler, log_root and cgroup_root, and [ ] for all others", t.name)
		}
		switch {
		case t.name == "":
			r.str("profile", &c.Profile)
			r.str("kubelet_root", &c.KubeletRoot)
			r.str("seccomp_dir", &c.SeccompDir)
			r.flag("seccomp_unset_unconfined", &c.SeccompUnsetUnconfined)
			r.flag("unfiltered", &c.Unfiltered)
			r.num("max_pods", &c.MaxPods)
			r.num("max_containers", &c.MaxContainers)
			r.num("max_pids", &c.MaxPIDs)
			r.num("userns_auto", &c.UserNSAuto)
			driver := "cgroupfs"
			r.str("cgroup_driver", &driver)
			if c.Systemd = driver == "systemd"; !c.Systemd && driver != "cgroupfs" {
				r.fail(t.keys["cgroup_driver"].line, "key \"cgroup_driver\" is %q, want \"cgroupfs\" or \"systemd\"", driver)
			}
			r.strs("handlers", &c.Handlers)
			r.strs("cdi", &c.CDI)
			r.strs("devices", &c.Devices)
		case t.name == "network":
			r.str("conf_dir", &c.Network.ConfDir)
			r.strs("bin_dirs", &c.Network.BinDirs)
		case t.name == "host_path":
			var h HostPath
			links := "never"
			r.str("name", &h.Name)
			r.str("path", &h.Path)
			r.flag("read_only", &h.ReadOnly)
			r.str("symlinks", &links)
			r.flag("create", &h.Create)
			r.flag("relabel", &h.Relabel)
			if links != "never" && links != "beneath" {
				r.fail(t.keys["symlinks"].line, "key \"symlinks\" is %q, want \"never\" or \"beneath\"", links)
			}
			h.Symlinks = links == "beneath"
			c.HostPaths = append(c.HostPaths, h)
			r.place(h.Name, h.Path)
		case t.name == "handler":
			var h Handler
			r.str("name", &h.Name)
			r.str("path", &h.Path)
			r.strs("args", &h.Args)
			r.flag("user_namespaces", &h.UserNamespaces)
			r.flag("recursive_read_only", &h.RecursiveReadOnly)
			c.Runtimes = append(c.Runtimes, h)
			r.place(h.Name, h.Path)
		case t.name == "log_root", t.name == "cgroup_root":
			var root Root
			r.str("name", &root.Name)
			r.str("path", &root.Path)
			r.place(root.Name, root.Path)
			if t.name == "log_root" {
				c.LogRoots = append(c.LogRoots, root)
			} else {
				c.CgroupRoots = append(c.CgroupRoots, root)
			}
		case strings.HasPrefix(t.name, "class."):
			class, ok := classNames[strings.TrimPrefix(t.name, "class.")]
			if !ok {
				r.fail(t.line, "unknown class in [%s]; the classes are restricted, baseline and system", t.name)
				break
			}
			c.Classes[class] = r.row()
		default:
			r.fail(t.line, "unknown table %q%s", t.name, meant(t.name, []string{"network", "host_path", "handler", "log_root", "cgroup_root"}))
		}
		if err := r.done(); err != nil {
			return nil, err
		}
	}
	return c, c.complete(name)
}

func (r *reader) row() *Row {
	row := &Row{}
	var caps []string
	r.strs("capabilities", &caps)
	for key, into := range map[string]*bool{
		"privileged": &row.Privileged, "host_network": &row.HostNetwork, "host_pid": &row.HostPID, "host_ipc": &row.HostIPC,
		"unconfined": &row.Unconfined, "allow_privilege_escalation": &row.PrivilegeEscalation, "unmasked_proc": &row.UnmaskedProc,
		"run_as_root": &row.RunAsRoot, "bidirectional": &row.Bidirectional, "user_namespaces": &row.UserNamespaces, "require_user_namespace": &row.RequireUserNS, "selinux_options": &row.SELinuxOptions,
	} {
		r.flag(key, into)
	}
	r.num("host_port_min", &row.HostPortMin)
	r.num("host_port_max", &row.HostPortMax)
	r.strs("sysctls", &row.Sysctls)
	for _, n := range caps {
		m, ok := capabilityMask(n)
		if !ok {
			r.fail(r.t.keys["capabilities"].line, "unknown capability %q%s", n, meant(n, capabilities))
		}
		row.Capabilities |= m
	}
	return row
}

func (r *reader) place(name, p string) {
	if name == "" || strings.ContainsAny(name, "/ ") {
		r.fail(r.t.line, "[[%s]]: name %q: want a word without slash", r.t.name, name)
	}
	if !path.IsAbs(p) || path.Clean(p) != p {
		r.fail(r.t.line, "[[%s]] %s: path %q: want a clean absolute path", r.t.name, name, p)
	}
}

// complete checks the file as a whole.
func (c *Ceiling) complete(name string) error {
	switch {
	case c.Profile == "":
		return fmt.Errorf("%s: key \"profile\" is missing: name the ceiling", name)
	case len(c.Classes) == 0:
		return fmt.Errorf("%s: no [class.…] table: nothing could ever run", name)
	case len(c.CgroupRoots) == 0:
		return fmt.Errorf("%s: no [[cgroup_root]]: pods need one", name)
	case !path.IsAbs(c.KubeletRoot) || path.Clean(c.KubeletRoot) != c.KubeletRoot:
		return fmt.Errorf("%s: kubelet_root %q: want a clean absolute path", name, c.KubeletRoot)
	}
	var handlers []Root
	for _, n := range c.Handlers {
		handlers = append(handlers, Root{Name: n})
	}
	for _, h := range c.Runtimes {
		handlers = append(handlers, Root{Name: h.Name})
	}
	for _, list := range [][]Root{c.LogRoots, c.CgroupRoots, hostRoots(c.HostPaths), handlers} {
		seen := map[string]bool{}
		for _, r := range list {
			if seen[r.Name] {
				return fmt.Errorf("%s: the name %q is there twice", name, r.Name)
			}
			seen[r.Name] = true
		}
	}
	return nil
}

func hostRoots(h []HostPath) []Root {
	out := make([]Root, len(h))
	for i, p := range h {
		out[i] = Root{p.Name, p.Path}
	}
	return out
}

// Runtime is the OCI runtime of a handler; nil is the built-in one.
func (c *Ceiling) Runtime(handler string) *Handler {
	for i := range c.Runtimes {
		if c.Runtimes[i].Name == handler {
			return &c.Runtimes[i]
		}
	}
	return nil
}

// Locate translates an absolute host path to a Place beneath the longest root
// of the kind: RootHostPath, RootLog or RootCgroup.
func (c *Ceiling) Locate(kind plan.RootKind, hostPath string) (plan.Place, bool) {
	var roots []Root
	switch kind {
	case plan.RootHostPath:
		roots = hostRoots(c.HostPaths)
	case plan.RootLog:
		roots = c.LogRoots
	case plan.RootCgroup:
		roots = c.CgroupRoots
	}
	best, found := plan.Place{}, -1
	for _, r := range roots {
		if rel, ok := beneath(r.Path, hostPath); ok && len(r.Path) > found {
			best, found = plan.Place{Root: kind, Name: r.Name, Rel: rel}, len(r.Path)
		}
	}
	return best, found >= 0
}

// LocateVolume translates a path beneath the kubelet's directory of this pod.
func (c *Ceiling) LocateVolume(podUID, hostPath string) (plan.Place, bool) {
	if podUID == "" || podUID == "." || podUID == ".." || strings.Contains(podUID, "/") {
		return plan.Place{}, false
	}
	rel, ok := beneath(path.Join(c.KubeletRoot, "pods", podUID), hostPath)
	return plan.Place{Root: plan.RootPodVolumes, Rel: rel}, ok && rel != ""
}

func beneath(root, p string) (string, bool) {
	p = path.Clean(p)
	if p == root {
		return "", true
	}
	if root != "/" {
		root += "/"
	}
	return strings.CutPrefix(p, root)
}

// Root returns the directory of a place of the kinds that the file names, and
// the class of a host path.
func (c *Ceiling) Root(p plan.Place) (dir string, class *HostPath, ok bool) {
	var roots []Root
	switch p.Root {
	case plan.RootHostPath:
		for i := range c.HostPaths {
			if c.HostPaths[i].Name == p.Name {
				return c.HostPaths[i].Path, &c.HostPaths[i], true
			}
		}
	case plan.RootLog:
		roots = c.LogRoots
	case plan.RootCgroup:
		roots = c.CgroupRoots
	}
	for _, r := range roots {
		if r.Name == p.Name {
			return r.Path, nil, true
		}
	}
	return "", nil, false
}
