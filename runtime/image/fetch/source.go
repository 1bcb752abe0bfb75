package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/containers/image/v5/docker"
	"github.com/containers/image/v5/docker/reference"
	"github.com/containers/image/v5/pkg/blobinfocache/none"
	"github.com/containers/image/v5/types"
	"github.com/docker/distribution/registry/api/errcode"
	v2 "github.com/docker/distribution/registry/api/v2"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/runtime/image"
	"github.com/postern-cri/postern/runtime/image/manifest"
)

// source is one image in a registry, or in the first of several places that has
// it.
type source struct {
	types.ImageSource
	name  reference.Named // as it was asked for
	paths Paths
	auth  *image.Auth
	at    endpoint // that it was opened at

	mu     sync.Mutex
	others []*other // where else the blobs of one digest are, once somebody asked
}

// other is another place of the same image, opened when it is needed.
type other struct {
	endpoint
	once sync.Once
	src  types.ImageSource
	err  error
}

// openSource opens the first place that has what name says, in the order of
// registries.conf.
func openSource(ctx context.Context, p Paths, auth *image.Auth, name reference.Named) (*source, error) {
	list, err := p.endpoints(name, auth)
	if err != nil {
		return nil, err
	}
	var s *source
	err = patiently(ctx, func() error {
		var failed []string
		for k, e := range list {
			src, err := p.open(ctx, e)
			if err == nil {
				s = &source{ImageSource: src, name: name, paths: p, auth: auth, at: e}
				return nil
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if k == len(list)-1 { // where its name says: this one's word counts
				if len(failed) > 0 {
					err = fmt.Errorf("%w (before that, %s)", err, strings.Join(failed, "; "))
				}
				return err
			}
			failed = append(failed, fmt.Sprintf("%s: %v", e.ref.Name(), err))
		}
		return errors.New("no endpoint")
	})
	if err != nil {
		return nil, classify(name.String(), err)
	}
	return s, nil
}

// open connects to an endpoint and reads the manifest there.
func (p Paths) open(ctx context.Context, e endpoint) (types.ImageSource, error) {
	ref, err := docker.NewReference(e.ref)
	if err != nil {
		return nil, image.Errorf(image.Invalid, "%s: %v", e.ref, err)
	}
	ctx, cancel := p.bounded(ctx)
	defer cancel()
	s, err := ref.NewImageSource(ctx, e.sys)
	if err != nil {
		return nil, because(ctx, err)
	}
	return s, nil
}

// Close closes the source wherever it was opened.
func (s *source) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.others {
		o.once.Do(func() { o.err = errors.New("closed") })
		if o.src != nil {
			o.src.Close()
		}
	}
	return s.ImageSource.Close()
}

// place returns where the blobs of the image with this digest are, the k-th place
// in order; nil is none. The first is where the image was found.
func (s *source) place(ctx context.Context, digest string, k int) (types.ImageSource, error) {
	if k == 0 {
		return s.ImageSource, nil
	}
	o, err := s.other(digest, k-1)
	if o == nil || err != nil {
		return nil, err
	}
	o.once.Do(func() { o.src, o.err = s.paths.open(ctx, o.endpoint) })
	if o.err != nil {
		return nil, classify(s.name.String(), o.err)
	}
	return o.src, nil
}

func (s *source) other(d string, k int) (*other, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.others == nil {
		s.others = []*other{}
		name, err := reference.WithDigest(reference.TrimNamed(s.name), digest.Digest(d))
		if err != nil {
			return nil, err
		}
		list, err := s.paths.endpoints(name, s.auth)
		if err != nil {
			return nil, err
		}
		for _, e := range list {
			if e.ref.Name() != s.at.ref.Name() {
				s.others = append(s.others, &other{endpoint: e})
			}
		}
	}
	if k >= len(s.others) {
		return nil, nil
	}
	return s.others[k], nil
}

// manifest returns the bytes and the media type of the manifest that the source
// was opened for, or of another one in its repository. What was asked for by
// digest has that digest, or it is an error.
func (s *source) manifest(ctx context.Context, want string) ([]byte, string, error) {
	var d *digest.Digest
	if want != "" {
		v := digest.Digest(want)
		d = &v
	}
	var b []byte
	var mediaType string
	err := patiently(ctx, func() (err error) {
		ctx, cancel := s.paths.bounded(ctx)
		defer cancel()
		b, mediaType, err = s.GetManifest(ctx, d)
		return because(ctx, err)
	})
	if err != nil {
		return nil, "", classify(s.name.String(), err)
	}
	if len(b) > manifest.MaxSize {
		return nil, "", image.Errorf(image.Invalid, "%s: a manifest of %d bytes", s.name, len(b))
	}
	if want != "" && manifest.Digest(b) != want {
		return nil, "", image.Errorf(image.Invalid, "%s: the registry sent %s for %s", s.name, manifest.Digest(b), want)
	}
	return b, mediaType, nil
}

// smallBlob reads a blob of at most max bytes and checks its digest. No URL
// outside of the repository is ever passed on: credentials stay with the registry
// that they are for.
func (s *source) smallBlob(ctx context.Context, want string, max int64) (b []byte, err error) {
	err = patiently(ctx, func() error {
		ctx, cancel := s.paths.bounded(ctx)
		defer cancel()
		r, _, err := s.GetBlob(ctx, types.BlobInfo{Digest: digest.Digest(want), Size: -1}, none.NoCache)
		if err != nil {
			return because(ctx, err)
		}
		defer r.Close()
		b, err = io.ReadAll(io.LimitReader(r, max+1))
		return because(ctx, err)
	})
	if err != nil {
		return nil, classify(s.name.String(), err)
	}
	if int64(len(b)) > max {
		return nil, image.Errorf(image.Invalid, "%s: blob %s is larger than %d bytes", s.name, want, max)
	}
	if manifest.Digest(b) != want {
		return nil, image.Errorf(image.Invalid, "%s: the registry sent %s for %s", s.name, manifest.Digest(b), want)
	}
	return b, nil
}

// classify gives a registry's error the code that the kubelet acts on.
func classify(name string, err error) error {
	var done *image.Error
	if errors.As(err, &done) {
		return done
	}
	var denied docker.ErrUnauthorizedForCredentials
	var code errcode.ErrorCoder
	coded := errors.As(err, &code)
	switch {
	case errors.Is(err, context.Canceled):
		return err // ours, not the registry's
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return image.Errorf(image.Internal, "%s: the node has no space for it: %v", name, err)
	case errors.As(err, &denied), coded && (code.ErrorCode() == errcode.ErrorCodeUnauthorized || code.ErrorCode() == errcode.ErrorCodeDenied):
		return image.Errorf(image.AuthFailed, "%s: the registry wants other credentials: %v", name, err)
	case notFound(err):
		return image.Errorf(image.NotFound, "%s: not found in the registry: %v", name, err)
	}
	return image.Errorf(image.Unavailable, "%s: %v", name, err)
}

func notFound(err error) bool {
	var code errcode.ErrorCoder
	if errors.As(err, &code) {
		switch c := code.ErrorCode(); {
		case c == v2.ErrorCodeManifestUnknown, c == v2.ErrorCodeNameUnknown, c == v2.ErrorCodeBlobUnknown:
			return true
		case c.Descriptor().HTTPStatusCode == http.StatusNotFound:
			return true
		}
	}
	var status docker.UnexpectedHTTPStatusError
	if errors.As(err, &status) && status.StatusCode == http.StatusNotFound {
		return true
	}
	return strings.Contains(err.Error(), "StatusCode: 404")
}
