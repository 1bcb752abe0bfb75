//go:build linux && cgo && seccomp

package launch

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"

	"github.com/postern-cri/postern/privsep/plan"
)

// create makes the container and leaves its first process waiting on exec.fifo.
// On an error nothing is left behind.
func (o *operation) create() (err error) {
	if o.Plan == nil {
		return errors.New("no plan")
	}
	if err := checkProcess(o.Plan); err != nil {
		return err
	}
	cfg, err := o.config()
	if err != nil {
		return err
	}
	saved := processOf(o.Plan)
	if o.Runtime != nil {
		return o.createExternal(cfg, saved)
	}
	if cfg.Labels, err = saved.labels(); err != nil {
		return err
	}
	c, err := libcontainer.Create(o.StateDir, o.ID, cfg)
	if err != nil {
		return err
	}
	p := saved.process(o.Plan.Args)
	p.Init = true
	o.stdio(p, o.Plan.TTY)
	if err := c.Start(p); err != nil {
		if e := o.delete(); e != nil {
			err = fmt.Errorf("%w (and removing what was made: %v)", err, e)
		}
		return err
	}
	o.result.PID, err = p.Pid()
	return err
}

// checkProcess refuses what no later check would catch in time. A working
// directory in /proc can be a descriptor of ours, and with it a directory of the
// host (CVE-2024-21626).
func checkProcess(p *plan.Plan) error {
	if len(p.Args) == 0 || p.Args[0] == "" {
		return errors.New("nothing to run")
	}
	if p.Cwd != "" && (!path.IsAbs(p.Cwd) || path.Clean(p.Cwd) != p.Cwd) {
		return fmt.Errorf("working directory %q is not absolute and clean", p.Cwd)
	}
	for _, bad := range []string{"/proc", "/dev/fd"} {
		if p.Cwd == bad || strings.HasPrefix(p.Cwd, bad+"/") {
			return fmt.Errorf("working directory %q: cannot be in %s", p.Cwd, bad)
		}
	}
	return nil
}

// stdio gives the process our own descriptors 0 to 2, so that nothing of ours has
// to stay alive to copy, or a terminal whose master goes out by the console
// socket.
func (o *operation) stdio(p *libcontainer.Process, tty bool) {
	if tty {
		p.ConsoleSocket = os.NewFile(consoleFD, "console")
		return
	}
	p.Stdin, p.Stdout, p.Stderr = os.Stdin, os.Stdout, os.Stderr
}

// config translates request and plan to libcontainer's configuration.
func (o *operation) config() (*configs.Config, error) {
	umask := uint32(0o022) // ours is 077: the daemons', not the workload's
	cfg := &configs.Config{
		Umask:           &umask,
		Rootfs:          o.Rootfs,
		Readonlyfs:      o.Plan.ReadOnlyRootfs,
		NoNewPrivileges: o.Plan.NoNewPrivs,
		MaskPaths:       o.Plan.MaskedPaths,
		ReadonlyPaths:   o.Plan.ReadOnlyPaths,
		Version:         "1.2.0",
	}
	for _, part := range []struct {
		what string
		add  func(*configs.Config) error
	}{
		{"namespaces", o.namespaces},
		{"sysctls", o.sysctls},
		{"mounts", o.mounts},
		{"resources", o.cgroup},
		{"devices", o.devices},
		{"capabilities", o.capabilities},
		{"seccomp", o.seccomp},
		{"apparmor", o.apparmor},
		{"selinux", o.selinux},
		{"rlimits", o.rlimits},
		{"oom_score_adj", o.oomScore},
	} {
		if err := part.add(cfg); err != nil {
			return nil, fmt.Errorf("%s: %w", part.what, err)
		}
	}
	return cfg, nil
}

// namespaces joins the pod's pinned namespaces and makes what is the container's
// own. A container always has a mount namespace of its own, and a cgroup
// namespace unless it is privileged.
func (o *operation) namespaces(cfg *configs.Config) error {
	n := &o.Namespaces
	user := o.ownUsers()
	for _, ns := range []struct {
		kind configs.NamespaceType
		path string
		host bool
	}{
		{configs.NEWNET, n.Net, n.HostNet}, {configs.NEWIPC, n.IPC, n.HostIPC},
		{configs.NEWUTS, n.UTS, n.HostUTS}, {configs.NEWPID, n.PID, n.HostPID},
	} {
		if ns.host {
			if ns.path != "" {
				return fmt.Errorf("%s: both a path and the node's", ns.kind)
			}
			if user && ns.kind != configs.NEWUTS {
				return fmt.Errorf("%s: a container with a user namespace cannot be in the node's", ns.kind)
			}
			continue
		}
		cfg.Namespaces.Add(ns.kind, ns.path)
	}
	cfg.Namespaces.Add(configs.NEWNS, "")
	if !o.Plan.Privileged {
		cfg.Namespaces.Add(configs.NEWCGROUP, "")
	}
	if cfg.Namespaces.IsPrivate(configs.NEWNET) {
		cfg.Networks = []*configs.Network{{Type: "loopback"}}
	}
	if !n.HostUTS {
		cfg.Hostname = o.Hostname
	}
	if !user {
		return nil
	}
	cfg.Namespaces.Add(configs.NEWUSER, n.User)
	cfg.UIDMappings, cfg.GIDMappings = idMaps(o.UIDs), idMaps(o.GIDs)
	if len(cfg.UIDMappings) == 0 || len(cfg.GIDMappings) == 0 {
		return errors.New("a user namespace without mappings")
	}
	return nil
}

func idMaps(in []plan.IDMap) []configs.IDMap {
	var out []configs.IDMap
	for _, m := range in {
		out = append(out, configs.IDMap{ContainerID: int64(m.Container), HostID: int64(m.Host), Size: int64(m.Length)})
	}
	return out
}

// sysctls are checked once more by libcontainer, against the namespaces: one
// that would change the node is an error there (CVE-2022-0532).
func (o *operation) sysctls(cfg *configs.Config) error {
	for _, s := range o.Sysctls {
		if cfg.Sysctl == nil {
			cfg.Sysctl = map[string]string{}
		}
		if strings.ContainsAny(s.Value, "\n\x00") {
			return fmt.Errorf("%s: value of more than one line", s.Name)
		}
		cfg.Sysctl[s.Name] = s.Value
	}
	return nil
}
