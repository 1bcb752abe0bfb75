package e2e

import (
	"context"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestRegistryAway: a pull from a registry that hangs ends when its client gives up,
// one from a registry that is gone says so, and once it answers the next pull works.
// What is here runs meanwhile.
func TestRegistryAway(t *testing.T) {
	tr := startTree(t, "baseline", "")
	tr.pull()
	image := &cri.ImageSpec{Image: tr.reg + "/demo/signed:1"}
	remove := func() {
		t.Helper()
		if _, err := tr.img.RemoveImage(ctx(t), &cri.RemoveImageRequest{Image: image}); err != nil {
			t.Fatal(err)
		}
	}
	tr.lives("warm", 1)
	remove()
	before := tr.files()
	signal := func(s syscall.Signal) {
		t.Helper()
		if err := tr.regCmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
	}
	signal(syscall.SIGSTOP)
	t.Cleanup(func() { tr.regCmd.Process.Signal(syscall.SIGCONT) })
	impatient, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := tr.img.PullImage(impatient, &cri.PullImageRequest{Image: image}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("want DeadlineExceeded: %v", err)
	}
	if list, err := tr.img.ListImages(ctx(t), &cri.ListImagesRequest{}); err != nil || len(list.Images) != 0 {
		t.Errorf("images of a pull that did not end: %v, %v", list, err)
	}
	signal(syscall.SIGCONT)
	tr.pull()
	_, ctr := tr.run("here", "exec sleep 1000")
	signal(syscall.SIGKILL)
	tr.regCmd.Wait()
	_, err := tr.img.PullImage(ctx(t), &cri.PullImageRequest{Image: image})
	wantError(t, err, codes.Unknown, "RegistryUnavailable: ", tr.reg)
	if out, code := tr.exec(ctr, "echo", "alive"); code != 0 || out != "alive\n" {
		t.Errorf("a container beside a registry that is gone: %d %q", code, out)
	}
	tr.run("local", "exec sleep 1000") // of the image that is here
	tr.removePods(t)
	remove()
	for f := range tr.files() {
		if rel := strings.TrimPrefix(f, tr.root); !before[f] && !strings.HasPrefix(rel, "/lib/fetch/") {
			t.Errorf("left: %s", rel)
		}
	}
}
