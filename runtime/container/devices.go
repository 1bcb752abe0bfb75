package container

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/runtime/cdi"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func devices(p *plan.Plan, in *Input) error {
	for i, d := range in.Config.Devices {
		if err := device(p, in, fmt.Sprintf("devices[%d]", i), d.HostPath, d.ContainerPath, d.Permissions); err != nil {
			return err
		}
	}
	return nil
}

func device(p *plan.Plan, in *Input, field, host, to, permissions string) error {
	at, err := in.At.Device(path.Clean(host))
	if err != nil {
		return fmt.Errorf("%s.host_path: %w", field, err)
	}
	o := plan.Device{Host: at, To: to}
	if o.To == "" {
		o.To = host
	}
	if o.To, err = insidePath(field+".container_path", o.To); err != nil {
		return err
	}
	for _, r := range permissions {
		switch r {
		case 'r':
			o.Permissions |= plan.DeviceRead
		case 'w':
			o.Permissions |= plan.DeviceWrite
		case 'm':
			o.Permissions |= plan.DeviceMknod
		default:
			return refuse(field+".permissions", "%q: want letters of rwm", permissions)
		}
	}
	if o.Permissions == 0 {
		return refuse(field+".permissions", "empty")
	}
	if slices.Contains(p.Devices, o) {
		return nil // two CDI devices often need the same node
	}
	if slices.ContainsFunc(p.Devices, func(d plan.Device) bool { return d.To == o.To }) {
		return refuse(field+".container_path", "%q is there twice", o.To)
	}
	p.Devices = append(p.Devices, o)
	return nil
}

// cdiDevices makes the devices, variables, mounts and groups that the specifications
// of CDI devices ask for part of the plan. Names come from this field alone: an
// annotation is the pod's author's word, and names nothing.
func cdiDevices(p *plan.Plan, in *Input) error {
	for i, d := range in.Config.CDIDevices {
		field := fmt.Sprintf("CDI_devices[%d]", i)
		vendor, rest, ok := strings.Cut(d.GetName(), "/")
		class, name, ok2 := strings.Cut(rest, "=")
		if !ok || !ok2 || !cdiWord(vendor) || !cdiWord(class) || !cdiWord(name) {
			return refuse(field+".name", "%q is not vendor/class=name", d.GetName())
		}
		if slices.Contains(p.CDI, d.Name) {
			continue
		}
		p.CDI = append(p.CDI, d.Name)
		all, err := in.CDI(d.Name)
		if err != nil {
			return refuse(field, "%v", err)
		}
		for _, e := range all {
			if err := edit(p, in, field, &e); err != nil {
				return err
			}
		}
	}
	return nil
}

func edit(p *plan.Plan, in *Input, field string, e *cdi.Edits) error {
	for _, v := range e.Env {
		name, value, ok := strings.Cut(v, "=")
		if !ok {
			return refuse(field, "env: %q is not NAME=value", v)
		}
		if err := checkEnv(field, name, value); err != nil {
			return err
		}
		setEnv(p, name, value)
	}
	for _, d := range e.Devices {
		permissions := d.Permissions
		if permissions == "" {
			permissions = "rwm"
		}
		if err := device(p, in, field+".deviceNodes", d.Host(), d.Path, permissions); err != nil {
			return err
		}
	}
	for _, m := range e.Mounts {
		o, err := cdiMount(field+".mounts", m, in)
		if err != nil {
			return err
		}
		if !slices.Contains(p.Mounts, o) {
			p.Mounts = append(p.Mounts, o)
		}
	}
	for _, g := range e.GIDs {
		n, err := number(field+".additionalGids", int64(g))
		if err != nil {
			return err
		}
		if !slices.Contains(p.User.Groups, n) {
			p.User.Groups = append(p.User.Groups, n)
		}
	}
	return nil
}

// cdiMount is a mount in the words of CRI.
func cdiMount(field string, m cdi.Mount, in *Input) (plan.Mount, error) {
	c := &cri.Mount{HostPath: m.HostPath, ContainerPath: m.ContainerPath}
	for _, o := range m.Options {
		switch o {
		case "ro":
			c.Readonly = true
		case "rro":
			c.Readonly, c.RecursiveReadOnly = true, true
		case "rw", "bind", "rbind", "private", "rprivate":
		case "slave", "rslave":
			c.Propagation = cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
		default:
			c.MountOptions = append(c.MountOptions, o) // which refuses what it does not know
		}
	}
	return oneMount(field, c, in)
}

func cdiWord(s string) bool {
	return s != "" && len(s) <= 128 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:-") == ""
}
