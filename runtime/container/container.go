// Package container translates a CRI container configuration into the closed
// Plan that the privileged side understands: a pure function of the request,
// the image's configuration, the pod and the names of the ceiling.
//
// The image's configuration was written by whoever made the image: entry point,
// environment, user, working directory and volumes are checked like a
// stranger's words. What a plan cannot say is refused with an error that names
// the CRI field.
package container

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/runtime/cdi"
	"github.com/postern-cri/postern/runtime/sandbox"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Locator names places on the host in the words of the ceiling. An error says
// which path lies beneath no root and how the operator can add one.
type Locator interface {
	// Mount locates the source of a mount for the pod with this uid. makeDir
	// says that a missing directory there may be made.
	Mount(podUID, path string) (place plan.Place, makeDir bool, err error)
	// Device locates a device node.
	Device(path string) (plan.Place, error)
	// SeccompProfile names the localhost profile that CRI gives as ref.
	SeccompProfile(ref string) string
	// SeccompUnset is the kind of profile that a request without one means.
	SeccompUnset() plan.ProfileKind
}

// Image is the part of an image's configuration that a container takes over.
type Image struct {
	Manifest   string // sha256:<hex> of the manifest
	Entrypoint []string
	Cmd        []string
	Env        []string
	WorkingDir string
	User       string
	Volumes    []string
	StopSignal string
}

// Pod is the part of the pod that translation looks at.
type Pod struct {
	UID        string
	Network    plan.NamespaceMode
	PID        plan.NamespaceMode
	IPC        plan.NamespaceMode
	UserNS     bool
	UIDs, GIDs []plan.IDMap
	Privileged bool
	Hostname   string
	HasLogs    bool
}

// Input is everything a translation depends on.
type Input struct {
	Config *cri.ContainerConfig
	Pod    Pod
	Image  Image
	At     Locator
	Users  UserDB
	// VolumeImage returns the manifest digest of the image of an image volume.
	VolumeImage func(*cri.ImageSpec) (string, error)
	// Target checks that id is a container of this pod, for a shared PID
	// namespace.
	Target  func(id string) error
	Rlimits []plan.Rlimit // of every container
	// CDI returns what a device of that name needs.
	CDI func(name string) ([]cdi.Edits, error)
}

var refuse = sandbox.Refuse

// Plan translates in. The class is the narrowest that the container fits in.
func Plan(in Input) (plan.Plan, error) {
	var p plan.Plan
	c := in.Config
	if c.GetMetadata().GetName() == "" {
		return p, refuse("metadata.name", "missing")
	}
	if n := c.Metadata.Name; len(n) > 253 || !sandbox.PlainText(n) || strings.ContainsAny(n, "/\\") {
		return p, refuse("metadata.name", "%q has a character that a name cannot have", n)
	}
	if c.Windows != nil {
		return p, refuse("windows", "this is a Linux runtime")
	}
	sc := c.GetLinux().GetSecurityContext()
	if sc.GetPrivileged() && !in.Pod.Privileged {
		return p, refuse("linux.security_context.privileged", "the pod was not created as privileged")
	}
	p.Image = in.Image.Manifest
	p.Privileged = sc.GetPrivileged()
	p.NoNewPrivs = sc.GetNoNewPrivs()
	p.Rlimits = in.Rlimits
	p.ReadOnlyRootfs = sc.GetReadonlyRootfs()
	p.TTY, p.Stdin, p.StdinOnce = c.Tty, c.Stdin, c.StdinOnce && c.Stdin
	for _, step := range []func(*plan.Plan, *Input) error{
		process, user, capabilities, profiles, pidMode, devices, cdiDevices, mounts, stopSignal, logPath,
	} {
		if err := step(&p, &in); err != nil {
			return p, err
		}
	}
	var err error
	if p.Resources, err = Resources("linux.resources", c.GetLinux().GetResources()); err != nil {
		return p, err
	}
	p.Class = class(&p, &in)
	return p, nil
}

func pidMode(p *plan.Plan, in *Input) error {
	o := in.Config.GetLinux().GetSecurityContext().GetNamespaceOptions()
	const field = "linux.security_context.namespace_options."
	if o != nil {
		for _, n := range []struct {
			name string
			ask  cri.NamespaceMode
			pod  plan.NamespaceMode
		}{{"network", o.Network, in.Pod.Network}, {"ipc", o.Ipc, in.Pod.IPC}} {
			if n.ask == cri.NamespaceMode_NODE && n.pod != plan.NamespaceNode {
				return refuse(field+n.name, "NODE, but the pod has its own")
			}
			// POD is also what a request says that says nothing.
			if n.ask != cri.NamespaceMode_NODE && n.ask != cri.NamespaceMode_POD {
				return refuse(field+n.name, "%s is not possible for a container", n.ask)
			}
		}
		if err := sameUserNS(field+"userns_options", o.UsernsOptions, &in.Pod); err != nil {
			return err
		}
	}
	if o.GetTargetId() != "" && o.GetPid() != cri.NamespaceMode_TARGET {
		return refuse(field+"target_id", "only with pid: TARGET")
	}
	switch o.GetPid() {
	case cri.NamespaceMode_POD: // whatever the pod has
		p.PID = in.Pod.PID
	case cri.NamespaceMode_CONTAINER:
		p.PID = plan.NamespaceContainer
	case cri.NamespaceMode_NODE:
		if in.Pod.PID != plan.NamespaceNode {
			return refuse(field+"pid", "NODE, but the pod has its own")
		}
		p.PID = plan.NamespaceNode
	case cri.NamespaceMode_TARGET:
		if err := in.Target(o.TargetId); err != nil {
			return fmt.Errorf("%starget_id: %w", field, err)
		}
		p.PID, p.Target = plan.NamespaceTarget, o.TargetId
	default:
		return refuse(field+"pid", "unknown mode %d", o.GetPid())
	}
	return nil
}

// sameUserNS refuses a user namespace that is not the pod's: a container has no
// other. NODE is what a client says that does not ask for one, even where the
// operator gave the pod one unasked.
func sameUserNS(field string, o *cri.UserNamespace, pod *Pod) error {
	if o == nil || o.Mode == cri.NamespaceMode_NODE && len(o.Uids)+len(o.Gids) == 0 {
		return nil
	}
	uids, uerr := sandbox.IDMaps("uids", o.Uids)
	gids, gerr := sandbox.IDMaps("gids", o.Gids)
	if o.Mode != cri.NamespaceMode_POD || uerr != nil || gerr != nil || !pod.UserNS || !slices.Equal(uids, pod.UIDs) || !slices.Equal(gids, pod.GIDs) {
		return refuse(field, "differ from the pod's user namespace")
	}
	return nil
}

func logPath(p *plan.Plan, in *Input) error {
	l := in.Config.LogPath
	if l == "" {
		return nil
	}
	if !in.Pod.HasLogs {
		return refuse("log_path", "the pod has no log_directory")
	}
	if l != path.Clean(l) || path.IsAbs(l) || l == "." || l == ".." || strings.HasPrefix(l, "../") || !sandbox.PlainText(l) || len(l) > 1024 {
		return refuse("log_path", "%q is no clean path beneath the pod's log directory", l)
	}
	p.Log = l
	return nil
}

// insidePath checks and cleans an absolute path inside a container.
func insidePath(field, p string) (string, error) {
	if !path.IsAbs(p) || len(p) > 4095 || !sandbox.PlainText(p) {
		return "", refuse(field, "%q is no absolute path", p)
	}
	for _, part := range strings.Split(p, "/") {
		if part == ".." {
			return "", refuse(field, "%q has a parent component", p)
		}
	}
	return path.Clean(p), nil
}
