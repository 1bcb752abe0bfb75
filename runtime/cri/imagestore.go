package cri

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postern-cri/postern/runtime/container"
	"github.com/postern-cri/postern/runtime/image"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ImageClient speaks to the process that pulls. It is started on demand, so it
// is asked as seldom as possible.
type ImageClient interface {
	Pull(ctx context.Context, ref string, auth *image.Auth, pod *image.Pod, requestID string) (*image.ImageInfo, error)
	List(ctx context.Context) ([]image.ImageInfo, error)
	Remove(ctx context.Context, id string) error
	Usage(ctx context.Context) (image.Usage, error)
}

// ImageStore remembers the list of images between the changes, all of which go
// through it.
type ImageStore struct {
	client ImageClient

	mu     sync.Mutex
	list   []Image
	fresh  bool
	missed time.Time // when a reference was last looked for in vain
	usage  Usage
	used   time.Time
	asking sync.Mutex
}

// NewImageStore returns the Images behind c.
func NewImageStore(c ImageClient) *ImageStore { return &ImageStore{client: c} }

// missEvery is how often a reference that is not there makes us ask again: the
// operator's own tools may have changed the store.
const missEvery = 5 * time.Second

func (s *ImageStore) changed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fresh = false
	s.used = time.Time{}
}

// List implements Images.
func (s *ImageStore) List(ctx context.Context) ([]Image, error) {
	s.asking.Lock() // one question at a time; the others get its answer
	defer s.asking.Unlock()
	s.mu.Lock()
	list, fresh := s.list, s.fresh
	s.fresh = true // unless something changes while we ask
	s.mu.Unlock()
	if fresh {
		return list, nil
	}
	infos, err := s.client.List(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.fresh = false
		return nil, imageError(err)
	}
	s.list = make([]Image, len(infos))
	for i := range infos {
		s.list[i] = fromInfo(&infos[i])
	}
	return s.list, nil
}

// Find implements Images.
func (s *ImageStore) Find(ctx context.Context, ref string) (Image, error) {
	list, err := s.List(ctx)
	if err != nil {
		return Image{}, err
	}
	if i, ok := find(list, ref); ok {
		return i, nil
	}
	s.mu.Lock()
	again := time.Since(s.missed) > missEvery
	if again {
		s.missed, s.fresh = time.Now(), false
	}
	s.mu.Unlock()
	if !again {
		return Image{}, ErrImageNotFound
	}
	if list, err = s.List(ctx); err != nil {
		return Image{}, err
	}
	if i, ok := find(list, ref); ok {
		return i, nil
	}
	return Image{}, ErrImageNotFound
}

// Pull implements Images.
func (s *ImageStore) Pull(ctx context.Context, requestID, ref string, auth *cri.AuthConfig, pod *cri.PodSandboxMetadata) (Image, error) {
	var a *image.Auth
	if auth != nil {
		a = &image.Auth{
			Username: auth.Username, Password: auth.Password, Auth: auth.Auth, ServerAddress: auth.ServerAddress,
			IdentityToken: auth.IdentityToken, RegistryToken: auth.RegistryToken,
		}
	}
	var p *image.Pod
	if pod != nil {
		p = &image.Pod{Namespace: pod.Namespace, Name: pod.Name, UID: pod.Uid}
	}
	defer s.changed()
	i, err := s.client.Pull(ctx, ref, a, p, requestID)
	if err != nil {
		return Image{}, imageError(err)
	}
	return fromInfo(i), nil
}

// Remove implements Images.
func (s *ImageStore) Remove(ctx context.Context, id string) error {
	defer s.changed()
	return imageError(s.client.Remove(ctx, id))
}

// usageFor is how long the space that images take is believed: it changes with
// a pull or a removal only, and both go through here.
const usageFor = 5 * time.Minute

// Usage implements Images.
func (s *ImageStore) Usage(ctx context.Context) (Usage, error) {
	s.mu.Lock()
	u, ok := s.usage, time.Since(s.used) < usageFor
	s.mu.Unlock()
	if ok {
		return u, nil
	}
	got, err := s.client.Usage(ctx)
	if err != nil {
		return Usage{}, imageError(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.usage, s.used = Usage{Mountpoint: got.Mountpoint, Bytes: got.Bytes, Inodes: got.Inodes}, time.Now()
	return s.usage, nil
}

func fromInfo(i *image.ImageInfo) Image {
	return Image{
		ID: i.ID, Tags: i.RepoTags, Digests: i.RepoDigests, Size: uint64(max(i.Size, 0)), Pinned: i.Pinned, Layers: i.Layers,
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
		return ErrImageNotFound
	case image.Policy:
		code = codes.PermissionDenied
	case image.Invalid:
		code = codes.InvalidArgument
	}
	return status.Error(code, clip(e.Message, maxErrorText))
}

// find resolves what CRI clients write: an id, its beginning, a tag or a digest,
// with or without the parts that a short name leaves out.
func find(list []Image, ref string) (Image, bool) {
	names := spellings(ref)
	for _, i := range list {
		if i.ID == ref || i.ID == "sha256:"+ref || i.Config.Manifest == ref {
			return i, true
		}
		for _, n := range names {
			if slices.Contains(i.Tags, n) || slices.Contains(i.Digests, n) {
				return i, true
			}
		}
	}
	short := strings.TrimPrefix(ref, "sha256:")
	if len(short) < 6 || strings.Trim(short, "0123456789abcdef") != "" {
		return Image{}, false
	}
	var found []Image
	for _, i := range list {
		if strings.HasPrefix(strings.TrimPrefix(i.ID, "sha256:"), short) {
			found = append(found, i)
		}
	}
	if len(found) != 1 {
		return Image{}, false
	}
	return found[0], true
}

func spellings(ref string) []string {
	name, digest, hasDigest := strings.Cut(ref, "@")
	slash := strings.LastIndexByte(name, '/')
	base, tag, hasTag := strings.Cut(name[slash+1:], ":")
	base = name[:slash+1] + base
	full := base + "@" + digest
	if !hasDigest {
		if !hasTag {
			tag = "latest"
		}
		full = base + ":" + tag
	}
	out := []string{full}
	first, _, ok := strings.Cut(base, "/")
	switch {
	case !ok:
		out = append(out, "docker.io/library/"+full)
	case !strings.ContainsAny(first, ".:") && first != "localhost":
		out = append(out, "docker.io/"+full)
	}
	return out
}
