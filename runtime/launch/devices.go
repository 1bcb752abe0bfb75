//go:build linux && cgo && seccomp

package launch

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"

	devices "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/plan"
)

// nodes are in every container's /dev.
var nodes = []struct {
	name         string
	major, minor int64
}{{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}}

// devices makes the nodes and allows them: the list starts with "none", and
// making a node is allowed for those alone that may be opened too.
func (o *operation) devices(cfg *configs.Config) error {
	add := func(d *devices.Device) {
		for i, old := range cfg.Devices {
			if old.Path == d.Path {
				cfg.Devices[i] = d
				return
			}
		}
		cfg.Devices = append(cfg.Devices, d)
	}
	for _, n := range nodes {
		add(&devices.Device{Path: "/dev/" + n.name, FileMode: 0o666, Rule: rule(devices.CharDevice, n.major, n.minor, "rwm")})
	}
	if o.Plan.Privileged {
		list, err := hostDevices("/dev")
		if err != nil {
			return err
		}
		for _, d := range list {
			add(d)
		}
	}
	for i := range o.Devices {
		d := &o.Devices[i]
		if !path.IsAbs(d.Path) || path.Clean(d.Path) != d.Path {
			return fmt.Errorf("%q is no path of a node", d.Path)
		}
		kind := devices.BlockDevice
		if d.Char {
			kind = devices.CharDevice
		}
		add(&devices.Device{Path: d.Path, FileMode: os.FileMode(d.Mode & 0o777), Uid: d.UID, Gid: d.GID,
			Rule: rule(kind, int64(d.Major), int64(d.Minor), permissions(d.Permissions))})
	}
	if len(cfg.UIDMappings) > 0 {
		uid, err := cfg.HostRootUID()
		if err != nil {
			return err
		}
		gid, err := cfg.HostRootGID()
		if err != nil {
			return err
		}
		for _, d := range cfg.Devices {
			d.Uid, d.Gid = uint32(uid), uint32(gid)
		}
	}
	cfg.Cgroups.Resources.Devices = o.rules(cfg.Devices)
	return nil
}

func (o *operation) rules(list []*devices.Device) []*devices.Rule {
	all := rule(devices.WildcardDevice, devices.Wildcard, devices.Wildcard, "rwm")
	if o.Plan.Privileged {
		return []*devices.Rule{&all}
	}
	all.Allow = false
	ptmx, pts := rule(devices.CharDevice, 5, 2, "rwm"), rule(devices.CharDevice, 136, devices.Wildcard, "rwm")
	rules := []*devices.Rule{&all, &ptmx, &pts}
	for _, d := range list {
		rules = append(rules, &d.Rule)
	}
	return rules
}

func rule(kind devices.Type, major, minor int64, p devices.Permissions) devices.Rule {
	return devices.Rule{Type: kind, Major: major, Minor: minor, Permissions: p, Allow: true}
}

func permissions(p uint8) devices.Permissions {
	s := ""
	for _, b := range []struct {
		bit  uint8
		name string
	}{{plan.DeviceRead, "r"}, {plan.DeviceWrite, "w"}, {plan.DeviceMknod, "m"}} {
		if p&b.bit != 0 {
			s += b.name
		}
	}
	return devices.Permissions(s)
}

// hostDevices lists the device nodes of the machine, for a privileged container,
// without those that are a terminal's or that every container has its own of.
func hostDevices(root string) ([]*devices.Device, error) {
	var list []*devices.Device
	err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			if p == root {
				return err
			}
			return nil // a device that was unplugged while we looked
		}
		if e.IsDir() {
			switch p {
			case "/dev/pts", "/dev/shm", "/dev/fd", "/dev/mqueue", "/dev/.lxc", "/dev/.lxd-mounts", "/dev/.udev":
				return fs.SkipDir
			}
			return nil
		}
		if e.Type()&fs.ModeDevice == 0 || p == "/dev/console" || p == "/dev/ptmx" {
			return nil
		}
		info, err := e.Info()
		if err != nil {
			return nil
		}
		st := info.Sys().(*syscall.Stat_t)
		kind := devices.BlockDevice
		if e.Type()&fs.ModeCharDevice != 0 {
			kind = devices.CharDevice
		}
		list = append(list, &devices.Device{Path: p, FileMode: info.Mode().Perm(), Uid: st.Uid, Gid: st.Gid,
			Rule: rule(kind, int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev)), "rwm")})
		return nil
	})
	return list, err
}
