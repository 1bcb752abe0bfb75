package cri

import (
	"context"
	"errors"
	"testing"

	"github.com/postern-cri/postern/privsep/ceiling"
	"github.com/postern-cri/postern/runtime/image"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type fakeImageClient struct{ err error }

func (f *fakeImageClient) Pull(context.Context, string, string, *image.Auth, *image.Pod, func(image.Progress)) (image.ImageInfo, error) {
	return image.ImageInfo{ID: "sha256:1"}, f.err
}
func (f *fakeImageClient) List(context.Context) ([]image.ImageInfo, error) { return nil, f.err }
func (f *fakeImageClient) Find(context.Context, string) (image.ImageInfo, error) {
	return image.ImageInfo{}, f.err
}
func (f *fakeImageClient) Remove(context.Context, string) error       { return f.err }
func (f *fakeImageClient) Usage(context.Context) (image.Usage, error) { return image.Usage{}, f.err }

func TestImageErrors(t *testing.T) {
	w := newWorld(t)
	c := &fakeImageClient{}
	w.Server.images = ImageStore{c}
	pull := func() error {
		_, err := w.image.PullImage(t.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: "reg/x:1"}})
		return err
	}
	if err := pull(); err != nil {
		t.Error(err)
	}
	for _, x := range []struct {
		err  error
		code codes.Code
		text string
	}{
		{image.Errorf(image.Signature, "none"), codes.Unknown, "SignatureValidationFailed: none"},
		{image.Errorf(image.Unavailable, "down"), codes.Unknown, "RegistryUnavailable: down"},
		{image.Errorf(image.Policy, "policy denied PullImage: X"), codes.PermissionDenied, "policy denied PullImage: X"},
		{image.Errorf(image.Invalid, "bad"), codes.InvalidArgument, "bad"},
		{image.Errorf(image.NotFound, "gone"), codes.NotFound, "gone"},
		{image.Errorf(image.AuthFailed, "who"), codes.Unknown, "who"},
		{errors.New("away"), codes.Unavailable, "PullImage: away"},
	} {
		c.err = x.err
		if err := pull(); status.Code(err) != x.code || status.Convert(err).Message() != x.text {
			t.Errorf("%v, want %s %s", err, x.code, x.text)
		}
	}
	c.err = image.Errorf(image.NotFound, "gone")
	if a, err := w.image.ImageStatus(t.Context(), &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: "x"}}); err != nil || a.Image != nil {
		t.Error("an image that is not there is no error:", a, err)
	}
	if _, err := w.image.RemoveImage(t.Context(), &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: "x"}}); err != nil {
		t.Error("removal is idempotent:", err)
	}
}

// TestImageHandlers asks for images by the handlers that pods may have: a kubelet with
// RuntimeClassInImageCriApi names a pod's in its image calls, too.
func TestImageHandlers(t *testing.T) {
	w := newWorld(t)
	w.Server.images = ImageStore{&fakeImageClient{}}
	w.Server.handlers, w.Server.runtimes = []string{"strict"}, []ceiling.Handler{{Name: "crun"}}
	for name, want := range map[string]codes.Code{"": codes.OK, "strict": codes.OK, "crun": codes.OK, "other": codes.InvalidArgument} {
		spec := &cri.ImageSpec{Image: "reg/x:1", RuntimeHandler: name}
		if _, err := w.image.PullImage(t.Context(), &cri.PullImageRequest{Image: spec}); status.Code(err) != want {
			t.Errorf("PullImage for %q: %v, want %s", name, err, want)
		}
		if _, err := w.image.ImageStatus(t.Context(), &cri.ImageStatusRequest{Image: spec}); status.Code(err) != want {
			t.Errorf("ImageStatus for %q: %v, want %s", name, err, want)
		}
		_, err := w.runtime.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{RuntimeHandler: name, Config: podRequest("web-" + name).Config})
		if unknown := status.Code(err) == codes.NotFound; unknown != (want != codes.OK) {
			t.Errorf("RunPodSandbox with %q: %v", name, err)
		}
	}
}
