package plan

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/postern-cri/postern/fuzz/fill"
	"github.com/postern-cri/postern/privsep/wire"
)

// valid are the rules by which fill makes plans that the codec takes.
var valid = fill.Rules{
	"To":               func(n int) any { return fmt.Sprintf("/to/%04d", n) },
	"Cwd":              "/cwd",
	"MaskedPaths":      func(n int) any { return fmt.Sprintf("/masked/%04d", n) },
	"ReadOnlyPaths":    func(n int) any { return fmt.Sprintf("/read/%04d", n) },
	"Target":           strings.Repeat("0a", 32),
	"Plan.PID":         NamespaceTarget,
	"Profile.Kind":     ProfileLocalhost,
	"HostIP":           "2001:db8::1",
	"CapsBounding":     uint64(1<<40 | 3),
	"CapsAmbient":      uint64(2),
	"Permissions":      DeviceRead | DeviceMknod,
	"StopSignal":       uint8(64),
	"Env":              func(n int) any { return fmt.Sprintf("NAME%04d=v", n) },
	"RequestID":        "01ARZ3NDEKTSV4RRFFQ69G5FAV",
	"PodPlan.Hostname": "host-one",
}

// codec is one pair of functions of the package, by reflection.
type codec struct {
	name   string
	fresh  func() any // pointer to a zero value
	encode func(any) ([]byte, error)
	decode func([]byte) (any, error)
}

func make1[T any](name string, enc func(T) ([]byte, error), dec func([]byte) (T, error)) codec {
	return codec{name,
		func() any { return new(T) },
		func(v any) ([]byte, error) { return enc(*v.(*T)) },
		func(b []byte) (any, error) { v, err := dec(b); return &v, err }}
}

var codecs = []codec{
	make1("pod", EncodePod, DecodePod),
	make1("container", EncodeContainer, DecodeContainer),
	make1("exec", EncodeExec, DecodeExec),
	make1("resources", EncodeResources, DecodeResources),
	make1("claims", EncodeClaims, DecodeClaims),
}

func filled(t testing.TB, c codec) (any, []byte) {
	t.Helper()
	v := c.fresh()
	fill.Fill(v, valid)
	if z := fill.Zero(v); len(z) > 0 {
		t.Fatalf("fields that fill left zero: %v", z)
	}
	b, err := c.encode(v)
	if err != nil {
		t.Fatalf("encoding a filled %s: %v", c.name, err)
	}
	return v, b
}

// A field that the codec forgets comes back zero and fails here.
func TestRoundTripOfEveryField(t *testing.T) {
	for _, c := range codecs {
		t.Run(c.name, func(t *testing.T) {
			v, b := filled(t, c)
			got, err := c.decode(b)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, v) {
				t.Errorf("came back as\n%+v\nwas\n%+v", got, v)
			}
			again, err := c.encode(got)
			if err != nil || !bytes.Equal(again, b) {
				t.Errorf("encodes to other bytes the second time (%v)", err)
			}
		})
	}
}

// Cut anywhere, or with something behind it, a message is a violation.
func TestCutAndLongMessages(t *testing.T) {
	for _, c := range codecs {
		_, b := filled(t, c)
		for n := range b {
			if _, err := c.decode(b[:n]); !errors.Is(err, wire.ErrViolation) {
				t.Fatalf("%s cut to %d of %d bytes: %v", c.name, n, len(b), err)
			}
		}
		if _, err := c.decode(append(bytes.Clone(b), 0)); !errors.Is(err, wire.ErrViolation) {
			t.Errorf("%s with a byte left over: %v", c.name, err)
		}
	}
}

// Whatever count or length stands in a message, decoding it allocates no more
// than the message's own size can explain.
func TestHostileCountsDoNotAllocate(t *testing.T) {
	for _, c := range codecs {
		_, b := filled(t, c)
		limit := uint64(64<<10 + 32*len(b))
		for at := range len(b) - 1 {
			h := bytes.Clone(b)
			h[at], h[at+1] = 0xff, 0xff
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			c.decode(h)
			runtime.ReadMemStats(&after)
			if n := after.TotalAlloc - before.TotalAlloc; n > limit {
				t.Errorf("%s with 0xffff at byte %d: %d bytes allocated for %d", c.name, at, n, len(b))
			}
		}
	}
	for n := range 40 { // nothing but counts
		DecodeContainer(bytes.Repeat([]byte{0xff}, n))
	}
}

// swap replaces one occurrence of old in the encoding of v.
func swap(t *testing.T, b []byte, old, by string) []byte {
	t.Helper()
	if len(old) != len(by) || bytes.Count(b, []byte(old)) != 1 {
		t.Fatalf("%q (%d bytes) is there %d times, wanted once with %d bytes", old, len(old), bytes.Count(b, []byte(old)), len(by))
	}
	return bytes.Replace(b, []byte(old), []byte(by), 1)
}

// place finds the one byte that two valid encodings differ in, and overwrites it
// with a value that no encoder writes.
func place(t *testing.T, a, b []byte, hostile byte) []byte {
	t.Helper()
	at := -1
	for i := range a {
		if i < len(b) && a[i] != b[i] {
			if at >= 0 {
				t.Fatal("more than one byte differs")
			}
			at = i
		}
	}
	if at < 0 || len(a) != len(b) {
		t.Fatal("no single byte differs")
	}
	out := bytes.Clone(a)
	out[at] = hostile
	return out
}

func container(t *testing.T, change func(*Plan)) []byte {
	t.Helper()
	var p Plan
	fill.Fill(&p, valid)
	change(&p)
	b, err := EncodeContainer(p)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func podPlan(t *testing.T, change func(*PodPlan)) []byte {
	t.Helper()
	var p PodPlan
	fill.Fill(&p, valid)
	change(&p)
	b, err := EncodePod(p)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Every class of violation, as bytes that an honest encoder cannot write.
func TestViolationsOnTheWire(t *testing.T) {
	ctr := func(b []byte) error { _, err := DecodeContainer(b); return err }
	pod := func(b []byte) error { _, err := DecodePod(b); return err }
	same := func(*Plan) {}
	keep := func(*PodPlan) {}
	word := func(s string) func(*Plan) { return func(p *Plan) { p.Args[0] = s } }
	for name, err := range map[string]error{
		"bool 2":            ctr(place(t, container(t, same), container(t, func(p *Plan) { p.TTY = false }), 2)),
		"bool 255":          ctr(place(t, container(t, same), container(t, func(p *Plan) { p.Privileged = false }), 255)),
		"class 0":           ctr(place(t, container(t, same), container(t, func(p *Plan) { p.Class = System }), 0)),
		"class 4":           ctr(place(t, container(t, same), container(t, func(p *Plan) { p.Class = System }), 4)),
		"pid mode 5":        ctr(place(t, container(t, func(p *Plan) { p.PID, p.Target = NamespaceNode, "" }), container(t, func(p *Plan) { p.PID, p.Target = NamespacePod, "" }), 5)),
		"pid target alone":  ctr(place(t, container(t, func(p *Plan) { p.PID, p.Target = NamespaceNode, "" }), container(t, func(p *Plan) { p.PID, p.Target = NamespacePod, "" }), 4)),
		"profile kind 4":    ctr(place(t, container(t, func(p *Plan) { p.Seccomp = Profile{Kind: ProfileRuntimeDefault} }), container(t, func(p *Plan) { p.Seccomp = Profile{Kind: ProfileUnconfined} }), 4)),
		"profile no name":   ctr(place(t, container(t, func(p *Plan) { p.Seccomp = Profile{Kind: ProfileRuntimeDefault} }), container(t, func(p *Plan) { p.Seccomp = Profile{Kind: ProfileUnconfined} }), 2)),
		"propagation 9":     ctr(place(t, container(t, same), container(t, func(p *Plan) { p.Mounts[0].Propagation = Bidirectional }), 9)),
		"root 9":            ctr(place(t, container(t, same), container(t, func(p *Plan) { p.Mounts[0].From.Root = RootImage }), 9)),
		"permissions 8":     ctr(place(t, container(t, same), container(t, func(p *Plan) { p.Devices[0].Permissions = DeviceRead }), 8)),
		"permissions 0":     ctr(place(t, container(t, same), container(t, func(p *Plan) { p.Devices[0].Permissions = DeviceRead }), 0)),
		"stop signal 65":    ctr(place(t, container(t, same), container(t, func(p *Plan) { p.StopSignal = 1 }), 65)),
		"capability 47":     ctr(place(t, container(t, func(p *Plan) { p.CapsBounding = 1<<40 | 2 }), container(t, func(p *Plan) { p.CapsBounding = 2 }), 0x80)),
		"ambient too wide":  ctr(place(t, container(t, same), container(t, func(p *Plan) { p.CapsAmbient = 1 }), 4)),
		"NUL":               ctr(swap(t, container(t, word("marker-1")), "marker-1", "mark\x00r-1")),
		"invalid UTF-8":     ctr(swap(t, container(t, word("marker-1")), "marker-1", "mark\xffr-1")),
		"same env twice":    ctr(swap(t, container(t, func(p *Plan) { p.Env = []string{"A=1", "B=2"} }), "B=2", "A=2")),
		"same mount twice":  ctr(swap(t, container(t, func(p *Plan) { p.Mounts[0].To, p.Mounts[1].To = "/x-1", "/x-2" }), "/x-2", "/x-1")),
		"same device twice": ctr(swap(t, container(t, func(p *Plan) { p.Devices[0].To, p.Devices[1].To = "/x-1", "/x-2" }), "/x-2", "/x-1")),
		"same masked twice": ctr(swap(t, container(t, func(p *Plan) { p.MaskedPaths = []string{"/x-1", "/x-2"} }), "/x-2", "/x-1")),
		"same read-only":    ctr(swap(t, container(t, func(p *Plan) { p.ReadOnlyPaths = []string{"/x-1", "/x-2"} }), "/x-2", "/x-1")),
		"same cdi twice":    ctr(swap(t, container(t, func(p *Plan) { p.CDI = []string{"cdi-1", "cdi-2"} }), "cdi-2", "cdi-1")),
		"same rlimit twice": ctr(swap(t, container(t, func(p *Plan) { p.Rlimits[0].Name, p.Rlimits[1].Name = "rl-1", "rl-2" }), "rl-2", "rl-1")),
		"same page size":    ctr(swap(t, container(t, func(p *Plan) { p.Resources.Hugepages = []HugepageLimit{{"2MB", 1}, {"1GB", 1}} }), "1GB", "2MB")),
		"same unified":      ctr(swap(t, container(t, func(p *Plan) { p.Resources.Unified = []Unified{{"cpu.x", "1"}, {"cpu.y", "1"}} }), "cpu.y", "cpu.x")),
		"target not hex":    ctr(swap(t, container(t, same), strings.Repeat("0a", 32), strings.Repeat("0A", 32))),
		"mount to relative": ctr(swap(t, container(t, func(p *Plan) { p.Mounts[0].To = "/mark" }), "/mark", "xmark")),
		"mount to climbs":   ctr(swap(t, container(t, func(p *Plan) { p.Mounts[0].To = "/a/xx/c" }), "/a/xx/c", "/a/../c")),
		"mount to dot":      ctr(swap(t, container(t, func(p *Plan) { p.Mounts[0].To = "/a/x/c" }), "/a/x/c", "/a/./c")),
		"mount to slashes":  ctr(swap(t, container(t, func(p *Plan) { p.Mounts[0].To = "/a/c" }), "/a/c", "/a//")),
		"rel absolute":      ctr(swap(t, container(t, func(p *Plan) { p.Mounts[0].From.Rel = "xetc/shadow" }), "xetc/shadow", "/etc/shadow")),
		"rel climbs":        ctr(swap(t, container(t, func(p *Plan) { p.Mounts[0].From.Rel = "xx/shadow" }), "xx/shadow", "../shadow")),
		"rel climbs inside": ctr(swap(t, container(t, func(p *Plan) { p.Mounts[0].From.Rel = "a/xx/shadow" }), "a/xx/shadow", "a/../shadow")),
		"rel climbs last":   ctr(swap(t, container(t, func(p *Plan) { p.Mounts[0].From.Rel = "deep/xx" }), "deep/xx", "deep/..")),
		"root name a path":  ctr(swap(t, container(t, func(p *Plan) { p.Mounts[0].From.Name = "markxx" }), "markxx", "mar/xx")),
		"root name ..":      ctr(swap(t, container(t, func(p *Plan) { p.Mounts[0].From.Name = "markxx" }), "markxx", "..rkxx")),
		"device rel climbs": ctr(swap(t, container(t, func(p *Plan) { p.Devices[0].Host.Rel = "xx/mem" }), "xx/mem", "../mem")),
		"log climbs":        ctr(swap(t, container(t, func(p *Plan) { p.Log = "xx/0.log" }), "xx/0.log", "../0.log")),
		"log absolute":      ctr(swap(t, container(t, func(p *Plan) { p.Log = "xetc/log" }), "xetc/log", "/etc/log")),
		"profile a path":    ctr(swap(t, container(t, func(p *Plan) { p.Seccomp.Name = "markxx.json" }), "markxx.json", "../../etc/p")),
		"image control":     ctr(swap(t, container(t, func(p *Plan) { p.Image = "sha256:mark" }), "sha256:mark", "sha256:\nark")),
		"pod uid a path":    pod(swap(t, podPlan(t, func(p *PodPlan) { p.UID = "markxx" }), "markxx", "../../")),
		"host name newline": pod(swap(t, podPlan(t, func(p *PodPlan) { p.Hostname = "markxx" }), "markxx", "mark\nx")),
		"dns newline":       pod(swap(t, podPlan(t, func(p *PodPlan) { p.DNS.Options[0] = "markxx" }), "markxx", "mark\nx")),
		"host ip":           pod(swap(t, podPlan(t, func(p *PodPlan) { p.Ports[0].HostIP = "10.20.30.40" }), "10.20.30.40", "10.20.30.4x")),
		"protocol 4":        pod(place(t, podPlan(t, keep), podPlan(t, func(p *PodPlan) { p.Ports[0].Protocol = SCTP }), 4)),
		"network target":    pod(place(t, podPlan(t, keep), podPlan(t, func(p *PodPlan) { p.Network = NamespaceNode }), byte(NamespaceTarget))),
		"network container": pod(place(t, podPlan(t, keep), podPlan(t, func(p *PodPlan) { p.Network = NamespaceNode }), byte(NamespaceContainer))),
		"ipc container":     pod(place(t, podPlan(t, keep), podPlan(t, func(p *PodPlan) { p.IPC = NamespaceNode }), byte(NamespaceContainer))),
		"pid target":        pod(place(t, podPlan(t, keep), podPlan(t, func(p *PodPlan) { p.PID = NamespaceNode }), byte(NamespaceTarget))),
		"same sysctl twice": pod(swap(t, podPlan(t, func(p *PodPlan) { p.Sysctls[0].Name, p.Sysctls[1].Name = "net.a1", "net.a2" }), "net.a2", "net.a1")),
		"handler a path":    pod(swap(t, podPlan(t, func(p *PodPlan) { p.Handler = "markxx" }), "markxx", "ma/kxx")),
		"same group twice": ctr(func() []byte {
			a, b := uint32(0x41424344), uint32(0x45464748)
			return swap(t, container(t, func(p *Plan) { p.User.Groups = []uint32{a, b} }), "HGFE", "DCBA")
		}()),
	} {
		if !errors.Is(err, wire.ErrViolation) {
			t.Errorf("%s: %v, want a violation", name, err)
		}
	}
	var m Claims
	fill.Fill(&m, valid)
	m.Labels = []KV{{"key-1", "v"}, {"key-2", "v"}}
	b, err := EncodeClaims(m)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := DecodeClaims(swap(t, b, "key-2", "key-1")); !errors.Is(err, wire.ErrViolation) {
		t.Errorf("two labels of one key: %v", err)
	}
}

// The encoder refuses what the decoder would, so that an honest front end gets
// an error instead of a closed connection; and it refuses too much of anything.
func TestEncoderRefuses(t *testing.T) {
	long := strings.Repeat("x", 1<<16)
	for name, change := range map[string]func(*Plan){
		"too many args":   func(p *Plan) { p.Args = make([]string, maxArgs+1) },
		"too long an arg": func(p *Plan) { p.Args[0] = long },
		"too long a path": func(p *Plan) { p.Cwd = "/" + strings.Repeat("x", maxPath) },
		"too many mounts": func(p *Plan) { p.Mounts = make([]Mount, maxList+1) },
		"NUL in env":      func(p *Plan) { p.Env[0] = "A=\x00" },
		"climbing log":    func(p *Plan) { p.Log = "../x" },
		"short handle":    func(p *Plan) { p.Target = "abc" },
		"capability 41":   func(p *Plan) { p.CapsBounding = 1 << 41 },
		"no class":        func(p *Plan) { p.Class = 0 },
		"too many cdi":    func(p *Plan) { p.CDI = make([]string, 129) },
	} {
		var p Plan
		fill.Fill(&p, valid)
		change(&p)
		if _, err := EncodeContainer(p); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
	pod := PodPlan{Class: Restricted, Network: NamespacePod, PID: NamespacePod, IPC: NamespacePod}
	if b, err := EncodePod(pod); err != nil {
		t.Errorf("the smallest pod: %v", err)
	} else if got, err := DecodePod(b); err != nil || !reflect.DeepEqual(got, pod) {
		t.Errorf("the smallest pod came back as %+v, %v", got, err)
	}
}
