package plan

import (
	"fmt"
	"math/bits"
	"net/netip"
	"strings"

	"github.com/postern-cri/postern/privsep/wire"
)

// Limits of the codec. They bound what the helper allocates for one request:
// everything lies in a memfd of at most 1 MiB anyway.
const (
	maxPath  = 4095 // PATH_MAX less the NUL
	maxName  = 253
	maxValue = 32 << 10 // of an argument or an environment entry
	maxList  = 1024
	maxArgs  = 8192
	maxCaps  = 40 // CAP_CHECKPOINT_RESTORE; a higher bit is unknown and means no
)

type coded interface{ code(*wire.Coder) }

func encode(what string, m coded) ([]byte, error) {
	c := wire.NewEncoder()
	m.code(c)
	b, err := c.Encoded()
	if err != nil {
		return nil, fmt.Errorf("encoding %s: %w", what, err)
	}
	return b, nil
}

func decode(what string, b []byte, m coded) error {
	c := wire.NewDecoder(b)
	m.code(c)
	if err := c.Finish(); err != nil {
		return fmt.Errorf("decoding %s: %w", what, err)
	}
	return nil
}

// EncodePod encodes p.
func EncodePod(p PodPlan) ([]byte, error) { return encode("a pod plan", &p) }

// DecodePod decodes a PodPlan strictly.
func DecodePod(b []byte) (p PodPlan, err error) { return p, decode("a pod plan", b, &p) }

// EncodeContainer encodes p.
func EncodeContainer(p Plan) ([]byte, error) { return encode("a container plan", &p) }

// DecodeContainer decodes a Plan strictly.
func DecodeContainer(b []byte) (p Plan, err error) { return p, decode("a container plan", b, &p) }

// EncodeExec encodes p.
func EncodeExec(p ExecPlan) ([]byte, error) { return encode("an exec plan", &p) }

// DecodeExec decodes an ExecPlan strictly.
func DecodeExec(b []byte) (p ExecPlan, err error) { return p, decode("an exec plan", b, &p) }

// EncodeResources encodes r.
func EncodeResources(r Resources) ([]byte, error) { return encode("resources", &r) }

// DecodeResources decodes Resources strictly.
func DecodeResources(b []byte) (r Resources, err error) { return r, decode("resources", b, &r) }

// EncodeClaims encodes m.
func EncodeClaims(m Claims) ([]byte, error) { return encode("claims", &m) }

// DecodeClaims decodes Claims strictly.
func DecodeClaims(b []byte) (m Claims, err error) { return m, decode("claims", b, &m) }

// text is a string without control characters: it ends up in generated files.
func text(c *wire.Coder, v *string, limit int) {
	c.Str(v, limit)
	if strings.IndexFunc(*v, func(r rune) bool { return r < ' ' || r == 0x7f }) >= 0 {
		c.Fail("%q has a control character", *v)
	}
}

// name is a name of a root-owned list or directory entry: never a path.
func name(c *wire.Coder, v *string) {
	text(c, v, maxName)
	if strings.ContainsRune(*v, '/') || strings.HasPrefix(*v, ".") {
		c.Fail("%q is not a name", *v)
	}
}

// absolute is a clean absolute path inside a container.
func absolute(c *wire.Coder, v *string) {
	c.Str(v, maxPath)
	if p := *v; !strings.HasPrefix(p, "/") || (p != "/" && !clean(p[1:])) {
		c.Fail("%q is not a clean absolute path", p)
	}
}

// relative is a clean path that cannot climb; "" is the root itself.
func relative(c *wire.Coder, v *string) {
	c.Str(v, maxPath)
	if *v != "" && !clean(*v) {
		c.Fail("%q is not a clean relative path", *v)
	}
}

func clean(p string) bool {
	for _, part := range strings.Split(p, "/") {
		if part == "" || part == "." || part == ".." {
			return false
		}
	}
	return true
}

func handle(c *wire.Coder, v *string) {
	c.Str(v, 64)
	if s := *v; s != "" && (len(s) != 64 || strings.Trim(s, "0123456789abcdef") != "") {
		c.Fail("%q is not a handle", s)
	}
}

func self(s string) string { return s }

func (p *Place) code(c *wire.Coder) {
	wire.Enum(c, &p.Root, RootPodVolumes, RootImage)
	name(c, &p.Name)
	relative(c, &p.Rel)
}

// optional is a Place that may be absent.
func optional(c *wire.Coder, p *Place) {
	there := *p != Place{}
	c.Bool(&there)
	if there {
		p.code(c)
	}
}

func (p *Profile) code(c *wire.Coder, name func(*wire.Coder, *string)) {
	wire.Enum(c, &p.Kind, ProfileRuntimeDefault, ProfileUnconfined)
	name(c, &p.Name)
	if (p.Kind == ProfileLocalhost) != (p.Name != "") {
		c.Fail("profile kind %d with the name %q", p.Kind, p.Name)
	}
}

func (s *SELinux) code(c *wire.Coder) {
	for _, v := range []*string{&s.User, &s.Role, &s.Type, &s.Level} {
		text(c, v, maxName)
	}
}

func (m *IDMap) code(c *wire.Coder) {
	c.U32(&m.Host)
	c.U32(&m.Container)
	c.U32(&m.Length)
}

func (s *Sysctl) code(c *wire.Coder) {
	name(c, &s.Name)
	text(c, &s.Value, maxName)
}

func (p *PortMapping) code(c *wire.Coder) {
	wire.Enum(c, &p.Protocol, TCP, SCTP)
	c.U16(&p.ContainerPort)
	c.U16(&p.HostPort)
	text(c, &p.HostIP, 64)
	if p.HostIP != "" {
		if _, err := netip.ParseAddr(p.HostIP); err != nil {
			c.Fail("host ip %q", p.HostIP)
		}
	}
}

func texts(c *wire.Coder, v *[]string, count, limit int) {
	wire.ListOf(c, v, count, 2, func(s *string) { text(c, s, limit) })
}

func (p *PodPlan) code(c *wire.Coder) {
	wire.Enum(c, &p.Class, Restricted, System)
	name(c, &p.UID)
	text(c, &p.Hostname, 64)
	wire.Enum(c, &p.Network, NamespacePod, NamespaceNode)
	wire.Enum(c, &p.PID, NamespacePod, NamespaceNode)
	wire.Enum(c, &p.IPC, NamespacePod, NamespaceNode)
	// Neither is anybody's "own" but the pod's or the host's: a third value would
	// pass a check for the one and count as the other.
	if p.Network == NamespaceContainer || p.IPC == NamespaceContainer {
		c.Fail("network mode %d, ipc mode %d", p.Network, p.IPC)
	}
	c.Bool(&p.UserNS)
	wire.ListOf(c, &p.UIDs, 16, 12, func(m *IDMap) { m.code(c) })
	wire.ListOf(c, &p.GIDs, 16, 12, func(m *IDMap) { m.code(c) })
	wire.ListOf(c, &p.Sysctls, maxList, 4, func(s *Sysctl) { s.code(c) })
	wire.Unique(c, "sysctls", p.Sysctls, func(s Sysctl) string { return s.Name })
	wire.ListOf(c, &p.Ports, maxList, 7, func(m *PortMapping) { m.code(c) })
	texts(c, &p.DNS.Servers, 32, maxName)
	texts(c, &p.DNS.Searches, 64, maxName)
	texts(c, &p.DNS.Options, 64, maxName)
	optional(c, &p.CgroupParent)
	optional(c, &p.Logs)
	name(c, &p.Handler)
	c.U64(&p.ShmSize)
	p.SELinux.code(c)
	c.Bool(&p.Privileged)
}

func (m *Mount) code(c *wire.Coder) {
	m.From.code(c)
	absolute(c, &m.To)
	c.Bool(&m.ReadOnly)
	c.Bool(&m.RecursiveReadOnly)
	wire.Enum(c, &m.Propagation, Private, Bidirectional)
	for _, v := range []*bool{&m.NoExec, &m.NoDev, &m.NoSuid, &m.Relabel, &m.MakeDir} {
		c.Bool(v)
	}
}

func (d *Device) code(c *wire.Coder) {
	d.Host.code(c)
	absolute(c, &d.To)
	c.U8(&d.Permissions)
	if d.Permissions == 0 || d.Permissions > DeviceRead|DeviceWrite|DeviceMknod {
		c.Fail("device permissions %d", d.Permissions)
	}
}

func (u *User) code(c *wire.Coder) {
	c.U32(&u.UID)
	c.U32(&u.GID)
	wire.ListOf(c, &u.Groups, maxList, 4, func(g *uint32) { c.U32(g) })
	wire.Unique(c, "groups", u.Groups, func(g uint32) string { return fmt.Sprint(g) })
}

func (r *Rlimit) code(c *wire.Coder) {
	name(c, &r.Name)
	c.U64(&r.Soft)
	c.U64(&r.Hard)
}

func (r *Resources) code(c *wire.Coder) {
	c.U64(&r.CPUShares)
	c.I64(&r.CPUQuota)
	c.U64(&r.CPUPeriod)
	text(c, &r.CPUSetCPUs, maxName)
	text(c, &r.CPUSetMems, maxName)
	c.I64(&r.Memory)
	c.I64(&r.MemorySwap)
	c.I32(&r.OOMScoreAdj)
	c.I64(&r.PIDs)
	wire.ListOf(c, &r.Hugepages, 16, 10, func(h *HugepageLimit) {
		name(c, &h.PageSize)
		c.U64(&h.Bytes)
	})
	wire.Unique(c, "huge page sizes", r.Hugepages, func(h HugepageLimit) string { return h.PageSize })
	wire.ListOf(c, &r.Unified, 128, 4, func(u *Unified) {
		name(c, &u.Key)
		text(c, &u.Value, maxPath)
	})
	wire.Unique(c, "unified", r.Unified, func(u Unified) string { return u.Key })
}

func (p *Plan) code(c *wire.Coder) {
	wire.Enum(c, &p.Class, Restricted, System)
	text(c, &p.Image, 71)
	c.Strs(&p.Args, maxArgs, maxValue)
	c.Strs(&p.Env, maxArgs, maxValue)
	wire.Unique(c, "env", p.Env, func(e string) string { n, _, _ := strings.Cut(e, "="); return n })
	absolute(c, &p.Cwd)
	p.User.code(c)
	capabilities(c, &p.CapsBounding)
	capabilities(c, &p.CapsAmbient)
	if p.CapsAmbient&^p.CapsBounding != 0 {
		c.Fail("ambient capabilities that are not in the bounding set")
	}
	for _, v := range []*bool{&p.Privileged, &p.NoNewPrivs, &p.ReadOnlyRootfs, &p.TTY, &p.Stdin, &p.StdinOnce} {
		c.Bool(v)
	}
	wire.Enum(c, &p.PID, NamespacePod, NamespaceTarget)
	handle(c, &p.Target)
	if (p.PID == NamespaceTarget) != (p.Target != "") {
		c.Fail("pid namespace mode %d with the target %q", p.PID, p.Target)
	}
	p.Seccomp.code(c, relative)
	p.AppArmor.code(c, name)
	p.SELinux.code(c)
	wire.ListOf(c, &p.MaskedPaths, maxList, 2, func(s *string) { absolute(c, s) })
	wire.Unique(c, "masked paths", p.MaskedPaths, self)
	wire.ListOf(c, &p.ReadOnlyPaths, maxList, 2, func(s *string) { absolute(c, s) })
	wire.Unique(c, "read-only paths", p.ReadOnlyPaths, self)
	wire.ListOf(c, &p.Mounts, maxList, 14, func(m *Mount) { m.code(c) })
	wire.Unique(c, "mounts", p.Mounts, func(m Mount) string { return m.To })
	wire.ListOf(c, &p.Devices, maxList, 8, func(d *Device) { d.code(c) })
	wire.Unique(c, "devices", p.Devices, func(d Device) string { return d.To })
	texts(c, &p.CDI, 128, maxPath)
	wire.Unique(c, "cdi devices", p.CDI, self)
	wire.ListOf(c, &p.Rlimits, 32, 18, func(r *Rlimit) { r.code(c) })
	wire.Unique(c, "rlimits", p.Rlimits, func(r Rlimit) string { return r.Name })
	p.Resources.code(c)
	relative(c, &p.Log)
	c.U8(&p.StopSignal)
	if p.StopSignal > 64 {
		c.Fail("stop signal %d", p.StopSignal)
	}
}

func capabilities(c *wire.Coder, v *uint64) {
	c.U64(v)
	if bits.Len64(*v) > maxCaps+1 {
		c.Fail("unknown capability %d", bits.Len64(*v)-1)
	}
}

func (p *ExecPlan) code(c *wire.Coder) {
	c.Strs(&p.Args, maxArgs, maxValue)
	for _, v := range []*bool{&p.TTY, &p.Stdin, &p.Stdout, &p.Stderr, &p.Sync} {
		c.Bool(v)
	}
}

func (m *Claims) code(c *wire.Coder) {
	for _, v := range []*string{&m.RequestID, &m.Method, &m.PodName, &m.Namespace, &m.PodUID} {
		c.Str(v, maxName)
	}
	c.U32(&m.PodAttempt)
	c.Str(&m.Container, maxName)
	c.U32(&m.Attempt)
	c.Str(&m.ImageRef, maxPath)
	for _, v := range []*[]KV{&m.Labels, &m.Annotations, &m.CtrLabels, &m.CtrNotes} {
		wire.ListOf(c, v, maxArgs, 4, func(kv *KV) {
			c.Str(&kv.Key, maxPath)
			c.Str(&kv.Value, 1<<16-1)
		})
		wire.Unique(c, "labels or annotations", *v, func(kv KV) string { return kv.Key })
	}
	c.U32(&m.CallerUID)
	c.U32(&m.CallerPID)
}
