package cdi

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func dir(t *testing.T) string {
	t.Helper()
	d := t.TempDir()
	if err := os.Chmod(d, 0o755); err != nil {
		t.Fatal(err)
	}
	return d
}

const good = `{"cdiVersion": "0.6.0", "kind": "vendor.com/gpu", "containerEdits": {"env": ["ALL=1"]},
"devices": [{"name": "0", "annotations": {"a": "b"}, "containerEdits": {
  "deviceNodes": [{"path": "/dev/gpu0", "hostPath": "/dev/null", "permissions": "rw", "type": "c", "major": 1, "minor": 3}],
  "mounts": [{"hostPath": "/usr/lib/gpu.so", "containerPath": "/usr/lib/gpu.so", "options": ["ro"]}], "additionalGids": [44]}}]}`

func TestFind(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: specifications are root's")
	}
	etc, run := dir(t), dir(t)
	dirs := []string{etc, filepath.Join(run, "missing")}
	write(t, etc+"/gpu.json", good)
	write(t, etc+"/README", "not a specification")
	got, err := Find(dirs, "vendor.com/gpu=0")
	major, minor := int64(1), int64(3)
	want := []Edits{{Env: []string{"ALL=1"}}, {
		Devices: []DeviceNode{{Path: "/dev/gpu0", HostPath: "/dev/null", Permissions: "rw", Type: "c", Major: &major, Minor: &minor}},
		Mounts:  []Mount{{HostPath: "/usr/lib/gpu.so", ContainerPath: "/usr/lib/gpu.so", Options: []string{"ro"}}}, GIDs: []uint32{44},
	}}
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Error(err, d)
	}
	// The later directory counts, and YAML is read too.
	dirs[1] = run
	write(t, run+"/gpu.yaml", "cdiVersion: 0.5.0\nkind: vendor.com/gpu\ndevices:\n- name: \"0\"\n  containerEdits:\n    env: [\"FROM=run\"]\n")
	if got, err := Find(dirs, "vendor.com/gpu=0"); err != nil || len(got) != 2 || len(got[1].Env) != 1 || got[1].Env[0] != "FROM=run" {
		t.Error(got, err)
	}
	if _, err := Find(dirs, "vendor.com/gpu=1"); err == nil || !strings.Contains(err.Error(), "no specification") {
		t.Error(err)
	}
}

func TestRefused(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: specifications are root's")
	}
	spec := func(edits string) string {
		return `{"cdiVersion": "0.6.0", "kind": "v/c", "devices": [{"name": "d", "containerEdits": ` + edits + `}]}`
	}
	for _, tt := range []struct{ name, text, want string }{
		{"hooks", spec(`{"hooks": [{"hookName": "createContainer", "path": "/bin/x"}]}`), "hooks"},
		{"hooks of all", `{"cdiVersion": "1", "kind": "v/c", "containerEdits": {"hooks": [{"path": "/x"}]}, "devices": [{"name": "d"}]}`, "hooks"},
		{"cache allocation", spec(`{"intelRdt": {"closID": "x"}}`), "intelRdt"},
		{"network devices", spec(`{"netDevices": [{"hostInterfaceName": "eth0"}]}`), "netDevices"},
		{"another kind of mount", spec(`{"mounts": [{"hostPath": "x", "containerPath": "/x", "type": "tmpfs"}]}`), "tmpfs"},
		{"another number", spec(`{"deviceNodes": [{"path": "/dev/null", "major": 8, "minor": 0}]}`), "major 8"},
		{"another type", spec(`{"deviceNodes": [{"path": "/dev/null", "type": "b"}]}`), "type"},
		{"another mode", spec(`{"deviceNodes": [{"path": "/dev/null", "fileMode": 4095}]}`), "fileMode"},
		{"an unknown key", spec(`{"capabilities": ["SYS_ADMIN"]}`), "capabilities"},
		{"two documents", spec(`{}`) + "{}", "after its end"},
		{"no kind", `{"cdiVersion": "1", "devices": []}`, "kind"},
	} {
		d := dir(t)
		write(t, d+"/x.json", tt.text)
		if _, err := Find([]string{d}, "v/c=d"); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
	d := dir(t)
	write(t, d+"/a.json", spec(`{}`))
	write(t, d+"/b.json", spec(`{}`))
	if _, err := Find([]string{d}, "v/c=d"); err == nil || !strings.Contains(err.Error(), "remove one") {
		t.Errorf("a device that is there twice: %v", err)
	}
	os.Remove(d + "/b.json")
	if _, err := Find([]string{d}, "v/c=d"); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		what   string
		change func()
	}{
		{"a file that others write", func() { os.Chmod(d+"/a.json", 0o666) }},
		{"a file of another's", func() { os.Chmod(d+"/a.json", 0o644); os.Chown(d+"/a.json", 1, 1) }},
		{"a link", func() { os.Rename(d+"/a.json", d+"/a"); os.Chown(d+"/a", 0, 0); os.Symlink("a", d+"/a.json") }},
		{"a directory that others write", func() { os.Remove(d + "/a.json"); os.Rename(d+"/a", d+"/a.json"); os.Chmod(d, 0o777) }},
	} {
		tt.change()
		if _, err := Find([]string{d}, "v/c=d"); err == nil || strings.Contains(err.Error(), "no specification") {
			t.Errorf("%s was read: %v", tt.what, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good), false)
	f.Add([]byte("cdiVersion: 0.5.0\nkind: vendor.com/gpu\n"), true)
	f.Fuzz(func(t *testing.T, b []byte, isYAML bool) {
		if s, err := parse(b, isYAML); err == nil && s.Kind == "" {
			t.Error("a specification without a kind")
		}
	})
}
