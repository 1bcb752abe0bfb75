package e2e

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func number(n int64) *cri.Int64Value { return &cri.Int64Value{Value: n} }

// TestProcessOptions: who a container's process is, what it may, and how it ends.
func TestProcessOptions(t *testing.T) {
	tr := startTree(t, "conformance", "")
	tr.pull()
	p := tr.podConfig("process")
	pod := tr.runPod(p)
	with := func(name string, change func(*cri.ContainerConfig, *cri.LinuxContainerSecurityContext)) string {
		return tr.sleeper(pod, p, name, func(c *cri.ContainerConfig) { change(c, c.Linux.SecurityContext) })
	}

	merge := with("merge", func(_ *cri.ContainerConfig, s *cri.LinuxContainerSecurityContext) {
		s.RunAsUsername, s.SupplementalGroups = "app", []int64{3000}
	})
	tr.has(merge, "a user by name, groups merged", "id -u; id -G", "1000\n1000 2000 3000\n")
	if u := tr.status(merge).User.GetLinux(); u.GetUid() != 1000 || len(u.GetSupplementalGroups()) != 3 {
		t.Errorf("the user in the status: %v", u)
	}
	strict := with("strict", func(_ *cri.ContainerConfig, s *cri.LinuxContainerSecurityContext) {
		s.RunAsUser, s.RunAsGroup, s.SupplementalGroups, s.SupplementalGroupsPolicy = number(1000), number(4000), []int64{3000}, cri.SupplementalGroupsPolicy_Strict
	})
	tr.has(strict, "a user by number, groups strict", "id -u; id -G", "1000\n4000 3000\n")

	caps := with("caps", func(_ *cri.ContainerConfig, s *cri.LinuxContainerSecurityContext) {
		s.RunAsUser = number(1000)
		s.Capabilities = &cri.Capability{AddCapabilities: []string{"NET_ADMIN"}, DropCapabilities: []string{"ALL"}, AddAmbientCapabilities: []string{"NET_BIND_SERVICE"}}
	})
	tr.has(caps, "capabilities", "grep Cap /proc/self/status", "CapInh:\t0000000000000400", "CapEff:\t0000000000000400", "CapBnd:\t0000000000001400", "CapAmb:\t0000000000000400")

	tight := with("tight", func(c *cri.ContainerConfig, s *cri.LinuxContainerSecurityContext) {
		s.NoNewPrivs, s.ReadonlyRootfs, s.MaskedPaths, s.ReadonlyPaths = true, true, []string{"/etc/image", "/proc/acpi"}, []string{"/tmp", "/proc/sys"}
		c.WorkingDir, c.Envs = "/home/app", []*cri.KeyValue{{Key: "NAME", Value: []byte("a value")}}
	})
	tr.has(tight, "no_new_privs, working directory, environment", "grep NoNewPrivs /proc/self/status; pwd; echo $NAME", "NoNewPrivs:\t1\n/home/app\na value\n")
	tr.has(tight, "masked and read-only", "cat /etc/image; touch /x; touch /tmp/x; echo 1 >/proc/sys/vm/swappiness; echo end", "/x: Read-only file system", "/tmp/x: Read-only file system",
		"can't create /proc/sys/vm/swappiness")
	if out, _ := tr.exec(tight, "cat", "/etc/image"); strings.Contains(out, "signed") {
		t.Error("a masked file was read")
	}

	// The signal that ends it, by number in the status; and the time it is given.
	trap := tr.ctrConfig("trap", "trap 'exit 42' USR1; trap '' TERM; echo ready; while :; do sleep 0.1; done")
	trap.StopSignal = cri.Signal_SIGNAL_SIGUSR1
	id := tr.create(pod, p, trap)
	tr.start(id)
	tr.eventually(10*time.Second, "the trap is set", func() error {
		if l := strings.Join(tr.logLines("process", "trap"), ""); !strings.Contains(l, "ready") {
			return os.ErrNotExist
		}
		return nil
	})
	if s := tr.status(id); s.StopSignal != cri.Signal_SIGNAL_SIGUSR1 {
		t.Errorf("stop signal %v in the status", s.StopSignal)
	}
	if _, err := tr.rt.StopContainer(ctx(t), &cri.StopContainerRequest{ContainerId: id, Timeout: 30}); err != nil {
		t.Fatal(err)
	}
	tr.exited(id, 42)

	_, err := tr.rt.ExecSync(ctx(t), &cri.ExecSyncRequest{ContainerId: merge, Cmd: []string{"sleep", "1234"}, Timeout: 1})
	if status.Code(err) != codes.DeadlineExceeded || !strings.Contains(err.Error(), "timed out") {
		t.Errorf("an exec that takes too long: %v", err)
	}
	tr.eventually(10*time.Second, "it is gone", func() error {
		if out, _ := tr.exec(merge, "ps"); strings.Contains(out, "sleep 1234") {
			return os.ErrExist
		}
		return nil
	})
}

// TestMountOptions: how a volume is mounted, and image volumes.
func TestMountOptions(t *testing.T) {
	tr := startTree(t, "conformance", "")
	tr.pull()
	// On a mount of the test's own that others see the mounts in, as /var/lib/kubelet is.
	dir := t.TempDir()
	mount := func(source, target, kind string, flags uintptr) {
		t.Helper()
		if err := unix.Mount(source, target, kind, flags, ""); err != nil {
			t.Fatalf("mount at %s: %v", target, err)
		}
	}
	mount("tmpfs", dir, "tmpfs", 0)
	mount("", dir, "", unix.MS_SHARED)
	t.Cleanup(func() {
		for _, d := range []string{"/a/sub", "/a/later", "/b/inside", ""} {
			if err := unix.Unmount(dir+d, 0); err != nil && err != unix.EINVAL && err != unix.ENOENT {
				t.Errorf("umount %s: %v", dir+d, err)
			}
		}
	})
	for _, d := range []string{"/a/sub", "/a/later", "/b/inside"} {
		if err := os.MkdirAll(dir+d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	mount("tmpfs", dir+"/a/sub", "tmpfs", 0)
	for _, d := range []string{"/a", "/a/sub", "/b", "/b/inside"} {
		setLabel(t, dir+d, "container_file_t")
	}

	p := tr.podConfig("mounts")
	p.Linux.SecurityContext.Privileged = true
	pod := tr.runPod(p)
	ref := tr.reg + "/demo/signed:1"
	img, err := tr.img.ImageStatus(ctx(t), &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: ref}, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(img.Info["info"], "layers") {
		t.Errorf("verbose: %v", img.Info)
	}
	// A pull says for which pod it is.
	if _, err := tr.img.PullImage(ctx(t), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: ref}, SandboxConfig: p}); err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(tr.audit(), func(r map[string]any) bool {
		who, _ := r["pod"].(map[string]any)
		return r["method"] == "PullImage" && who["name"] == "mounts" && who["namespace"] == "e2e" && who["uid"] == "mounts-uid"
	}) {
		t.Error("no record of a pull for this pod")
	}
	a := dir + "/a"
	ctr := tr.sleeper(pod, p, "c", func(c *cri.ContainerConfig) {
		c.Mounts = []*cri.Mount{
			{ContainerPath: "/opts", HostPath: a, MountOptions: []string{"noexec", "nodev", "nosuid"}},
			{ContainerPath: "/ro", HostPath: a, Readonly: true},
			{ContainerPath: "/rro", HostPath: a, Readonly: true, RecursiveReadOnly: true},
			{ContainerPath: "/slave", HostPath: a, Propagation: cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER},
			{ContainerPath: "/image", Image: &cri.ImageSpec{Image: img.Image.Id, UserSpecifiedImage: ref}},
			{ContainerPath: "/part", Image: &cri.ImageSpec{Image: img.Image.Id}, ImageSubPath: "etc"},
		}
	})
	tr.has(ctr, "mount options", "grep ' /opts ' /proc/mounts; cp /bin/busybox /opts/x; /opts/x true; echo $?; echo end", "nosuid,nodev,noexec", "126\n", "end\n")
	tr.has(ctr, "read-only", "touch /ro/x; touch /ro/sub/x && echo beneath is writable", "/ro/x: Read-only file system", "beneath is writable")
	tr.has(ctr, "recursively read-only", "touch /rro/x; touch /rro/sub/y", "/rro/x: Read-only file system", "/rro/sub/y: Read-only file system")
	tr.has(ctr, "image volumes", "cat /image/etc/image /part/image; touch /image/x; touch /part/x", "signed\nsigned\n", "/image/x: Read-only file system", "/part/x: Read-only file system")
	mount("tmpfs", dir+"/a/later", "tmpfs", 0)
	setLabel(t, dir+"/a/later", "container_file_t")
	tr.write(dir+"/a/later/file", "later\n")
	tr.has(ctr, "what is mounted later", "cat /slave/later/file; cat /ro/later/file; echo end", "later\n", "can't open '/ro/later/file'")
	for _, m := range tr.status(ctr).Mounts {
		if m.ContainerPath == "/image" && (m.Image.GetUserSpecifiedImage() != ref || !strings.HasPrefix(m.Image.GetImageRef(), "sha256:")) {
			t.Errorf("an image volume in the status: %v", m)
		}
	}
	both := tr.sleeper(pod, p, "both", func(c *cri.ContainerConfig) {
		c.Linux.SecurityContext.Privileged = true
		c.Mounts = []*cri.Mount{{ContainerPath: "/both", HostPath: dir + "/b", Propagation: cri.MountPropagation_PROPAGATION_BIDIRECTIONAL}}
	})
	tr.has(both, "mounting inside", "mount -t tmpfs x /both/inside && echo up >/both/inside/file && echo done", "done")
	if b, err := os.ReadFile(dir + "/b/inside/file"); string(b) != "up\n" {
		t.Errorf("what was mounted inside, seen from outside: %q, %v", b, err)
	}
	if _, err := tr.rt.CreateContainer(ctx(t), &cri.CreateContainerRequest{PodSandboxId: pod, SandboxConfig: p, Config: func() *cri.ContainerConfig {
		c := tr.ctrConfig("missing", "true")
		c.Mounts = []*cri.Mount{{ContainerPath: "/part", Image: &cri.ImageSpec{Image: img.Image.Id}, ImageSubPath: "no/such"}}
		return c
	}()}); err == nil || !strings.Contains(err.Error(), "/part") {
		t.Errorf("a sub-path that the image does not have: %v", err)
	}
}
