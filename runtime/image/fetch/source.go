package fetch

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/containers/image/v5/docker"
	"github.com/containers/image/v5/docker/reference"
	"github.com/containers/image/v5/pkg/blobinfocache/none"
	"github.com/containers/image/v5/types"
	"github.com/docker/distribution/registry/api/errcode"
	v2 "github.com/docker/distribution/registry/api/v2"
	"github.com/opencontainers/go-digest"

	"github.com/postern-cri/postern/runtime/image"
	"github.com/postern-cri/postern/runtime/image/manifest"
)

// Paths says where the configuration of registries lies.
type Paths struct {
	RegistriesConf string // file; its directory of additions is beside it, with ".d"
	AuthFile       string
	None           string // a directory in which there is nothing
}

// DefaultRegistries is used where the node's configuration names no other.
const DefaultRegistries = "/etc/containers/registries.conf"

// system is the library's context: every place that it would look for by
// itself, in a home directory or the environment, is set.
func (p Paths) system(auth *image.Auth) *types.SystemContext {
	conf := p.RegistriesConf
	if conf == "" {
		conf = DefaultRegistries
		if _, err := os.Stat(conf); err != nil {
			conf = os.DevNull
		}
	}
	sys := &types.SystemContext{
		SystemRegistriesConfPath:    conf,
		SystemRegistriesConfDirPath: conf + ".d",
		RegistriesDirPath:           p.None + "/registries.d",
		UserShortNameAliasConfPath:  p.None + "/aliases.conf",
		BlobInfoCacheDir:            p.None,
		AuthFilePath:                p.AuthFile,
		DockerRegistryUserAgent:     "postern",
	}
	if p.AuthFile == "" {
		sys.AuthFilePath = p.None + "/auth.json"
	}
	if auth == nil {
		return sys
	}
	user, password := auth.Username, auth.Password
	if b, err := base64.StdEncoding.DecodeString(auth.Auth); user == "" && err == nil {
		user, password, _ = strings.Cut(strings.TrimRight(string(b), "\x00"), ":")
	}
	if user != "" || auth.IdentityToken != "" {
		sys.DockerAuthConfig = &types.DockerAuthConfig{Username: user, Password: password, IdentityToken: auth.IdentityToken}
	}
	sys.DockerBearerRegistryToken = auth.RegistryToken
	return sys
}

// source is one image in a registry.
type source struct {
	types.ImageSource
	sys  *types.SystemContext
	name reference.Named
}

func openSource(ctx context.Context, sys *types.SystemContext, name reference.Named) (*source, error) {
	ref, err := docker.NewReference(name)
	if err != nil {
		return nil, image.Errorf(image.Invalid, "%s: %v", name, err)
	}
	s, err := ref.NewImageSource(ctx, sys)
	if err != nil {
		return nil, classify(name.String(), err)
	}
	return &source{s, sys, name}, nil
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
	b, mediaType, err := s.GetManifest(ctx, d)
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

// blob opens a blob. No URL outside the repository is ever passed: credentials
// stay with the registry that they are for.
func (s *source) blob(ctx context.Context, want string) (io.ReadCloser, error) {
	r, _, err := s.GetBlob(ctx, types.BlobInfo{Digest: digest.Digest(want), Size: -1}, none.NoCache)
	if err != nil {
		return nil, classify(s.name.String(), err)
	}
	return r, nil
}

// smallBlob reads a blob of at most max bytes and checks its digest.
func (s *source) smallBlob(ctx context.Context, want string, max int64) ([]byte, error) {
	r, err := s.blob(ctx, want)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, max+1))
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
