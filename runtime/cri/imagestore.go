package cri

import (
	"context"
	"errors"

	"github.com/postern-cri/postern/runtime/container"
	"github.com/postern-cri/postern/runtime/image"
	"github.com/postern-cri/postern/runtime/image/userdb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ImageClient speaks to the process that pulls (package runtime/image/client).
type ImageClient interface {
	Pull(ctx context.Context, requestID, ref string, auth *image.Auth, pod *image.Pod, progress func(image.Progress)) (image.ImageInfo, error)
	List(ctx context.Context) ([]image.ImageInfo, error)
	Find(ctx context.Context, ref string) (image.ImageInfo, error)
	Remove(ctx context.Context, id string) error
	Usage(ctx context.Context) (image.Usage, error)
}

// ImageStore is the Images behind an ImageClient.
type ImageStore struct{ Client ImageClient }

// List implements Images.
func (s ImageStore) List(ctx context.Context) ([]Image, error) {
	infos, err := s.Client.List(ctx)
	if err != nil {
		return nil, imageError(err)
	}
	out := make([]Image, len(infos))
	for i := range infos {
		out[i] = fromInfo(&infos[i])
	}
	return out, nil
}

// Find implements Images.
func (s ImageStore) Find(ctx context.Context, ref string) (Image, error) {
	i, err := s.Client.Find(ctx, ref)
	if err != nil {
		return Image{}, imageError(err)
	}
	return fromInfo(&i), nil
}

// Pull implements Images.
func (s ImageStore) Pull(ctx context.Context, requestID, ref string, auth *cri.AuthConfig, pod *cri.PodSandboxMetadata) (Image, error) {
	i, err := s.Client.Pull(ctx, requestID, ref, imageAuth(auth), imagePod(pod), nil)
	if err != nil {
		return Image{}, imageError(err)
	}
	return fromInfo(&i), nil
}

func imageAuth(a *cri.AuthConfig) *image.Auth {
	if a == nil {
		return nil
	}
	return &image.Auth{
		Username: a.Username, Password: a.Password, Auth: a.Auth, ServerAddress: a.ServerAddress,
		IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken,
	}
}

func imagePod(p *cri.PodSandboxMetadata) *image.Pod {
	if p == nil {
		return nil
	}
	return &image.Pod{Namespace: p.Namespace, Name: p.Name, UID: p.Uid}
}

// Remove implements Images.
func (s ImageStore) Remove(ctx context.Context, id string) error {
	return imageError(s.Client.Remove(ctx, id))
}

// Usage implements Images.
func (s ImageStore) Usage(ctx context.Context) (Usage, error) {
	u, err := s.Client.Usage(ctx)
	return Usage{Mountpoint: u.Mountpoint, Bytes: u.Bytes, Inodes: u.Inodes}, imageError(err)
}

func fromInfo(i *image.ImageInfo) Image {
	return Image{
		ID: i.ID, Tags: i.RepoTags, Digests: i.RepoDigests, Size: uint64(max(i.Size, 0)), Pinned: i.Pinned, Files: i.Artifact, Layers: i.Layers,
		Config: container.Image{
			Manifest: i.ManifestDigest, Entrypoint: i.Config.Entrypoint, Cmd: i.Config.Cmd, Env: i.Config.Env,
			WorkingDir: i.Config.WorkingDir, User: i.Config.User, Volumes: i.Config.Volumes, StopSignal: i.Config.StopSignal,
		},
	}
}

// imageError gives the errors of a pull the codes that the kubelet knows.
func imageError(err error) error {
	var e *image.Error
	if !errors.As(err, &e) {
		return err
	}
	code := codes.Unknown
	switch e.Code {
	case image.NotFound:
		code = codes.NotFound
	case image.Policy:
		code = codes.PermissionDenied
	case image.Invalid:
		code = codes.InvalidArgument
	}
	return imageStatus{e, code}
}

// imageStatus is an image.Error that gRPC sends with a code.
type imageStatus struct {
	of   *image.Error
	code codes.Code
}

func (e imageStatus) Error() string { return e.of.Message }

// GRPCStatus is how gRPC asks.
func (e imageStatus) GRPCStatus() *status.Status {
	return status.New(e.code, clip(e.of.Message, maxErrorText))
}

// Is makes every kind of NOT_FOUND an ErrImageNotFound.
func (e imageStatus) Is(target error) bool {
	return target == ErrImageNotFound && e.code == codes.NotFound
}

// OpenUsers returns a UserOpener that reads the layers in dir.
func OpenUsers(dir string) UserOpener {
	return func(i Image) (Users, error) { return userdb.Open(dir, i.Layers) }
}
