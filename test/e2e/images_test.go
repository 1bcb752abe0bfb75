package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/postern-cri/postern/test/fixtures"
)

// push puts an image into the registry of the tree and pulls it.
func (tr *tree) push(repo string, i fixtures.Image) (ref, id string) {
	tr.t.Helper()
	if err := fixtures.At(tr.reg).PushImage(repo, "1", i); err != nil {
		tr.t.Fatal(err)
	}
	ref = tr.reg + "/" + repo + ":1"
	r, err := tr.img.PullImage(ctx(tr.t), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: ref}})
	if err != nil {
		tr.t.Fatalf("pulling %s: %v", ref, err)
	}
	return ref, r.ImageRef
}

func imageVolume(ref, at, sub string) *cri.Mount {
	return &cri.Mount{ContainerPath: at, Readonly: true, Image: &cri.ImageSpec{Image: ref}, ImageSubPath: sub}
}

// TestArtifactVolume: the files of an OCI artifact in a container, read-only and
// not to be run; as a container's own image it is refused.
func TestArtifactVolume(t *testing.T) {
	tr := startTree(t, "conformance", "")
	tr.pull()
	ref, id := tr.push("test/model", fixtures.MakeArtifact(fixtures.File{Name: "model/weights.bin", Body: strings.Repeat("w", 1<<20)},
		fixtures.File{Name: "run.sh", Body: "#!/bin/sh\necho ran\n"}))
	pcfg := tr.podConfig("artifact")
	pod := tr.runPod(pcfg)
	cfg := tr.ctrConfig("c", "exec sleep 1000")
	cfg.Mounts = []*cri.Mount{imageVolume(ref, "/model", ""), imageVolume(id, "/sub", "model"), imageVolume(ref, "/file", "run.sh")}
	ctr := tr.create(pod, pcfg, cfg)
	tr.start(ctr)
	for cmd, want := range map[string]string{
		"wc -c </model/model/weights.bin":      "1048576",
		"ls /sub":                              "weights.bin",
		"cat /file":                            "#!/bin/sh\necho ran",
		"sh /model/run.sh":                     "ran", // read, not run
		"/model/run.sh 2>&1; echo $?":          "/bin/sh: /model/run.sh: Permission denied\n126",
		"touch /model/x /sub/x 2>&1; echo $?":  "Read-only file system",
		"stat -c %a:%u /model/run.sh /model":   "444:0\n755:0",
		"rm /model/run.sh 2>&1; ls /model/run": "Read-only file system",
	} {
		if out, _ := tr.exec(ctr, "/bin/sh", "-c", cmd); !strings.Contains(out, want) {
			t.Errorf("%s: %q, want %q", cmd, out, want)
		}
	}
	// It is used: it cannot be removed.
	_, err := tr.img.RemoveImage(ctx(t), &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: id}})
	if status.Code(err) != codes.FailedPrecondition {
		t.Errorf("removing an image volume that is in use: %v", err)
	}
	run := tr.ctrConfig("run", "")
	run.Image = &cri.ImageSpec{Image: ref}
	_, err = tr.rt.CreateContainer(ctx(t), &cri.CreateContainerRequest{PodSandboxId: pod, Config: run, SandboxConfig: pcfg})
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "artifact") {
		t.Errorf("a container of an artifact: %v", err)
	}
}

// TestManyLayers: a container of an image with 127 layers, which is also a volume.
func TestManyLayers(t *testing.T) {
	tr := startTree(t, "conformance", "")
	base, err := fixtures.BaseLayer()
	if err != nil {
		t.Fatal(err)
	}
	layers := []fixtures.Layer{base}
	for k := 1; k < 127; k++ {
		layers = append(layers, fixtures.MakeLayer(fixtures.File{Name: fmt.Sprint("layer", k), Body: "x"}, fixtures.File{Name: "last", Body: fmt.Sprint(k)}))
	}
	ref, _ := tr.push("test/many", fixtures.MakeImage(fixtures.Config{Cmd: []string{"/bin/sh"}}, layers...))
	pcfg := tr.podConfig("many")
	pod := tr.runPod(pcfg)
	cfg := tr.ctrConfig("c", "exec sleep 1000")
	cfg.Image = &cri.ImageSpec{Image: ref}
	cfg.Mounts = []*cri.Mount{imageVolume(ref, "/again", "")}
	ctr := tr.create(pod, pcfg, cfg)
	tr.start(ctr)
	if out, _ := tr.exec(ctr, "/bin/sh", "-c", "cat /last /again/last; ls / /again | grep -c ^layer"); out != "126126252\n" {
		t.Errorf("%q", out)
	}
}

// TestImageGarbage is what a kubelet does when it collects: only images that
// nothing runs can be removed, their bytes come back, and layers that another image
// has stay.
func TestImageGarbage(t *testing.T) {
	tr := startTree(t, "conformance", "")
	base, err := fixtures.BaseLayer()
	if err != nil {
		t.Fatal(err)
	}
	large := fixtures.RandomLayer(1, 8<<20)
	used, usedID := tr.push("test/used", fixtures.MakeImage(fixtures.Config{}, base))
	_, gone := tr.push("test/gone", fixtures.MakeImage(fixtures.Config{}, base, large))
	usage := func() uint64 {
		t.Helper()
		r, err := tr.img.ImageFsInfo(ctx(t), &cri.ImageFsInfoRequest{})
		if err != nil || len(r.ImageFilesystems) != 1 || len(r.ContainerFilesystems) != 1 {
			t.Fatalf("%+v %v", r, err)
		}
		return r.ImageFilesystems[0].UsedBytes.Value
	}
	before := usage()
	pcfg := tr.podConfig("gc")
	pod := tr.runPod(pcfg)
	cfg := tr.ctrConfig("c", "exec sleep 1000")
	cfg.Image = &cri.ImageSpec{Image: used}
	ctr := tr.create(pod, pcfg, cfg)
	tr.start(ctr)
	remove := func(id string) error {
		_, err := tr.img.RemoveImage(ctx(t), &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: id}})
		return err
	}
	if err := remove(usedID); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("removing the image of a running container: %v", err)
	}
	for range 2 { // the second is of one that is gone
		if err := remove(gone); err != nil {
			t.Error(err)
		}
	}
	if freed := before - usage(); freed < 8<<20 || freed > 9<<20 {
		t.Errorf("%d bytes came back of a layer of 8 MiB", freed)
	}
	if out, code := tr.exec(ctr, "/bin/sh", "-c", "sleep 0; ls /bin/busybox"); code != 0 {
		t.Errorf("the container that runs: %s", out)
	}
	if _, err := tr.rt.StopPodSandbox(ctx(t), &cri.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
	if _, err := tr.rt.RemovePodSandbox(ctx(t), &cri.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
	if err := remove(usedID); err != nil {
		t.Errorf("removing an image that nothing uses any more: %v", err)
	}
	if ents, err := os.ReadDir(filepath.Join(tr.root, "lib/layers")); err != nil || len(ents) > 0 {
		t.Errorf("layers that are left: %v %v", ents, err)
	}
}

// TestTwoFilesystems: images on a filesystem of their own are told apart from
// writable layers, as the kubelet must know to collect garbage on each.
func TestTwoFilesystems(t *testing.T) {
	tr := startTree(t, "conformance", "")
	points := func() (string, string) {
		t.Helper()
		r, err := tr.img.ImageFsInfo(ctx(t), &cri.ImageFsInfoRequest{})
		if err != nil || len(r.ImageFilesystems) != 1 || len(r.ContainerFilesystems) != 1 {
			t.Fatalf("%+v %v", r, err)
		}
		return r.ImageFilesystems[0].FsId.Mountpoint, r.ContainerFilesystems[0].FsId.Mountpoint
	}
	if i, c := points(); i != c {
		t.Errorf("one filesystem is reported as two: %s, %s", i, c)
	}
	tr.stop()
	layers := filepath.Join(tr.root, "lib/layers")
	if err := unix.Mount("tmpfs", layers, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	tr.up("conformance")
	if i, c := points(); i != layers || c != filepath.Join(tr.root, "lib/box") {
		t.Errorf("images at %s, writable layers at %s", i, c)
	}
	tr.pull()
	pod, ctr := tr.run("two", "head -c 3000000 /dev/urandom >/written; exec sleep 1000")
	tr.eventually(30*time.Second, "what was written is counted where it lies", func() error {
		r, err := tr.img.ImageFsInfo(ctx(t), &cri.ImageFsInfoRequest{})
		if err != nil {
			return err
		}
		s, err := tr.rt.ContainerStats(ctx(t), &cri.ContainerStatsRequest{ContainerId: ctr})
		if err != nil {
			return err
		}
		if w := s.Stats.WritableLayer; w.FsId.Mountpoint != filepath.Join(tr.root, "lib/box") || w.UsedBytes.Value < 3000000 || r.ContainerFilesystems[0].UsedBytes.Value < 3000000 {
			return fmt.Errorf("%v, %v", w, r.ContainerFilesystems[0])
		}
		return nil
	})
	if _, err := tr.rt.StopPodSandbox(ctx(t), &cri.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
	if _, err := tr.rt.RemovePodSandbox(ctx(t), &cri.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
	tr.stop()
	if err := unix.Unmount(layers, 0); err != nil {
		t.Error(err)
	}
	tr.up("conformance")
}
