package cri

import (
	"context"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postern-cri/postern/policy/facts"
	"github.com/postern-cri/postern/runtime/container"
	"github.com/postern-cri/postern/runtime/stats"
	"github.com/postern-cri/postern/runtime/store"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Image is one image of the store.
type Image struct {
	ID      string // digest of the image's configuration
	Tags    []string
	Digests []string // name@sha256:<hex>
	Size    uint64
	Pinned  bool
	Files   bool     // an artifact: it can be mounted, and not run
	Layers  []string // diff IDs, lowest first
	Config  container.Image
}

// Ref is how a container's status names the image.
func (i Image) Ref() string {
	if len(i.Digests) > 0 {
		return i.Digests[0]
	}
	return i.ID
}

// Usage is the space that images take.
type Usage struct {
	Mountpoint    string
	Bytes, Inodes uint64
}

// ErrImageNotFound says that the store has no such image.
var ErrImageNotFound = errors.New("image not found")

// Images is the image store: the processes that pull, verify and convert.
type Images interface {
	// Find resolves a reference, digest or id as CRI clients write them.
	Find(ctx context.Context, ref string) (Image, error)
	List(ctx context.Context) ([]Image, error)
	Pull(ctx context.Context, requestID, ref string, auth *cri.AuthConfig, pod *cri.PodSandboxMetadata) (Image, error)
	Remove(ctx context.Context, id string) error
	Usage(ctx context.Context) (Usage, error)
}

// Users answers for one image's users and groups.
type Users interface {
	container.UserDB
	io.Closer
}

// UserOpener opens the users of an image.
type UserOpener func(Image) (Users, error)

func (s *Server) findImage(ctx context.Context, ref string) (Image, error) {
	if ref == "" {
		return Image{}, invalid("image: missing")
	}
	img, err := s.images.Find(ctx, ref)
	if errors.Is(err, ErrImageNotFound) {
		return img, status.Errorf(codes.NotFound, "image %q is not there: pull it first", clip(ref, 256))
	}
	return img, err
}

// checkSpec refuses what an image's name can say and nobody here could keep. Its
// annotations are hints that CRI leaves to the runtime: the image's platform is the
// node's, whatever they say.
func (s *Server) checkSpec(field string, i *cri.ImageSpec) error {
	if h := i.GetRuntimeHandler(); !s.hasHandler(h) {
		return invalid("%s."+unknownHandler, field, clip(h, 256))
	}
	return nil
}

// volumeImage returns the manifest digest of an image volume's image.
func (s *Server) volumeImage(ctx context.Context, i *cri.ImageSpec) (string, error) {
	if err := s.checkSpec("mounts.image", i); err != nil {
		return "", err
	}
	v, err := s.findImage(ctx, i.Image)
	if err != nil {
		return "", err
	}
	// A digest that is named is the one that has to be mounted.
	if r := i.ImageRef; r != "" && r != v.ID && r != v.Config.Manifest && !slices.Contains(v.Digests, r) {
		return "", invalid("mounts.image.image_ref: %q is not the digest of %q", clip(r, 256), clip(i.Image, 256))
	}
	return v.Config.Manifest, nil
}

func toCRI(i Image) *cri.Image {
	o := &cri.Image{Id: i.ID, RepoTags: i.Tags, RepoDigests: i.Digests, Size: i.Size, Pinned: i.Pinned}
	user, _, _ := strings.Cut(i.Config.User, ":")
	switch n, err := strconv.ParseUint(user, 10, 31); {
	case user == "":
		o.Uid = &cri.Int64Value{Value: 0}
	case err == nil:
		o.Uid = &cri.Int64Value{Value: int64(n)}
	default:
		o.Username = user // also what is no number: the kubelet then cannot take it for a uid
	}
	return o
}

func (s *Server) filterImages(ctx context.Context, f *cri.ImageFilter) ([]*cri.Image, error) {
	if err := s.checkSpec("filter.image", f.GetImage()); err != nil {
		return nil, err
	}
	list, err := s.images.List(ctx)
	if err != nil {
		return nil, err
	}
	want := f.GetImage().GetImage()
	var one Image
	if want != "" {
		if one, err = s.images.Find(ctx, want); errors.Is(err, ErrImageNotFound) {
			return nil, nil
		} else if err != nil {
			return nil, err
		}
	}
	var out []*cri.Image
	for _, i := range list {
		if want == "" || i.ID == one.ID {
			out = append(out, toCRI(i))
		}
	}
	return out, nil
}

// ListImages lists images.
func (s *Server) ListImages(ctx context.Context, r *cri.ListImagesRequest) (*cri.ListImagesResponse, error) {
	if err := s.askRead(ctx, "ListImages"); err != nil {
		return nil, err
	}
	list, err := s.filterImages(ctx, r.Filter)
	if err != nil {
		return nil, fail("ListImages", err)
	}
	return &cri.ListImagesResponse{Images: list}, nil
}

// StreamImages lists images in several messages.
func (s *Server) StreamImages(r *cri.StreamImagesRequest, out grpc.ServerStreamingServer[cri.StreamImagesResponse]) error {
	if err := s.askRead(out.Context(), "StreamImages"); err != nil {
		return err
	}
	list, err := s.filterImages(out.Context(), r.Filter)
	if err != nil {
		return fail("StreamImages", err)
	}
	return sendChunks(list, func(i []*cri.Image) error { return out.Send(&cri.StreamImagesResponse{Images: i}) })
}

// ImageStatus describes one image; none is no error.
func (s *Server) ImageStatus(ctx context.Context, r *cri.ImageStatusRequest) (*cri.ImageStatusResponse, error) {
	if err := s.askRead(ctx, "ImageStatus"); err != nil {
		return nil, err
	}
	if r.GetImage().GetImage() == "" {
		return nil, invalid("image: missing")
	}
	if err := s.checkSpec("image", r.Image); err != nil {
		return nil, err
	}
	i, err := s.images.Find(ctx, r.Image.Image)
	if errors.Is(err, ErrImageNotFound) {
		return &cri.ImageStatusResponse{}, nil
	}
	if err != nil {
		return nil, fail("ImageStatus", err)
	}
	a := &cri.ImageStatusResponse{Image: toCRI(i)}
	if r.Verbose {
		a.Info = info(map[string]any{"artifact": i.Files, "manifest": i.Config.Manifest, "layers": i.Layers, "config": i.Config})
	}
	return a, nil
}

// PullImage pulls an image. The process that pulls asks policy, before it
// fetches anything and again with what was verified.
func (s *Server) PullImage(ctx context.Context, r *cri.PullImageRequest) (*cri.PullImageResponse, error) {
	ref := r.GetImage().GetImage()
	if ref == "" {
		return nil, invalid("image: missing")
	}
	if err := s.checkSpec("image", r.Image); err != nil {
		return nil, err
	}
	i, err := s.images.Pull(ctx, requestID(ctx), ref, r.Auth, r.GetSandboxConfig().GetMetadata())
	if err != nil {
		return nil, fail("PullImage", err)
	}
	return &cri.PullImageResponse{ImageRef: i.ID}, nil
}

// RemoveImage removes an image that no container uses. It succeeds for one that
// is gone.
func (s *Server) RemoveImage(ctx context.Context, r *cri.RemoveImageRequest) (*cri.RemoveImageResponse, error) {
	const method = "RemoveImage"
	ref := r.GetImage().GetImage()
	done, err := s.ask(ctx, method, facts.Facts{Image: &facts.Image{Requested: clip(ref, 1024)}})
	if err != nil {
		return nil, err
	}
	err = s.checkSpec("image", r.Image)
	if err == nil {
		err = s.removeImage(ctx, ref)
	}
	if err := done(fail(method, err)); err != nil {
		return nil, err
	}
	return &cri.RemoveImageResponse{}, nil
}

func (s *Server) removeImage(ctx context.Context, ref string) error {
	if ref == "" {
		return invalid("image: missing")
	}
	i, err := s.images.Find(ctx, ref)
	if err == nil {
		for _, c := range s.store.Containers("") {
			if c.ImageID == i.ID || slices.ContainsFunc(c.Mounts, func(m store.Mount) bool { return m.ImageRef == i.Config.Manifest }) {
				return status.Errorf(codes.FailedPrecondition, "image %s is in use by container %s", i.ID, c.ID)
			}
		}
		err = s.images.Remove(ctx, i.ID)
	}
	if errors.Is(err, ErrImageNotFound) {
		return nil
	}
	return err
}

// ImageFsInfo tells how much space images and writable layers take.
func (s *Server) ImageFsInfo(ctx context.Context, _ *cri.ImageFsInfoRequest) (*cri.ImageFsInfoResponse, error) {
	if err := s.askRead(ctx, "ImageFsInfo"); err != nil {
		return nil, err
	}
	u, err := s.images.Usage(ctx)
	if err != nil {
		return nil, fail("ImageFsInfo", err)
	}
	now := time.Now().UnixNano()
	a := &cri.ImageFsInfoResponse{ImageFilesystems: []*cri.FilesystemUsage{filesystem(now, u.Mountpoint, u.Bytes, u.Inodes)}}
	var bytes, inodes uint64
	for _, c := range s.store.Containers("") {
		b, i := s.usage.get(c.ID)
		bytes, inodes = bytes+b, inodes+i
	}
	// The kubelet takes two mount points for two filesystems and then collects
	// garbage on each by itself.
	at := s.stateDir
	if stats.SameFilesystem(at, u.Mountpoint) {
		at = u.Mountpoint
	}
	a.ContainerFilesystems = []*cri.FilesystemUsage{filesystem(now, at, bytes, inodes)}
	return a, nil
}

func filesystem(at int64, mountpoint string, bytes, inodes uint64) *cri.FilesystemUsage {
	return &cri.FilesystemUsage{
		Timestamp: at, FsId: &cri.FilesystemIdentifier{Mountpoint: mountpoint},
		UsedBytes: &cri.UInt64Value{Value: bytes}, InodesUsed: &cri.UInt64Value{Value: inodes},
	}
}
