package input

import (
	"fmt"
	"strings"

	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/record"
)

func podOf(p *plan.PodPlan) *Pod {
	user := "node"
	if p.UserNS {
		user = "pod"
	}
	return &Pod{
		Class: className(p.Class), UID: p.UID, Hostname: p.Hostname,
		Namespaces: Namespaces{
			Network: namespaceName(p.Network), PID: namespaceName(p.PID), IPC: namespaceName(p.IPC), User: user,
		},
		UIDs: each(p.UIDs, idMapOf), GIDs: each(p.GIDs, idMapOf),
		Sysctls: each(p.Sysctls, func(s plan.Sysctl) NameValue { return NameValue(s) }),
		Ports: each(p.Ports, func(m plan.PortMapping) PortMapping {
			return PortMapping{protocolName(m.Protocol), m.ContainerPort, m.HostPort, m.HostIP}
		}),
		DNS:          DNS(p.DNS),
		CgroupParent: placeOf(p.CgroupParent), Logs: placeOf(p.Logs),
		Handler: p.Handler, ShmBytes: p.ShmSize, SELinux: SELinux(p.SELinux), Privileged: p.Privileged,
	}
}

func idMapOf(m plan.IDMap) IDMap { return IDMap(m) }

func placeOf(p plan.Place) Place { return Place{rootName(p.Root), p.Name, p.Rel} }

func profileOf(p plan.Profile) Profile { return Profile{profileName(p.Kind), p.Name} }

func (b *builder) containerOf(p *plan.Plan) *Container {
	return &Container{
		Class: className(p.Class), Image: p.Image, Args: b.argv(p.Args), Env: b.env(p.Env), Cwd: p.Cwd,
		User:         User(p.User),
		Capabilities: Capabilities{capabilityNames(p.CapsBounding), capabilityNames(p.CapsAmbient)},
		Privileged:   p.Privileged, NoNewPrivs: p.NoNewPrivs, ReadOnlyRoot: p.ReadOnlyRootfs,
		TTY: p.TTY, Stdin: p.Stdin, StdinOnce: p.StdinOnce,
		PID: namespaceName(p.PID), Target: p.Target,
		Seccomp: profileOf(p.Seccomp), AppArmor: profileOf(p.AppArmor), SELinux: SELinux(p.SELinux),
		MaskedPaths: p.MaskedPaths, ReadOnlyPaths: p.ReadOnlyPaths,
		Mounts: each(p.Mounts, mountOf), Devices: each(p.Devices, deviceOf), CDI: p.CDI,
		Rlimits:   each(p.Rlimits, func(r plan.Rlimit) Rlimit { return Rlimit(r) }),
		Resources: resourcesOf(&p.Resources), Log: p.Log, StopSignal: p.StopSignal,
	}
}

// maxArg is the most bytes of one argument, as much as an audit record keeps of a
// string: what is cut is cut before it is judged, so that a replay sees the same.
const maxArg = 2000

func (b *builder) argv(args []string) []string {
	out, _ := b.r.Argv(args)
	for i, a := range out {
		if len(a) > maxArg {
			out[i] = fmt.Sprintf("%s[%d bytes]", strings.ToValidUTF8(a[:maxArg], ""), len(a))
		}
	}
	return out
}

// maxDigests is the most variables that get a digest. A namespace with hundreds
// of services puts thousands of variables into every container: their names must
// not make the document too large.
const maxDigests = 256

// env keeps names and digests: a value is a secret more often than not. Of the
// digest 64 bits are kept, which is plenty to tell equal values from others.
func (b *builder) env(env []string) []EnvVar {
	return each(env, func(e string) EnvVar {
		name, value := cutEnv(e)
		if len(env) > maxDigests {
			return EnvVar{name, ""}
		}
		d := b.r.EnvDigest(name, value)
		if len(d) > 21 {
			d = d[:21] // "hmac:" and 16 digits
		}
		return EnvVar{name, d}
	})
}

func cutEnv(e string) (name, value string) {
	for i := 0; i < len(e); i++ {
		if e[i] == '=' {
			return e[:i], e[i+1:]
		}
	}
	return e, ""
}

func mountOf(m plan.Mount) Mount {
	return Mount{
		Root: rootName(m.From.Root), Name: m.From.Name, Rel: m.From.Rel, To: m.To,
		ReadOnly: m.ReadOnly, RecursiveReadOnly: m.RecursiveReadOnly, Propagation: propagationName(m.Propagation),
		NoExec: m.NoExec, NoDev: m.NoDev, NoSuid: m.NoSuid, Relabel: m.Relabel, MakeDir: m.MakeDir,
	}
}

func deviceOf(d plan.Device) Device {
	var perm string
	for _, p := range []struct {
		bit  uint8
		name string
	}{{plan.DeviceRead, "r"}, {plan.DeviceWrite, "w"}, {plan.DeviceMknod, "m"}} {
		if d.Permissions&p.bit != 0 {
			perm += p.name
		}
	}
	return Device{rootName(d.Host.Root), d.Host.Name, d.Host.Rel, d.To, perm}
}

func resourcesOf(r *plan.Resources) Resources {
	return Resources{
		CPUShares: r.CPUShares, CPUQuota: r.CPUQuota, CPUPeriod: r.CPUPeriod,
		CPUSetCPUs: r.CPUSetCPUs, CPUSetMems: r.CPUSetMems,
		Memory: r.Memory, MemorySwap: r.MemorySwap, OOMScoreAdj: r.OOMScoreAdj, PIDs: r.PIDs,
		Hugepages: each(r.Hugepages, func(h plan.HugepageLimit) HugepageLimit { return HugepageLimit(h) }),
		Unified:   each(r.Unified, func(u plan.Unified) NameValue { return NameValue{u.Key, u.Value} }),
	}
}

func (b *builder) execOf(e *plan.ExecPlan) *Exec {
	return &Exec{b.argv(e.Args), e.TTY, e.Stdin, e.Stdout, e.Stderr, e.Sync}
}

func imageOf(r *record.Record) *Image {
	return &Image{
		Manifest: r.Manifest, Index: r.Index, Config: r.Config,
		Registry: parseReference(r.Repository).Registry, Repository: r.Repository,
		Layers: each(r.Layers, func(l record.Layer) Layer { return Layer(l) }),
		Status: string(r.Status),
		Authorities: each(r.Authorities, func(a record.Authority) Authority {
			return Authority(a)
		}),
		Epoch: r.Epoch, VerifiedAt: r.VerifiedAt, Evidence: r.Evidence,
	}
}

func each[A, B any](in []A, f func(A) B) []B {
	if len(in) == 0 {
		return nil
	}
	out := make([]B, len(in))
	for i, v := range in {
		out[i] = f(v)
	}
	return out
}
