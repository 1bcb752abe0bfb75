package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// stuff leaves a file system without a byte, until empty is called.
func stuff(t *testing.T, dir string) (empty func()) {
	t.Helper()
	f, err := os.CreateTemp(dir, "stuffing")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for n := 1 << 20; n > 0; {
		if _, err := f.Write(make([]byte, n)); errors.Is(err, unix.ENOSPC) {
			n /= 2
		} else if err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		if err := os.Remove(f.Name()); err != nil {
			t.Error(err)
		}
	}
}

// TestFullDisks fills each of our directories, and then all of them: what cannot be
// done says which is full, what ends ends, a killed daemon comes back, images can be
// removed, and with room again all goes on with the same names.
func TestFullDisks(t *testing.T) {
	tr := plantTree(t, "baseline", "")
	cases := []struct{ dir, fails string }{
		{"lib/posternd", "run create"}, {"lib/box", "run create"}, {"lib/audit", "run create exec pull"},
		{"lib/layers", "pull"}, {"lib/records", "pull"}, {"lib/fetch", "pull"}, {"run", "create"}, {"log", ""}, {"lib/policyd", ""},
	}
	t.Cleanup(func() {
		for _, c := range cases {
			if err := unix.Unmount(filepath.Join(tr.root, c.dir), 0); err != nil {
				t.Errorf("unmounting %s: %v", c.dir, err)
			}
		}
	})
	for _, c := range cases {
		dir := filepath.Join(tr.root, c.dir)
		if err := os.MkdirAll(dir, 0o711); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("postern-e2e-full", dir, "tmpfs", 0, "size=48m,mode=711"); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(tr.root, 0o711); err != nil {
		t.Fatal(err)
	}
	tr.up("baseline")
	t.Cleanup(func() { tr.down() })
	tr.pull()
	tr.lives("warm", 2)
	for _, c := range append(cases, struct{ dir, fails string }{"", "run create exec pull"}) {
		t.Run(strings.ReplaceAll(c.dir, "/", "-"), func(t *testing.T) {
			var full []string
			for _, k := range cases {
				if c.dir == "" || c.dir == k.dir {
					full = append(full, filepath.Join(tr.root, k.dir))
				}
			}
			tr.fillAndUse(t, full, c.fails)
		})
	}
}

func (tr *tree) fillAndUse(t *testing.T, full []string, fails string) {
	before := tr.files()
	_, ctr := tr.run("old", "exec sleep 1000")
	bare := tr.podConfig("bare")
	pod := tr.runPod(bare)
	var empty []func()
	for _, dir := range full {
		empty = append(empty, stuff(t, dir))
	}
	// expect holds what a call said against what it should say.
	expect := func(call string, err error) {
		t.Helper()
		if !strings.Contains(fails, call) {
			if err != nil {
				t.Errorf("%s: %v", call, err)
			}
			return
		}
		named := false
		for _, dir := range full {
			named = named || err != nil && strings.Contains(err.Error(), dir)
		}
		if err == nil || !named || !strings.Contains(err.Error(), "no space left") {
			t.Errorf("%s: want an error that names %v: %v", call, full, err)
		}
	}
	// What is stored of each fits in no page that has room left.
	much := map[string]string{"much": strings.Repeat("x", 10000)}
	p, c := tr.podConfig("new"), tr.ctrConfig("c", "sleep 1000")
	p.Annotations, c.Annotations = much, much
	_, err := tr.rt.RunPodSandbox(ctx(t), &cri.RunPodSandboxRequest{Config: p})
	if err == nil && strings.Contains(fails, "run") { // its audit record did find room
		_, err = tr.rt.RunPodSandbox(ctx(t), &cri.RunPodSandboxRequest{Config: tr.podConfig("newer")})
	}
	expect("run", err)
	_, err = tr.rt.CreateContainer(ctx(t), &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: bare})
	expect("create", err)
	_, err = tr.rt.ExecSync(ctx(t), &cri.ExecSyncRequest{ContainerId: ctr, Cmd: []string{"true"}, Timeout: 60})
	expect("exec", err)
	if strings.Contains(fails, "run") {
		for _, daemon := range []string{"posternd", "postern-helper"} {
			for _, pid := range tr.processes()[daemon] {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		tr.answers(patience)
	}
	// What runs can be ended, and takes nothing with it but its own.
	tr.removePods(t)
	if list, err := tr.rt.ListContainers(ctx(t), &cri.ListContainersRequest{}); err != nil || len(list.Containers) > 0 {
		t.Errorf("containers after the removal: %v, %v", list, err)
	}
	image := &cri.ImageSpec{Image: tr.reg + "/demo/signed:1"}
	if _, err := tr.img.RemoveImage(ctx(t), &cri.RemoveImageRequest{Image: image}); err != nil {
		t.Errorf("RemoveImage: %v", err)
	}
	for _, dir := range full { // there was room again
		empty = append(empty, stuff(t, dir))
	}
	_, err = tr.img.PullImage(ctx(t), &cri.PullImageRequest{Image: image})
	expect("pull", err)
	for _, f := range empty {
		f()
	}
	tr.eventually(patience, "an image can be pulled", func() error {
		_, err := tr.img.PullImage(ctx(t), &cri.PullImageRequest{Image: image})
		return err
	})
	tr.eventually(patience, "a pod of the same name lives", func() error {
		pod, err := tr.rt.RunPodSandbox(ctx(t), &cri.RunPodSandboxRequest{Config: p})
		if err == nil {
			tr.start(tr.create(pod.PodSandboxId, p, c))
		}
		return err
	})
	tr.removePods(t)
	for f := range tr.files() {
		if !before[f] {
			t.Errorf("left: %s", f)
		}
	}
}

// removePods stops and removes every pod, as a kubelet does.
func (tr *tree) removePods(t *testing.T) {
	t.Helper()
	pods, err := tr.rt.ListPodSandbox(ctx(t), &cri.ListPodSandboxRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pods.Items {
		if _, err := tr.rt.StopPodSandbox(ctx(t), &cri.StopPodSandboxRequest{PodSandboxId: p.Id}); err != nil {
			t.Errorf("stopping pod %s: %v", p.Metadata.GetName(), err)
		}
		if _, err := tr.rt.RemovePodSandbox(ctx(t), &cri.RemovePodSandboxRequest{PodSandboxId: p.Id}); err != nil {
			t.Errorf("removing pod %s: %v", p.Metadata.GetName(), err)
		}
	}
}
