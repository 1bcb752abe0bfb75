//go:build linux && cgo && seccomp

package launch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"

	"github.com/opencontainers/cgroups"
	devices "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// document is the configuration that the built-in runtime would run, in the
// words of the OCI. It is made from that configuration and from nothing else, so
// that no runtime is told anything wider; what has no words here is an error, not
// left out. It has no annotations and no hooks: some runtimes let those decide
// what a container may do, or run programs on the host.
func (o *operation) document(cfg *configs.Config, saved *savedProcess) (*specs.Spec, error) {
	d := &specs.Spec{
		Version:  "1.0.2",
		Hostname: cfg.Hostname,
		Root:     &specs.Root{Path: cfg.Rootfs, Readonly: cfg.Readonlyfs},
		Process: &specs.Process{
			Args: o.Plan.Args, Env: saved.Env, Cwd: saved.Cwd, Terminal: o.Plan.TTY, User: specs.User{UID: uint32(saved.UID), GID: uint32(saved.GID), Umask: cfg.Umask},
			NoNewPrivileges: cfg.NoNewPrivileges, ApparmorProfile: cfg.AppArmorProfile, SelinuxLabel: cfg.ProcessLabel, OOMScoreAdj: cfg.OomScoreAdj,
			Capabilities: (*specs.LinuxCapabilities)(cfg.Capabilities),
		},
		Linux: &specs.Linux{
			UIDMappings: mappings(cfg.UIDMappings), GIDMappings: mappings(cfg.GIDMappings), Sysctl: cfg.Sysctl, CgroupsPath: groupWord(cfg.Cgroups), Seccomp: o.filter,
			MaskedPaths: cfg.MaskPaths, ReadonlyPaths: cfg.ReadonlyPaths, MountLabel: cfg.MountLabel,
		},
	}
	for _, g := range saved.Groups {
		d.Process.User.AdditionalGids = append(d.Process.User.AdditionalGids, uint32(g))
	}
	for _, l := range cfg.Rlimits {
		for name, number := range limitNumbers {
			if number == l.Type {
				d.Process.Rlimits = append(d.Process.Rlimits, specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(name), Hard: l.Hard, Soft: l.Soft})
			}
		}
	}
	for _, n := range cfg.Namespaces {
		word, ok := namespaceWords[n.Type]
		if !ok {
			return nil, fmt.Errorf("a namespace %s has no word for an OCI runtime", n.Type)
		}
		d.Linux.Namespaces = append(d.Linux.Namespaces, specs.LinuxNamespace{Type: word, Path: n.Path})
	}
	var err error
	if p := cfg.RootPropagation; p != 0 {
		if d.Linux.RootfsPropagation, err = propagation(p); err != nil {
			return nil, err
		}
	}
	for _, m := range cfg.Mounts {
		w, err := mountWords(m)
		if err != nil {
			return nil, fmt.Errorf("mount at %s: %w", m.Destination, err)
		}
		d.Mounts = append(d.Mounts, w)
	}
	for _, dev := range cfg.Devices {
		mode, uid, gid := dev.FileMode, dev.Uid, dev.Gid
		d.Linux.Devices = append(d.Linux.Devices, specs.LinuxDevice{Path: dev.Path, Type: string(dev.Type), Major: dev.Major, Minor: dev.Minor, FileMode: &mode, UID: &uid, GID: &gid})
	}
	if d.Linux.Resources, err = resourceWords(cfg.Cgroups.Resources); err != nil {
		return nil, err
	}
	left := *cfg
	left.Umask, left.Rootfs, left.Readonlyfs, left.RootPropagation, left.Mounts, left.Devices, left.MountLabel, left.Hostname = nil, "", false, 0, nil, nil, "", ""
	left.Namespaces, left.Capabilities, left.AppArmorProfile, left.ProcessLabel, left.Rlimits, left.OomScoreAdj = nil, nil, "", "", nil, nil
	left.UIDMappings, left.GIDMappings, left.MaskPaths, left.ReadonlyPaths, left.Sysctl, left.NoNewPrivileges = nil, nil, nil, nil, nil, false
	left.Seccomp = nil  // made of filter
	left.Networks = nil // the loopback, which every runtime brings up in a network namespace that it made
	left.Labels = nil   // what an exec takes over: from Process
	left.Version = ""
	group := *cfg.Cgroups
	group.Path, group.Resources = "", nil
	if group.Systemd {
		group.Parent, group.ScopePrefix, group.Name, group.Systemd = "", "", "", false
	}
	left.Cgroups = nil
	if err := nothingLeft(left); err != nil {
		return nil, err
	}
	return d, nothingLeft(group)
}

// groupWord is a path, or a slice and a scope.
func groupWord(c *cgroups.Cgroup) string {
	if c.Systemd {
		return c.Parent + ":" + c.ScopePrefix + ":" + c.Name
	}
	return c.Path
}

// nothingLeft names a field of a struct that is set and was not translated.
func nothingLeft(of any) error {
	v := reflect.ValueOf(of)
	for i := range v.NumField() {
		if !v.Field(i).IsZero() {
			return fmt.Errorf("%s has no word for an OCI runtime", v.Type().Field(i).Name)
		}
	}
	return nil
}

// encode writes a document down. A NUL would end a string for a runtime that is
// written in C, and not for us. That there are no flags for the filter has to be
// said: some runtimes take the lack of a list for leave to switch a mitigation of
// speculation off, and the package's own encoding leaves an empty list out. (A
// quote inside a string is escaped, so this text cannot be part of one.)
func encode(d *specs.Spec) ([]byte, error) {
	b, err := json.Marshal(d)
	if err == nil {
		err = noNUL(b)
	}
	if err == nil && d.Linux.Seccomp != nil && len(d.Linux.Seccomp.Flags) == 0 {
		b = bytes.Replace(b, []byte(`"seccomp":{"`), []byte(`"seccomp":{"flags":[],"`), 1)
	}
	return b, err
}

// noNUL looks for the escape of a NUL that is not a backslash's.
func noNUL(document []byte) error {
	rest := bytes.ReplaceAll(document, []byte(`\\`), nil)
	if bytes.Contains(rest, []byte(`\u0000`)) {
		return errors.New("a NUL in a string")
	}
	return nil
}

var namespaceWords = map[configs.NamespaceType]specs.LinuxNamespaceType{
	configs.NEWNET: specs.NetworkNamespace, configs.NEWIPC: specs.IPCNamespace, configs.NEWUTS: specs.UTSNamespace, configs.NEWPID: specs.PIDNamespace,
	configs.NEWNS: specs.MountNamespace, configs.NEWCGROUP: specs.CgroupNamespace, configs.NEWUSER: specs.UserNamespace,
}

func mappings(in []configs.IDMap) []specs.LinuxIDMapping {
	var out []specs.LinuxIDMapping
	for _, m := range in {
		out = append(out, specs.LinuxIDMapping{ContainerID: uint32(m.ContainerID), HostID: uint32(m.HostID), Size: uint32(m.Size)})
	}
	return out
}

func propagation(flags int) (string, error) {
	switch flags {
	case unix.MS_PRIVATE | unix.MS_REC:
		return "rprivate", nil
	case unix.MS_SLAVE | unix.MS_REC:
		return "rslave", nil
	case unix.MS_SHARED | unix.MS_REC:
		return "rshared", nil
	}
	return "", fmt.Errorf("propagation %#x has no word for an OCI runtime", flags)
}

// mountFlags are flags with their words; the first two belong together.
var mountFlags = []struct {
	flags int
	word  string
}{
	{unix.MS_BIND | unix.MS_REC, "rbind"}, {unix.MS_BIND, "bind"}, {unix.MS_RDONLY, "ro"}, {unix.MS_NOSUID, "nosuid"}, {unix.MS_NODEV, "nodev"},
	{unix.MS_NOEXEC, "noexec"}, {unix.MS_STRICTATIME, "strictatime"}, {unix.MS_RELATIME, "relatime"},
}

func mountWords(m *configs.Mount) (specs.Mount, error) {
	w := specs.Mount{Source: m.Source, Destination: m.Destination, Type: m.Device}
	left := *m
	for _, f := range mountFlags {
		if left.Flags&f.flags == f.flags {
			w.Options = append(w.Options, f.word)
			left.Flags &^= f.flags
		}
	}
	for _, p := range m.PropagationFlags {
		word, err := propagation(p)
		if err != nil {
			return w, err
		}
		w.Options = append(w.Options, word)
	}
	if a := m.RecAttr; a != nil && *a == (unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}) {
		w.Options = append(w.Options, "rro")
		left.RecAttr = nil
	}
	if m.Data != "" {
		w.Options = append(w.Options, strings.Split(m.Data, ",")...)
	}
	left.Source, left.Destination, left.Device, left.Data, left.PropagationFlags = "", "", "", "", nil
	return w, nothingLeft(left)
}

// resourceWords translates limits. The first rules of devices say "none".
func resourceWords(r *cgroups.Resources) (*specs.LinuxResources, error) {
	w := &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: limit(r.Memory), Swap: limit(r.MemorySwap)},
		CPU:    &specs.LinuxCPU{Shares: some(r.CpuShares), Quota: limit(r.CpuQuota), Period: some(r.CpuPeriod), Cpus: r.CpusetCpus, Mems: r.CpusetMems},
	}
	if r.PidsLimit != nil && *r.PidsLimit > 0 {
		w.Pids = &specs.LinuxPids{Limit: r.PidsLimit}
	}
	for _, h := range r.HugetlbLimit {
		w.HugepageLimits = append(w.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: h.Pagesize, Limit: h.Limit})
	}
	for k, v := range r.Unified {
		setUnified(w, k, v)
	}
	// Every runtime makes a weight of shares in a way of its own.
	if _, ok := r.Unified["cpu.weight"]; !ok && r.CpuWeight != 0 && cgroups.IsCgroup2UnifiedMode() {
		setUnified(w, "cpu.weight", fmt.Sprint(r.CpuWeight))
	}
	for _, rule := range r.Devices {
		w.Devices = append(w.Devices, deviceWords(rule))
	}
	left := *r
	left.Memory, left.MemorySwap, left.CpuShares, left.CpuWeight, left.CpuQuota, left.CpuPeriod, left.CpusetCpus, left.CpusetMems = 0, 0, 0, 0, 0, 0, "", ""
	left.PidsLimit, left.HugetlbLimit, left.Unified, left.Devices, left.SkipDevices = nil, nil, nil, nil, false
	return w, nothingLeft(left)
}

// limit leaves -1, no limit, to hold: Debian's crun cannot write it.
func limit(v int64) *int64 { return some(max(v, 0)) }

func some[T int64 | uint64](v T) *T {
	if v == 0 {
		return nil
	}
	return &v
}

func setUnified(w *specs.LinuxResources, key, value string) {
	if w.Unified == nil {
		w.Unified = map[string]string{}
	}
	w.Unified[key] = value
}

func deviceWords(r *devices.Rule) specs.LinuxDeviceCgroup {
	w := specs.LinuxDeviceCgroup{Allow: r.Allow, Type: string(r.Type), Access: string(r.Permissions)}
	if r.Major != devices.Wildcard {
		w.Major = &r.Major
	}
	if r.Minor != devices.Wildcard {
		w.Minor = &r.Minor
	}
	return w
}

// read reads a file of ours as JSON.
func read(name string, into any) error {
	b, err := os.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(b, into)
	}
	return err
}
