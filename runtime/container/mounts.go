package container

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/runtime/sandbox"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// mounts fills in the mounts that the request asks for, a scratch directory for
// every volume the image declares, and the pod's files, in an order in which no
// mount hides an earlier one.
func mounts(p *plan.Plan, in *Input) error {
	seen := map[string]bool{}
	for _, m := range p.Mounts { // of CDI devices
		if seen[m.To] {
			return refuse("CDI_devices", "two of them mount something else at %q", m.To)
		}
		seen[m.To] = true
	}
	for i, m := range in.Config.Mounts {
		o, err := oneMount(fmt.Sprintf("mounts[%d]", i), m, in)
		if err != nil {
			return err
		}
		if seen[o.To] {
			return refuse(fmt.Sprintf("mounts[%d].container_path", i), "%q is mounted twice", o.To)
		}
		seen[o.To] = true
		p.Mounts = append(p.Mounts, o)
	}
	if err := imageVolumes(p, in, seen); err != nil {
		return err
	}
	for _, name := range []string{"hosts", "hostname", "resolv.conf"} {
		if to := "/etc/" + name; !seen[to] {
			p.Mounts = append(p.Mounts, plan.Mount{
				From: plan.Place{Root: plan.RootPodFile, Name: name}, To: to, ReadOnly: p.ReadOnlyRootfs, Propagation: plan.Private,
				NoDev: true, NoSuid: true,
			})
		}
	}
	if !seen["/dev/shm"] {
		p.Mounts = append(p.Mounts, plan.Mount{
			From: plan.Place{Root: plan.RootPodShm}, To: "/dev/shm", Propagation: plan.Private, NoDev: true, NoSuid: true, NoExec: true,
		})
	}
	slices.SortStableFunc(p.Mounts, func(a, b plan.Mount) int {
		return strings.Count(a.To, "/") - strings.Count(b.To, "/")
	})
	return nil
}

func oneMount(field string, m *cri.Mount, in *Input) (plan.Mount, error) {
	var o plan.Mount
	var err error
	if o.To, err = mountTarget(field+".container_path", m.GetContainerPath()); err != nil {
		return o, err
	}
	switch m.Propagation {
	case cri.MountPropagation_PROPAGATION_PRIVATE:
		o.Propagation = plan.Private
	case cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
		o.Propagation = plan.HostToContainer
	case cri.MountPropagation_PROPAGATION_BIDIRECTIONAL:
		o.Propagation = plan.Bidirectional
		if !in.Config.GetLinux().GetSecurityContext().GetPrivileged() {
			return o, refuse(field+".propagation", "bidirectional needs a privileged container")
		}
	default:
		return o, refuse(field+".propagation", "unknown propagation %d", m.Propagation)
	}
	o.ReadOnly, o.RecursiveReadOnly, o.Relabel = m.Readonly, m.RecursiveReadOnly, m.SelinuxRelabel
	if o.RecursiveReadOnly && (!o.ReadOnly || o.Propagation != plan.Private) {
		return o, refuse(field+".recursive_read_only", "needs readonly and private propagation")
	}
	for _, opt := range m.MountOptions {
		switch opt {
		case "noexec":
			o.NoExec = true
		case "nodev":
			o.NoDev = true
		case "nosuid":
			o.NoSuid = true
		default:
			return o, refuse(field+".mount_options", "%q: only noexec, nodev and nosuid are possible", opt)
		}
	}
	if err := idMappings(field, m, in); err != nil {
		return o, err
	}
	if m.Image.GetImage() != "" {
		return imageMount(field, m, o, in)
	}
	// m.ImageSubPath means nothing here: kubelets give a volume's subPath there too,
	// having made it part of the host path themselves.
	if !path.IsAbs(m.HostPath) || !sandbox.PlainText(m.HostPath) || slices.Contains(strings.Split(m.HostPath, "/"), "..") {
		return o, refuse(field+".host_path", "%q is no absolute path", m.HostPath)
	}
	if o.From, o.MakeDir, err = in.At.Mount(in.Pod.UID, path.Clean(m.HostPath)); err != nil {
		return o, fmt.Errorf("%s.host_path: %w", field, err)
	}
	return o, nil
}

func imageMount(field string, m *cri.Mount, o plan.Mount, in *Input) (plan.Mount, error) {
	if m.HostPath != "" {
		return o, refuse(field+".host_path", "together with an image")
	}
	if o.Propagation != plan.Private {
		return o, refuse(field+".propagation", "an image volume is private")
	}
	digest, err := in.VolumeImage(m.Image)
	if err != nil {
		return o, fmt.Errorf("%s.image: %w", field, err)
	}
	sub := m.ImageSubPath
	if sub != "" && (sub != path.Clean(sub) || path.IsAbs(sub) || sub == ".." || strings.HasPrefix(sub, "../") || !sandbox.PlainText(sub)) {
		return o, refuse(field+".image_sub_path", "%q is no clean path inside the image", sub)
	}
	if sub == "." {
		sub = ""
	}
	o.From = plan.Place{Root: plan.RootImage, Name: digest, Rel: sub}
	o.ReadOnly = true
	return o, nil
}

// idMappings accepts the mappings that the kubelet repeats at every mount of a
// pod with a user namespace; others cannot be said in a plan.
func idMappings(field string, m *cri.Mount, in *Input) error {
	for _, side := range []struct {
		name string
		got  []*cri.IDMapping
		want []plan.IDMap
	}{{"uidMappings", m.UidMappings, in.Pod.UIDs}, {"gidMappings", m.GidMappings, in.Pod.GIDs}} {
		if len(side.got) == 0 {
			continue
		}
		got, err := sandbox.IDMaps(side.name, side.got)
		if err != nil || !in.Pod.UserNS || !slices.Equal(got, side.want) {
			return refuse(field+"."+side.name, "differ from the pod's user namespace")
		}
	}
	return nil
}

// mountTarget checks a path inside the container. Mounts over /proc change what
// the runtime itself reads there while it confines the process (CVE-2019-16884).
func mountTarget(field, p string) (string, error) {
	if p != "" && !path.IsAbs(p) {
		p = "/" + p
	}
	to, err := insidePath(field, p)
	if err != nil {
		return "", err
	}
	if to == "/" || to == "/proc" || strings.HasPrefix(to, "/proc/") {
		return "", refuse(field, "%q: nothing can be mounted there", p)
	}
	return to, nil
}

// imageVolumes gives each volume that the image declares a directory of the
// container's own where its root is read-only. Where it is not, the writable layer
// is one, and what the image has there is seen.
func imageVolumes(p *plan.Plan, in *Input, seen map[string]bool) error {
	volumes := slices.Clone(in.Image.Volumes)
	slices.Sort(volumes)
	n := 0
	for _, v := range volumes {
		to, err := mountTarget("image config Volumes", v)
		if err != nil {
			return err
		}
		if to == "/sys" || strings.HasPrefix(to, "/sys/") || to == "/dev" || strings.HasPrefix(to, "/dev/") {
			return refuse("image config Volumes", "%q: an image cannot put a volume there", v)
		}
		if seen[to] || !p.ReadOnlyRootfs {
			continue
		}
		seen[to] = true
		p.Mounts = append(p.Mounts, plan.Mount{
			From: plan.Place{Root: plan.RootScratch, Name: strconv.Itoa(n)}, To: to, Propagation: plan.Private, NoDev: true,
		})
		n++
	}
	return nil
}
