package fetch

import (
	"encoding/base64"
	"os"
	"strings"
	"time"

	"github.com/containers/image/v5/docker/reference"
	"github.com/containers/image/v5/pkg/sysregistriesv2"
	"github.com/containers/image/v5/types"

	"github.com/postern-cri/postern/runtime/image"
)

// Paths says where the configuration of registries lies.
type Paths struct {
	RegistriesConf string // file; its directory of additions is beside it, with ".d"
	AuthFile       string
	Certs          string        // a directory for each registry, as in certs.d
	None           string        // a directory in which there is nothing
	Stall          time.Duration // how long nothing may come from a registry
}

// DefaultRegistries is used where the node's configuration names no other.
const DefaultRegistries = "/etc/containers/registries.conf"

// endpoint is one place where an image can be had: a mirror, or where its name
// says.
type endpoint struct {
	ref reference.Named
	sys *types.SystemContext
}

// endpoints lists where registries.conf has name, mirrors first. The library
// could choose among them itself, but then it would stay with its choice for
// every blob, and it hands a bearer token that is for one of them to all.
func (p Paths) endpoints(name reference.Named, auth *image.Auth) ([]endpoint, error) {
	conf := p.RegistriesConf
	if conf == "" {
		conf = DefaultRegistries
		if _, err := os.Stat(conf); err != nil {
			conf = os.DevNull
		}
	}
	sys := &types.SystemContext{SystemRegistriesConfPath: conf, SystemRegistriesConfDirPath: conf + ".d"}
	find := func(name reference.Named) (*sysregistriesv2.Registry, error) {
		r, err := sysregistriesv2.FindRegistry(sys, name.Name())
		if err != nil {
			return nil, image.Errorf(image.Internal, "registries.conf: %v", err)
		}
		if r != nil && r.Blocked {
			return nil, image.Errorf(image.Policy, "%s: registries.conf blocks %s", name, r.Prefix)
		}
		return r, nil
	}
	r, err := find(name)
	if err != nil {
		return nil, err
	}
	if r == nil {
		sys, err := p.system(name, name, auth, false)
		return []endpoint{{name, sys}}, err
	}
	sources, err := r.PullSourcesFromReference(name)
	if err != nil {
		return nil, image.Errorf(image.Internal, "registries.conf: %s: %v", name, err)
	}
	var list []endpoint
	for _, src := range sources {
		if src.Reference.Name() != name.Name() {
			if _, err := find(src.Reference); err != nil { // a mirror can be in what is blocked
				return nil, err
			}
		}
		sys, err := p.system(name, src.Reference, auth, src.Endpoint.Insecure)
		if err != nil {
			return nil, err
		}
		list = append(list, endpoint{src.Reference, sys})
	}
	return list, nil
}

// system is the library's context for one endpoint: every place that it would
// look for by itself, in a home directory or the environment, is set.
func (p Paths) system(name, at reference.Named, auth *image.Auth, insecure bool) (*types.SystemContext, error) {
	sys := &types.SystemContext{
		SystemRegistriesConfPath:    os.DevNull,
		SystemRegistriesConfDirPath: p.None,
		RegistriesDirPath:           p.None + "/registries.d",
		UserShortNameAliasConfPath:  p.None + "/aliases.conf",
		BlobInfoCacheDir:            p.None,
		AuthFilePath:                p.AuthFile,
		DockerPerHostCertDirPath:    p.Certs,
		DockerRegistryUserAgent:     "postern",
		DockerInsecureSkipTLSVerify: types.NewOptionalBool(insecure),
	}
	if p.AuthFile == "" {
		sys.AuthFilePath = p.None + "/auth.json"
	}
	if p.Certs == "" {
		sys.DockerPerHostCertDirPath = p.None
	}
	// What the kubelet sends is for the registry that the image's name says, and for
	// no mirror of it.
	domain := reference.Domain(name)
	if auth == nil || reference.Domain(at) != domain || !meantFor(auth.ServerAddress, domain) {
		return sys, nil
	}
	user, password := auth.Username, auth.Password
	if user == "" && auth.Auth != "" {
		b, err := base64.StdEncoding.DecodeString(auth.Auth)
		if err != nil {
			return nil, image.Errorf(image.AuthFailed, "auth.auth: not base64 of user:password")
		}
		user, password, _ = strings.Cut(strings.TrimRight(string(b), "\x00"), ":")
	}
	if user != "" || auth.IdentityToken != "" {
		sys.DockerAuthConfig = &types.DockerAuthConfig{Username: user, Password: password, IdentityToken: auth.IdentityToken}
	}
	sys.DockerBearerRegistryToken = auth.RegistryToken
	return sys, nil
}

// meantFor says whether credentials with a server address, as docker's
// configuration writes it, are for a registry. One that is not said is the
// image's own.
func meantFor(server, domain string) bool {
	if server == "" {
		return true
	}
	if _, rest, ok := strings.Cut(server, "://"); ok {
		server = rest
	}
	server, _, _ = strings.Cut(server, "/")
	return canonical(server) == canonical(domain)
}

func canonical(host string) string {
	host = strings.TrimSuffix(strings.ToLower(host), ":443")
	switch host {
	case "index.docker.io", "registry-1.docker.io":
		return "docker.io"
	}
	return host
}
