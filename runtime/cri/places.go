package cri

import (
	"fmt"
	"path"
	"strings"

	"github.com/postern-cri/postern/privsep/ceiling"
	"github.com/postern-cri/postern/privsep/plan"
)

// CeilingPlaces names places in the words of the ceiling file. It only
// translates: the privileged side reads the same file and is the one that
// enforces it.
type CeilingPlaces struct{ *ceiling.Ceiling }

func (c CeilingPlaces) outside(rule, what, path, table, instead string) error {
	return &Outside{rule, fmt.Sprintf("%s %q lies beneath no %s of ceiling %q. Fix: %s, or have the operator add a [[%s]] to ceiling.toml",
		what, path, table, c.Profile, instead, table)}
}

// paths lists the directories of roots.
func paths(roots []ceiling.Root) string {
	var all []string
	for _, r := range roots {
		all = append(all, r.Path)
	}
	return strings.Join(all, " or ")
}

// CgroupParent implements sandbox.Locator.
func (c CeilingPlaces) CgroupParent(path string) (plan.Place, error) {
	if path == "" {
		return plan.Place{}, nil // the ceiling's first root
	}
	if strings.HasSuffix(path, ".slice") && !strings.HasPrefix(path, "/") {
		if !c.Systemd {
			return plan.Place{}, &Outside{"CEIL-ROOT", fmt.Sprintf("cgroup %q is a slice of systemd's, and Postern makes cgroups itself. "+
				"Fix: cgroupDriver: cgroupfs in the kubelet's configuration (newer kubelets ask the runtime), or cgroup_driver = \"systemd\" in ceiling.toml", path)}
		}
		path = slicePath(path)
	}
	if p, ok := c.Locate(plan.RootCgroup, path); ok {
		return p, nil
	}
	return plan.Place{}, c.outside("CEIL-ROOT", "cgroup", path, "cgroup_root", "use "+paths(c.CgroupRoots))
}

// slicePath is where a slice of systemd's lies: its name has those above it in it.
func slicePath(name string) string {
	parts, at := strings.Split(strings.TrimSuffix(name, ".slice"), "-"), ""
	for i := range parts {
		if parts[i] == "" {
			return name // none: it lies nowhere
		}
		at += "/" + strings.Join(parts[:i+1], "-") + ".slice"
	}
	return at
}

// LogDir implements sandbox.Locator.
func (c CeilingPlaces) LogDir(path string) (plan.Place, error) {
	if p, ok := c.Locate(plan.RootLog, path); ok {
		return p, nil
	}
	return plan.Place{}, c.outside("CEIL-ROOT", "directory", path, "log_root", "use one beneath "+paths(c.LogRoots))
}

// Mount implements container.Locator.
func (c CeilingPlaces) Mount(podUID, path string) (plan.Place, bool, error) {
	if p, ok := c.LocateVolume(podUID, path); ok {
		return p, false, nil
	}
	p, ok := c.Locate(plan.RootHostPath, path)
	if !ok {
		return p, false, c.outside("CEIL-MOUNT", "path", path, "host_path", "use a volume of this pod")
	}
	_, class, _ := c.Root(p)
	return p, class != nil && class.Create, nil
}

// Device implements container.Locator.
func (c CeilingPlaces) Device(path string) (plan.Place, error) {
	rel, ok := strings.CutPrefix(path, "/dev/")
	if !ok || rel == "" {
		return plan.Place{}, &Outside{"CEIL-DEVICE", fmt.Sprintf("device %q is not in /dev. Fix: name a device there that is listed in devices of ceiling.toml", path)}
	}
	return plan.Place{Root: plan.RootHostPath, Name: "dev", Rel: rel}, nil
}

// SeccompProfile implements container.Locator: a path beneath the profile
// directory or the kubelet's is named by what follows, any other absolute one by
// its last component.
func (c CeilingPlaces) SeccompProfile(ref string) string {
	if !strings.HasPrefix(ref, "/") {
		return ref
	}
	ref = path.Clean(ref)
	for _, dir := range []string{c.SeccompDir, path.Join(c.KubeletRoot, "seccomp")} {
		if dir == "" {
			continue // the layout's, which no client knows
		}
		if rel, ok := strings.CutPrefix(ref, strings.TrimSuffix(dir, "/")+"/"); ok {
			return rel
		}
	}
	return path.Base(ref)
}

// SeccompUnset implements container.Locator.
func (c CeilingPlaces) SeccompUnset() plan.ProfileKind {
	if c.SeccompUnsetUnconfined {
		return plan.ProfileUnconfined
	}
	return plan.ProfileRuntimeDefault
}

var classes = []plan.Class{plan.Restricted, plan.Baseline, plan.System}

// FitPod gives p the narrowest class whose row allows it; where none does it
// keeps the class that it has, and the refusal will speak of that one. A pod
// with a network of its own then gets the two sysctls that let unprivileged
// programs ping and listen on low ports in it, where the class allows them.
func (c CeilingPlaces) FitPod(p *plan.PodPlan) bool {
	was := p.Class
	for _, p.Class = range classes {
		if c.CheckPod(p) == nil {
			c.defaultSysctls(p)
			return true
		}
	}
	p.Class = was
	return false
}

func (c CeilingPlaces) defaultSysctls(p *plan.PodPlan) {
	if p.Network == plan.NamespaceNode {
		return
	}
	defaults := []plan.Sysctl{{Name: "net.ipv4.ip_unprivileged_port_start", Value: "0"}}
	if !p.UserNS { // a group that the namespace does not map is refused by the kernel
		defaults = append(defaults, plan.Sysctl{Name: "net.ipv4.ping_group_range", Value: "0 2147483647"})
	}
next:
	for _, d := range defaults {
		for _, s := range p.Sysctls {
			if s.Name == d.Name {
				continue next
			}
		}
		with := *p
		with.Sysctls = append(p.Sysctls[:len(p.Sysctls):len(p.Sysctls)], d)
		if c.CheckPod(&with) == nil {
			p.Sysctls = with.Sysctls
		}
	}
}

// FitContainer is FitPod for a container of pod.
func (c CeilingPlaces) FitContainer(pod *plan.PodPlan, p *plan.Plan) bool {
	was := p.Class
	for _, p.Class = range classes {
		if c.CheckContainer(pod, p) == nil {
			return true
		}
	}
	p.Class = was
	return false
}

// AutoUserNS implements Places: a block of ids for every pod that may exist.
func (c CeilingPlaces) AutoUserNS() (first, last uint32) {
	const most = 1<<32 - 2 // the last id is none
	if c.UserNSAuto <= 0 || c.UserNSAuto > most {
		return 0, 0
	}
	return uint32(c.UserNSAuto), uint32(min(most, c.UserNSAuto+c.MaxPods*usernsIDs-1))
}
