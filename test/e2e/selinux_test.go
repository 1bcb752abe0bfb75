package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/postern-cri/postern/profiles/selinux"
)

func needSELinux(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/sys/fs/selinux/enforce"); err != nil {
		t.Skip("needs SELinux: LSM=selinux make test-vm has it")
	}
}

// setLabel gives a file or directory a label that all pods may use, where there is
// SELinux: what chcon -t does.
func setLabel(t *testing.T, path, kind string) {
	t.Helper()
	if _, err := os.Stat("/sys/fs/selinux/enforce"); err != nil {
		return
	}
	if err := unix.Lsetxattr(path, "security.selinux", []byte("system_u:object_r:"+kind+":s0"), 0); err != nil {
		t.Fatal(err)
	}
}

func labelOf(path string) string {
	b := make([]byte, 256)
	n, err := unix.Lgetxattr(path, "security.selinux", b)
	if err != nil {
		return err.Error()
	}
	return strings.TrimRight(string(b[:n]), "\x00")
}

func (tr *tree) label(ctr string) string {
	tr.t.Helper()
	one, _ := tr.exec(ctr, "cat", "/proc/1/attr/current")
	self, _ := tr.exec(ctr, "cat", "/proc/self/attr/current")
	if one != self {
		tr.t.Errorf("the container has the label %q, an exec in it %q", one, self)
	}
	return strings.Trim(one, "\x00\n")
}

// process is one of ours with its SELinux context or AppArmor profile.
type process struct{ Name, Label string }

// labels asks postern status.
func (tr *tree) labels() (list []process) {
	tr.t.Helper()
	out, err := exec.Command(filepath.Join(bin, "postern"), "status", "--root", tr.root, "--json").Output()
	if err != nil {
		tr.t.Fatal(err)
	}
	if err := json.Unmarshal(out, &list); err != nil || len(list) < 6 {
		tr.t.Fatalf("%v: %s", err, out)
	}
	return list
}

// program is the file that a process of this name runs.
func program(name string) string {
	name, _, _ = strings.Cut(name, " ")
	for _, role := range []string{"-fetch", "-verify", "-convert"} {
		name = strings.TrimSuffix(name, role)
	}
	return name
}

// TestSELinuxDomains: every process of ours is in its own domain, and what it
// makes has the type that others are kept from.
func TestSELinuxDomains(t *testing.T) {
	needSELinux(t)
	tr := startTree(t, "baseline", "")
	tr.pull()
	tr.run("a", "exec sleep 1000")
	for _, p := range tr.labels() {
		if want := ":" + selinux.Domain(program(p.Name)) + ":"; !strings.Contains(p.Label, want) {
			t.Errorf("%s has the label %s, want %s", p.Name, p.Label, want)
		}
	}
	for path, want := range map[string]string{
		"etc/ceiling.toml": "postern_conf_t", "run/postern.sock": "postern_cri_sock_t", "run/sock/helper": "postern_helper_sock_t", "run/init.json": "postern_run_t",
		"run/box": "postern_box_t", "run/box/pod": "postern_box_t", "lib/records": "postern_record_t", "lib/audit": "postern_audit_t", "log/posternd.log": "postern_log_t",
	} {
		if got := labelOf(filepath.Join(tr.root, path)); !strings.Contains(got, ":"+want+":") {
			t.Errorf("%s has the label %s, want %s", path, got, want)
		}
	}
}

// TestSELinux: a container has the label of its pod's own categories, and its
// file systems have, or it is not made.
func TestSELinux(t *testing.T) {
	needSELinux(t)
	tr := startTree(t, "baseline", "")
	tr.pull()
	a := tr.podConfig("a")
	pod := tr.runPod(a)
	first := tr.create(pod, a, tr.ctrConfig("first", "exec sleep 1000"))
	second := tr.create(pod, a, tr.ctrConfig("second", "exec sleep 1000"))
	tr.start(first)
	tr.start(second)
	_, other := tr.run("b", "exec sleep 1000")
	label := tr.label(first)
	m := regexp.MustCompile(`^system_u:system_r:container_t:(s0:c\d+,c\d+)$`).FindStringSubmatch(label)
	if m == nil {
		t.Fatalf("label %q", label)
	}
	if l := tr.label(second); l != label {
		t.Errorf("two containers of a pod have the labels %s and %s", label, l)
	}
	if l := tr.label(other); l == label || !strings.Contains(l, ":container_t:s0:c") {
		t.Errorf("containers of two pods have the labels %s and %s", label, l)
	}
	mounts, _ := tr.exec(first, "cat", "/proc/1/mountinfo")
	for _, at := range []string{"/", "/dev", "/dev/shm", "/etc/hosts", "/dev/pts"} {
		found := false
		for line := range strings.Lines(mounts) {
			if f := strings.Fields(line); f[4] == at && strings.Contains(line, `context="system_u:object_r:container_file_t:`+m[1]+`"`) {
				found = true
			}
		}
		if !found {
			t.Errorf("%s has not the label of its container:\n%s", at, mounts)
		}
	}
	// Process 1 of a shared PID namespace is ours, and shows what is labelled as the pod.
	shared := tr.podConfig("shared")
	shared.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
	c := tr.ctrConfig("shared", "exec sleep 1000")
	c.Linux.SecurityContext.NamespaceOptions = shared.Linux.SecurityContext.NamespaceOptions
	in := tr.create(tr.runPod(shared), shared, c)
	tr.start(in)
	own, _ := tr.exec(in, "cat", "/proc/self/attr/current")
	level := regexp.MustCompile(`:container_t:(s0:c\d+,c\d+)`).FindStringSubmatch(own)
	if out, _ := tr.exec(in, "cat", "/proc/1/mountinfo"); level == nil || !strings.Contains(out, `,context="system_u:object_r:container_file_t:`+level[1]+`",`) {
		t.Errorf("a container with the label %q sees process 1 with the mounts\n%s", own, out)
	}
	for script, works := range map[string]bool{
		"echo x > /file && cat /file /etc/hosts && cp /bin/busybox /busybox && /busybox true": true,
		"echo x > /dev/shm/file && cat /dev/shm/file":                                         true,
		"(sleep 100 & kill $!)": true,
		"echo system_u:system_r:spc_t:s0 > /proc/self/attr/exec && exec true": false,
		"echo system_u:system_r:spc_t:s0 > /proc/self/attr/current":           false,
		"echo x > /dev/stdout": true, // a pipe of the helper, opened anew, as servers do with their logs
		"head -c 1 /proc/kmsg": false,
	} {
		if out, code := tr.exec(first, "sh", "-c", script); (code == 0) != works {
			t.Errorf("%s: exit %d: %s", script, code, out)
		}
	}
	// A label of one's choice needs the ceiling, categories too: they could be another pod's.
	for _, o := range []*cri.SELinuxOption{{Type: "spc_t"}, {Level: "s0:c1,c2"}, {User: "root"}} {
		c := tr.ctrConfig("chosen", "true")
		c.Linux.SecurityContext.SelinuxOptions = o
		_, err := tr.rt.CreateContainer(ctx(t), &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: a})
		wantError(t, err, codes.PermissionDenied, "")
	}
}

// TestSELinuxVolumes: what a container reaches of the host is what was given its
// label, and that is only what CRI asked for.
func TestSELinuxVolumes(t *testing.T) {
	needSELinux(t)
	tr := startTree(t, "conformance", "")
	tr.pull()
	dir := filepath.Join(filepath.Dir(tr.root), "host")
	tr.write(dir+"/shared/sub/file", "x")
	tr.write(dir+"/secret/file", "x")
	tr.write(dir+"/hosts", "127.0.0.1 canary\n")
	if err := os.Symlink(dir+"/secret/file", dir+"/shared/link"); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir+"/shared/mnt", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("t", dir+"/shared/mnt", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir+"/shared/mnt", unix.MNT_DETACH) })
	before := map[string]string{}
	for _, f := range []string{"secret/file", "hosts", "shared/mnt", "secret"} {
		before[f] = labelOf(filepath.Join(dir, f))
	}
	make := func(pod, name string, o *cri.SELinuxOption, privileged bool, mounts ...*cri.Mount) (string, error) {
		p := tr.podConfig(pod)
		p.Linux.SecurityContext.Privileged = privileged
		c := tr.ctrConfig(name, "exec sleep 1000")
		c.Mounts, c.Linux.SecurityContext.SelinuxOptions, c.Linux.SecurityContext.Privileged = mounts, o, privileged
		r, err := tr.rt.CreateContainer(ctx(t), &cri.CreateContainerRequest{PodSandboxId: tr.runPod(p), Config: c, SandboxConfig: p})
		if err != nil {
			return "", err
		}
		_, err = tr.rt.StartContainer(ctx(t), &cri.StartContainerRequest{ContainerId: r.ContainerId})
		return r.ContainerId, err
	}
	shared := func(relabel bool) *cri.Mount {
		return &cri.Mount{HostPath: dir + "/shared", ContainerPath: "/vol", SelinuxRelabel: relabel}
	}
	a, err := make("a", "a", nil, false, shared(true),
		&cri.Mount{HostPath: dir + "/secret", ContainerPath: "/secret"}, &cri.Mount{HostPath: dir + "/hosts", ContainerPath: "/etc/hosts"},
		&cri.Mount{HostPath: tr.root + "/run/sock", ContainerPath: "/sock"}, &cri.Mount{HostPath: tr.root + "/run/postern.sock", ContainerPath: "/cri.sock"},
		&cri.Mount{HostPath: tr.root + "/etc", ContainerPath: "/conf"})
	if err != nil {
		t.Fatal(err)
	}
	level := tr.label(a)[strings.Index(tr.label(a), "s0:"):]
	for _, f := range []string{"shared", "shared/sub", "shared/sub/file", "shared/link"} {
		if got := labelOf(filepath.Join(dir, f)); got != "system_u:object_r:container_file_t:"+level {
			t.Errorf("%s has the label %s", f, got)
		}
	}
	for f, want := range before {
		if got := labelOf(filepath.Join(dir, f)); got != want {
			t.Errorf("%s of the host was relabelled from %s to %s", f, want, got)
		}
	}
	for script, works := range map[string]bool{
		"cat /vol/sub/file && echo y > /vol/new": true,
		"cat /secret/file":                       false,
		"cat /etc/hosts":                         false,
		"ls /sock":                               false,
		"ls /conf || cat /conf/ceiling.toml":     false,
		"stat /cri.sock":                         false,
	} {
		if out, code := tr.exec(a, "sh", "-c", script); (code == 0) != works {
			t.Errorf("%s: exit %d: %s", script, code, out)
		}
	}
	// Another pod's categories do not reach it; given to that pod, the first loses it. A privileged container has no categories.
	b, err := make("b", "b", nil, false, shared(false))
	if err != nil {
		t.Fatal(err)
	}
	if out, code := tr.exec(b, "cat", "/vol/sub/file"); code == 0 {
		t.Errorf("a container read another pod's volume: %s", out)
	}
	ro := shared(true)
	ro.Readonly = true
	c, err := make("c", "c", nil, false, ro)
	if err != nil {
		t.Fatal(err)
	}
	if out, code := tr.exec(c, "cat", "/vol/sub/file"); code != 0 {
		t.Errorf("a read-only volume that was relabelled: %s", out)
	}
	if out, code := tr.exec(a, "cat", "/vol/sub/file"); code == 0 {
		t.Errorf("a volume that was given to another pod: %s", out)
	}
	p, err := make("p", "p", nil, true, shared(false))
	if err != nil {
		t.Fatal(err)
	}
	if l := tr.label(p); l != "system_u:system_r:spc_t:s0" {
		t.Errorf("a privileged container has the label %s", l)
	}
	for _, script := range []string{"cat /vol/sub/file", "mkdir /m && mount -t tmpfs x /m && echo x >/m/x", "ip link set lo down && ip link set lo up", "chroot / true"} {
		if out, code := tr.exec(p, "sh", "-c", script); code != 0 {
			t.Errorf("a privileged container: %s: %s", script, out)
		}
	}
	d, err := make("d", "d", &cri.SELinuxOption{Level: level}, false, shared(true))
	if err != nil {
		t.Fatal(err)
	}
	if l := tr.label(d); l != "system_u:system_r:container_t:"+level {
		t.Errorf("a container that asked for %s has %s", level, l)
	}
	for _, o := range []*cri.SELinuxOption{{Type: "nobody_knows_t"}, {Level: "s0,c4,c5"}, {Type: "container_t\",upperdir=\"/"}} {
		_, err := make("e", "e", o, false)
		wantError(t, err, codes.InvalidArgument, "selinux_options")
	}
	// Types that are no container's: the kernel does not let postern-launch go there.
	f, err := make("f", "f", &cri.SELinuxOption{Type: "unconfined_t"}, false)
	if err != nil {
		return
	}
	tr.eventually(patience, "a container that asked for unconfined_t does not run", func() error {
		if s := tr.status(f); s.State != cri.ContainerState_CONTAINER_EXITED || s.ExitCode == 0 {
			return fmt.Errorf("%v, exit %d", s.State, s.ExitCode)
		}
		return nil
	})
}
