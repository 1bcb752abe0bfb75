package cri

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/postern-cri/postern/runtime/image"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

type fakeImageClient struct {
	lists int
	infos []image.ImageInfo
	err   error
}

func (f *fakeImageClient) Pull(context.Context, string, *image.Auth, *image.Pod, string) (*image.ImageInfo, error) {
	return &f.infos[0], f.err
}
func (f *fakeImageClient) List(context.Context) ([]image.ImageInfo, error) {
	f.lists++
	return f.infos, f.err
}
func (f *fakeImageClient) Remove(context.Context, string) error       { return f.err }
func (f *fakeImageClient) Usage(context.Context) (image.Usage, error) { return image.Usage{}, f.err }

func TestImageStore(t *testing.T) {
	id := "sha256:" + strings.Repeat("ab", 32)
	digest := "sha256:" + strings.Repeat("cd", 32)
	c := &fakeImageClient{infos: []image.ImageInfo{{
		ID: id, ManifestDigest: digest, RepoTags: []string{"docker.io/library/app:latest", "reg:5000/x/app:1"}, RepoDigests: []string{"reg:5000/x/app@" + digest},
	}}}
	s := NewImageStore(c)
	for ref, want := range map[string]bool{
		id: true, strings.TrimPrefix(id, "sha256:"): true, "abababababab": true, digest: true,
		"app": true, "app:latest": true, "library/app": true, "docker.io/library/app": true, "app:1": false,
		"reg:5000/x/app:1": true, "reg:5000/x/app": false, "reg:5000/x/app@" + digest: true, "reg:5000/x/app:9@" + digest: true,
		"": false, "@": false, ":": false, "/": false, "ab": false,
	} {
		_, err := s.Find(t.Context(), ref)
		if (err == nil) != want {
			t.Errorf("%q: %v, want %v", ref, err, want)
		}
	}
	if c.lists > 2 {
		t.Errorf("the list was asked for %d times", c.lists)
	}
	for e, want := range map[*image.Error]codes.Code{
		image.Errorf(image.Signature, "x"): codes.Unknown, image.Errorf(image.Policy, "x"): codes.PermissionDenied,
		image.Errorf(image.Unavailable, "x"): codes.Unknown, image.Errorf(image.Invalid, "x"): codes.InvalidArgument,
	} {
		c.err = e
		_, err := s.Pull(t.Context(), "r", "reg/x:1", nil, nil)
		if status.Code(err) != want || status.Convert(err).Message() != e.Message {
			t.Errorf("%v, want %s", err, want)
		}
	}
	c.err = errors.New("away")
	if _, err := s.List(t.Context()); err == nil {
		t.Error("a failed list")
	}
}

func FuzzFindImage(f *testing.F) {
	f.Add("docker.io/library/app:1@sha256:00")
	f.Fuzz(func(t *testing.T, ref string) { find([]Image{testImage}, ref) })
}
