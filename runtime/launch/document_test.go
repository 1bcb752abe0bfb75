//go:build linux && cgo && seccomp

package launch

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/spec"
	"github.com/postern-cri/postern/profiles/paths"
)

var update = flag.Bool("update", false, "write the golden document anew")

// sample is a container with something of everything.
func sample(t *testing.T) *operation {
	t.Helper()
	profiles := t.TempDir()
	if err := os.WriteFile(filepath.Join(profiles, "p.json"), []byte(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod"],"action":"SCMP_ACT_ERRNO","errnoRet":1}]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	return &operation{Launch: &spec.Launch{
		Op: spec.Create, ID: "id", StateDir: "/state", Seccomp: profiles, Runtime: &spec.Runtime{Path: "/runtime"}, Rootfs: "/box/rootfs", Hostname: "host",
		Plan: &plan.Plan{
			Args: []string{"prog", "arg"}, Env: []string{"A=b"}, Cwd: "/work", User: plan.User{UID: 1000, GID: 1001, Groups: []uint32{5}},
			CapsBounding: 1 | 1<<5, CapsAmbient: 1 << 5, NoNewPrivs: true, ReadOnlyRootfs: true, TTY: true,
			Seccomp: plan.Profile{Kind: plan.ProfileLocalhost, Name: "p.json"}, AppArmor: plan.Profile{Kind: plan.ProfileUnconfined},
			MaskedPaths: paths.Masked()[:1], ReadOnlyPaths: paths.ReadOnly()[:1],
			Rlimits:   []plan.Rlimit{{Name: "nofile", Soft: 10, Hard: 20}, {Name: "core", Soft: 0, Hard: 0}},
			Resources: plan.Resources{CPUShares: 512, CPUQuota: 50000, CPUPeriod: 100000, CPUSetCPUs: "0", Memory: 64 << 20, PIDs: 50, OOMScoreAdj: 1000},
		},
		Mounts: []spec.Mount{
			{Source: "/box/m/0", To: "/ro", ReadOnly: true, RecursiveReadOnly: true, NoExec: true, NoDev: true, NoSuid: true, Propagation: plan.Private},
			{Source: "/box/m/1", To: "/rw", Propagation: plan.HostToContainer},
		},
		Namespaces: spec.Namespaces{Net: "/box/net", IPC: "/box/ipc", UTS: "/box/uts", User: "/box/user"}, CgroupPath: "/pods/id",
		Sysctls: []plan.Sysctl{{Name: "net.ipv4.tcp_syncookies", Value: "1"}},
		Devices: []spec.Device{{Path: "/dev/fuse", Char: true, Major: 10, Minor: 229, Permissions: plan.DeviceRead | plan.DeviceWrite, Mode: 0o666}},
		UIDs:    []plan.IDMap{{Container: 0, Host: 200000, Length: 65536}}, GIDs: []plan.IDMap{{Container: 0, Host: 300000, Length: 65536}},
	}}
}

// TestDocument: what a runtime is told is this, and has neither annotations nor
// hooks.
func TestDocument(t *testing.T) {
	o := sample(t)
	cfg, err := o.config()
	if err != nil {
		t.Fatal(err)
	}
	d, err := o.document(cfg, processOf(o.Plan))
	if err != nil {
		t.Fatal(err)
	}
	// What is the machine's: the version of cgroups, and SELinux.
	d.Linux.ReadonlyPaths = slices.DeleteFunc(d.Linux.ReadonlyPaths, func(p string) bool { return strings.HasPrefix(p, "/sys/fs/cgroup") })
	d.Linux.Resources.Unified, d.Process.SelinuxLabel, d.Linux.MountLabel, d.Process.ApparmorProfile = nil, "", "", ""
	b, err := encode(d)
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := json.Indent(&got, b, "", "  "); err != nil {
		t.Fatal(err)
	}
	got.WriteByte('\n')
	const golden = "testdata/document.json"
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("the document is another than %s; if that is meant: go test -run TestDocument -update\n%s", golden, got.String())
	}
	for _, word := range []string{`"annotations"`, `"hooks"`} {
		if strings.Contains(got.String(), word) {
			t.Errorf("the document has %s", word)
		}
	}
}

// TestNothingIsLeftOut: what the built-in runtime would be told and a document has
// no word for is an error, whichever field it is in.
func TestNothingIsLeftOut(t *testing.T) {
	told := strings.Fields("Umask Rootfs Readonlyfs RootPropagation Mounts Devices MountLabel Hostname Namespaces Capabilities Networks Cgroups AppArmorProfile " +
		"ProcessLabel Rlimits OomScoreAdj UIDMappings GIDMappings MaskPaths ReadonlyPaths Sysctl Seccomp NoNewPrivileges Version Labels")
	for i := range reflect.TypeFor[configs.Config]().NumField() {
		name := reflect.TypeFor[configs.Config]().Field(i).Name
		o := sample(t)
		cfg, err := o.config()
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(told, name) {
			continue
		}
		stir(t, reflect.ValueOf(cfg).Elem().Field(i))
		if _, err := o.document(cfg, processOf(o.Plan)); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for what, change := range map[string]func(*configs.Config){
		"ScopePrefix":       func(c *configs.Config) { c.Cgroups.ScopePrefix = "x" },
		"OwnerUID":          func(c *configs.Config) { c.Cgroups.OwnerUID = new(int) },
		"MemoryReservation": func(c *configs.Config) { c.Cgroups.Resources.MemoryReservation = 1 },
		"Flags":             func(c *configs.Config) { c.Mounts[0].Flags |= 1 << 25 },
		"IDMapping":         func(c *configs.Config) { c.Mounts[0].IDMapping = &configs.MountIDMapping{} },
		"RecAttr":           func(c *configs.Config) { c.Mounts[len(c.Mounts)-2].RecAttr.Attr_clr = 1 },
		"propagation":       func(c *configs.Config) { c.RootPropagation = 1 },
		"namespace":         func(c *configs.Config) { c.Namespaces.Add("NEWTIME", "") },
	} {
		o := sample(t)
		cfg, err := o.config()
		if err != nil {
			t.Fatal(err)
		}
		if what == "RecAttr" {
			cfg.Mounts = slices.DeleteFunc(cfg.Mounts, func(m *configs.Mount) bool { return m.RecAttr == nil })
			cfg.Mounts = append(cfg.Mounts, &configs.Mount{})
		}
		change(cfg)
		if _, err := o.document(cfg, processOf(o.Plan)); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// stir makes a field something that it is not by itself.
func stir(t *testing.T, f reflect.Value) {
	t.Helper()
	switch f.Kind() {
	case reflect.Bool:
		f.SetBool(true)
	case reflect.Int:
		f.SetInt(1)
	case reflect.String:
		f.SetString("x")
	case reflect.Pointer:
		f.Set(reflect.New(f.Type().Elem()))
	case reflect.Slice:
		f.Set(reflect.MakeSlice(f.Type(), 1, 1))
	case reflect.Map:
		f.Set(reflect.MakeMap(f.Type()))
	default:
		t.Fatalf("a field of kind %s", f.Kind())
	}
}

// TestNoNUL: a runtime in C would read a string to its NUL, and no further.
func TestNoNUL(t *testing.T) {
	for text, ok := range map[string]bool{"a\x00b": false, `\u0000`: true, "\\\x00": false, `\\u0000`: true, "": true} {
		if _, err := encode(&specs.Spec{Hostname: text, Linux: &specs.Linux{}}); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestNoPath: a container's scope is named by its slice, as both tools want it.
func TestNoPath(t *testing.T) {
	for at, want := range map[string]string{
		"/a.slice/a-b.slice/postern-id.scope": "a-b.slice:postern:id", "/pods/id": "/pods/id", "/a.slice/id": "/a.slice/id",
		"/a.slice/other-id.scope": "/a.slice/other-id.scope", "/pods/postern-id.scope": "/pods/postern-id.scope",
	} {
		if got := groupWord(cgroupAt(at, nil)); got != want {
			t.Errorf("%s is %s, want %s", at, got, want)
		}
	}
}

// TestNoWord: "no limit" is not said, and a weight is.
func TestNoWord(t *testing.T) {
	w, err := resourceWords(&cgroups.Resources{Memory: -1, MemorySwap: -1, CpuQuota: -1, PidsLimit: new(int64)})
	if err != nil || w.Memory.Limit != nil || w.Memory.Swap != nil || w.CPU.Quota != nil || w.Pids != nil {
		t.Errorf("%+v, %v", w, err)
	}
}
