//go:build linux && cgo && seccomp

package launch

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	runc "github.com/opencontainers/runc/libcontainer/apparmor"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	libseccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/label"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/profiles/apparmor"
	"github.com/postern-cri/postern/profiles/capability"
	"github.com/postern-cri/postern/profiles/seccomp"
)

// capabilities gives the bounding set; permitted and effective with it, which
// only uid 0 keeps across execve. The inheritable set is empty (CVE-2022-27652),
// but for the ambient capabilities, which the kernel wants there too.
func (o *operation) capabilities(cfg *configs.Config) error {
	ours, err := capability.Bounding()
	if err != nil {
		return err
	}
	want := o.Plan.CapsBounding
	if o.Plan.CapsAmbient&^want != 0 {
		return errors.New("ambient ones that the bounding set lacks")
	}
	if lost := capability.Names(want &^ ours); len(lost) > 0 {
		o.note("capabilities: this machine does not permit %s", strings.Join(lost, ", "))
	}
	bounding, ambient := capNames(want&ours), capNames(o.Plan.CapsAmbient&ours)
	cfg.Capabilities = &configs.Capabilities{
		Bounding: bounding, Permitted: bounding, Effective: bounding, Inheritable: ambient, Ambient: ambient,
	}
	return nil
}

func capNames(mask uint64) []string {
	list := capability.Names(mask)
	for i := range list {
		list[i] = "CAP_" + list[i]
	}
	return list
}

// seccomp loads the filter. There is no way on without the one that was asked for.
func (o *operation) seccomp(cfg *configs.Config) error {
	var p *specs.LinuxSeccomp
	var err error
	switch s := o.Plan.Seccomp; s.Kind {
	case plan.ProfileUnconfined:
		return nil
	case plan.ProfileRuntimeDefault:
		p, err = seccomp.Default(cfg.Capabilities.Bounding, brings32(o.Rootfs))
	case plan.ProfileLocalhost:
		p, err = seccomp.Load(o.Seccomp, s.Name, cfg.Capabilities.Bounding)
	default:
		return fmt.Errorf("unknown kind of profile %d", s.Kind)
	}
	if err != nil {
		return err
	}
	o.filter = p
	if cfg.Seccomp, err = specconv.SetupSeccomp(p); err == nil && cfg.Seccomp == nil {
		err = errors.New("the profile filters nothing")
	}
	if err == nil && len(cfg.Seccomp.Architectures) == 1 {
		cfg.Seccomp.Syscalls = slices.DeleteFunc(cfg.Seccomp.Syscalls, foreign)
	}
	return err
}

// foreign reports whether a rule is for a call that the native ABI does not have.
// Such a rule can never match; it would be carried, stored and parsed in vain.
func foreign(c *configs.Syscall) bool {
	n, err := libseccomp.GetSyscallFromName(c.Name)
	return err == nil && n < 0
}

// brings32 reports whether an image brings the loader of the machine's 32-bit
// ABI. Such an image gets that ABI's calls; to all others they are closed.
func brings32(rootfs string) bool {
	root, err := unix.Open(rootfs, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(root)
	for _, loader := range []string{"lib/ld-linux.so.2", "lib/ld-musl-i386.so.1", "lib/ld-linux-armhf.so.3", "lib/ld-musl-armhf.so.1"} {
		how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
		if fd, err := unix.Openat2(root, loader, &how); err == nil {
			unix.Close(fd)
			return true
		}
	}
	return false
}

// apparmor names the profile. Where the kernel has no AppArmor the default is
// void, as everywhere, but a profile asked for by name is an error. One that is
// not loaded, or that only complains, is an error always.
func (o *operation) apparmor(cfg *configs.Config) error {
	name, enabled := "", runc.IsEnabled()
	switch a := o.Plan.AppArmor; a.Kind {
	case plan.ProfileUnconfined:
		if enabled {
			cfg.AppArmorProfile = "unconfined"
		}
		return nil
	case plan.ProfileRuntimeDefault:
		if !enabled {
			return nil
		}
		name = apparmor.Default
	case plan.ProfileLocalhost:
		if !enabled {
			return fmt.Errorf("profile %q: this machine has no AppArmor", a.Name)
		}
		name = a.Name
	default:
		return fmt.Errorf("unknown kind of profile %d", a.Kind)
	}
	if err := apparmor.Confines("/sys", name); err != nil {
		return err
	}
	cfg.AppArmorProfile = name
	return nil
}

// selinux labels the process and the file systems that are made for it, and
// relabels sources where asked. The labels are the helper's.
func (o *operation) selinux(cfg *configs.Config) error {
	if o.Process == "" || o.Files == "" {
		if label.Enabled() || o.Process != o.Files {
			return errors.New("no label for a container on a machine with SELinux")
		}
		return nil
	}
	cfg.ProcessLabel, cfg.MountLabel = o.Process, o.Files
	for _, m := range o.Mounts {
		if !m.Relabel {
			continue
		}
		if err := relabel(m.Source, o.Files); err != nil {
			return fmt.Errorf("relabelling the source of %s: %w", m.To, err)
		}
	}
	return nil
}
