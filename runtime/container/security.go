package container

import (
	"path"
	"strings"

	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/profiles/capability"
	"github.com/postern-cri/postern/profiles/paths"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// capabilities computes the bounding set: the default, CRI's adds and drops on
// top. A container that is not asked to be privileged has no inheritable and,
// unless it names them, no ambient capability (CVE-2022-27652).
func capabilities(p *plan.Plan, in *Input) error {
	sc := in.Config.GetLinux().GetSecurityContext()
	const field = "linux.security_context.capabilities."
	c := sc.GetCapabilities()
	add, addAll, err := capMask(field+"add_capabilities", c.GetAddCapabilities())
	if err != nil {
		return err
	}
	drop, dropAll, err := capMask(field+"drop_capabilities", c.GetDropCapabilities())
	if err != nil {
		return err
	}
	ambient, ambientAll, err := capMask(field+"add_ambient_capabilities", c.GetAddAmbientCapabilities())
	if err != nil {
		return err
	}
	set := capability.Default
	if addAll {
		set = capability.All
	}
	if dropAll {
		set = 0
	}
	set = (set | add | ambient) &^ drop
	if p.Privileged {
		set = capability.All
	}
	if ambientAll {
		ambient = set
	}
	if ambient&^set != 0 {
		return refuse(field+"add_ambient_capabilities", "names a capability that drop_capabilities drops")
	}
	p.CapsBounding, p.CapsAmbient = set, ambient
	return nil
}

func capMask(field string, in []string) (mask uint64, all bool, err error) {
	for _, n := range in {
		if strings.EqualFold(strings.TrimPrefix(strings.ToUpper(n), "CAP_"), "ALL") {
			all = true
			continue
		}
		bit, ok := capability.Parse(n)
		if !ok {
			return 0, false, refuse(field, "unknown capability %q", n)
		}
		mask |= 1 << bit
	}
	return mask, all, nil
}

// profiles fills in seccomp, AppArmor, SELinux and the paths of /proc and /sys
// that are hidden. Where CRI says nothing the default profile holds: what was
// forgotten must not be what is permitted.
func profiles(p *plan.Plan, in *Input) error {
	sc := in.Config.GetLinux().GetSecurityContext()
	const field = "linux.security_context."
	var err error
	//lint:ignore SA1019 kubelets that may still talk to us set only the old fields, and to forget them would loosen a profile
	oldSeccomp, oldAppArmor := sc.GetSeccompProfilePath(), sc.GetApparmorProfile()
	if p.Seccomp, err = profile(field+"seccomp", sc.GetSeccomp(), oldSeccomp, p.Privileged, in.At.SeccompProfile); err != nil {
		return err
	}
	if sc.GetSeccomp() == nil && oldSeccomp == "" {
		p.Seccomp.Kind = in.At.SeccompUnset()
	}
	if p.AppArmor, err = profile(field+"apparmor", sc.GetApparmor(), oldAppArmor, p.Privileged, path.Base); err != nil {
		return err
	}
	if p.Privileged {
		// A privileged container has no filter at all in CRI, whatever is asked.
		p.Seccomp = plan.Profile{Kind: plan.ProfileUnconfined}
	}
	if o := sc.GetSelinuxOptions(); o != nil {
		p.SELinux = plan.SELinux{User: o.User, Role: o.Role, Type: o.Type, Level: o.Level}
	}
	if p.Privileged {
		return nil
	}
	if p.MaskedPaths, err = pathList(field+"masked_paths", sc.GetMaskedPaths()); err != nil {
		return err
	}
	if p.ReadOnlyPaths, err = pathList(field+"readonly_paths", sc.GetReadonlyPaths()); err != nil {
		return err
	}
	// The kubelet sends its lists with every container, and none only for
	// procMount: Unmasked, which needs a user namespace. From anybody else an
	// empty list is an omission, and omissions do not open /proc.
	if !in.Pod.UserNS && len(p.MaskedPaths)+len(p.ReadOnlyPaths) == 0 {
		p.MaskedPaths, p.ReadOnlyPaths = paths.Masked(), paths.ReadOnly()
	}
	return nil
}

func profile(field string, s *cri.SecurityProfile, old string, privileged bool, name func(string) string) (plan.Profile, error) {
	if s != nil {
		switch s.ProfileType {
		case cri.SecurityProfile_RuntimeDefault:
			return plan.Profile{Kind: plan.ProfileRuntimeDefault}, nil
		case cri.SecurityProfile_Unconfined:
			return plan.Profile{Kind: plan.ProfileUnconfined}, nil
		case cri.SecurityProfile_Localhost:
			return localhost(field, s.LocalhostRef, name)
		}
		return plan.Profile{}, refuse(field, "unknown profile type %d", s.ProfileType)
	}
	switch {
	case old == "" && privileged, old == "unconfined":
		return plan.Profile{Kind: plan.ProfileUnconfined}, nil
	case old == "", old == "runtime/default", old == "docker/default":
		return plan.Profile{Kind: plan.ProfileRuntimeDefault}, nil
	case strings.HasPrefix(old, "localhost/"):
		return localhost(field, old, name)
	}
	return plan.Profile{}, refuse(field, "unknown profile %q", old)
}

// localhost names a profile that the node's operator made. The kubelet writes a
// path of its own for seccomp; nameOf makes it the name in the directory that the
// content always comes from.
func localhost(field, ref string, nameOf func(string) string) (plan.Profile, error) {
	ref = strings.TrimPrefix(ref, "localhost/")
	name := nameOf(ref)
	const first = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	for part := range strings.SplitSeq(name, "/") {
		if ref == "" || part == "" || len(part) > 128 || strings.Trim(part, first+"._-") != "" || !strings.ContainsRune(first, rune(part[0])) {
			return plan.Profile{}, refuse(field, "%q is no profile name", ref)
		}
	}
	if len(name) > 1024 {
		return plan.Profile{}, refuse(field, "profile name of %d bytes", len(name))
	}
	return plan.Profile{Kind: plan.ProfileLocalhost, Name: name}, nil
}

func pathList(field string, in []string) ([]string, error) {
	var out []string
	seen := map[string]bool{}
	for _, p := range in {
		c, err := insidePath(field, p)
		if err != nil {
			return nil, err
		}
		if !seen[c] {
			seen[c] = true
			out = append(out, c)
		}
	}
	return out, nil
}

// class picks the narrowest row of the ceiling that the container fits in.
func class(p *plan.Plan, in *Input) plan.Class {
	if p.Privileged || p.PID == plan.NamespaceNode || in.Pod.Network == plan.NamespaceNode || in.Pod.IPC == plan.NamespaceNode ||
		p.Seccomp.Kind == plan.ProfileUnconfined || p.AppArmor.Kind == plan.ProfileUnconfined ||
		p.CapsBounding&^capability.Baseline != 0 || len(p.MaskedPaths) == 0 || len(p.ReadOnlyPaths) == 0 || len(p.Devices) > 0 {
		return plan.System
	}
	for _, m := range p.Mounts {
		if m.From.Root == plan.RootHostPath || m.Propagation == plan.Bidirectional {
			return plan.System
		}
	}
	if p.CapsBounding&^capability.Restricted == 0 && p.NoNewPrivs && p.User.UID != 0 {
		return plan.Restricted
	}
	return plan.Baseline
}
