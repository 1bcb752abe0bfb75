// Package config reads postern.toml. Decoding is strict: a key that is not known
// is an error that names it, its line and the key that was probably meant,
// because a misspelt setting that is silently ignored is a setting that does not
// hold.
//
// Every process reads the file itself, as root's, before it drops its rights.
package config

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/postern-cri/postern/runtime/ulimit"
)

// Config is postern.toml.
type Config struct {
	Profile string  `toml:"profile"` // restricted, baseline or conformance
	Stream  Stream  `toml:"stream"`
	Image   Image   `toml:"image"`
	Network Network `toml:"network"`
	Kubelet Kubelet `toml:"kubelet"`
	Stop    Stop    `toml:"stop"`

	Container Container `toml:"container"`
	Log       Log       `toml:"log"`
	Users     Users     `toml:"users"`
	Policy    Policy    `toml:"policy"`
	Ceiling   Ceiling   `toml:"ceiling"`
	Trust     Trust     `toml:"trust"`
	Kernel    Kernel    `toml:"kernel"`
}

// Stream is where exec, attach and port-forward are served.
type Stream struct {
	Address string `toml:"address"` // host:port, port 0 for any
}

// Image is how images are pulled.
type Image struct {
	RegistriesConf    string   `toml:"registries_conf"` // registries.conf; empty for the system's
	AuthFile          string   `toml:"auth_file"`       // credentials where the kubelet sends none
	CertsDir          string   `toml:"certs_dir"`       // CAs and client certificates by registry; empty for the system's certs.d
	Pinned            []string `toml:"pinned"`          // references that garbage collection must leave
	MaxParallelLayers int      `toml:"max_parallel_layers"`
	ShortNames        string   `toml:"short_names"` // "refuse", or "docker.io" to complete them so

	StallTimeout time.Duration `toml:"stall_timeout"` // a pull of which nothing comes for so long is ended
}

// Network is where CNI finds its configuration and plugins; both are root's.
type Network struct {
	ConfDir string   `toml:"conf_dir"`
	BinDirs []string `toml:"bin_dirs"`
}

// Kubelet is where the kubelet keeps the volumes of pods.
type Kubelet struct {
	Root string `toml:"root"`
}

// Stop is what happens to containers when `postern up` ends.
type Stop struct {
	OnStop string `toml:"on_stop"` // "leave" or "kill"
}

// Container is what every container gets that CRI cannot say.
type Container struct {
	Ulimits []string `toml:"ulimits"` // name=soft:hard
}

// Log is how container logs are written.
type Log struct {
	MaxLine int `toml:"max_line"` // bytes; longer lines are split
}

// Users are the uids of the processes where /etc/passwd does not name them.
type Users struct {
	Base uint32 `toml:"base"` // first of eight
}

// Policy overrides what fills etc/policy.
type Policy struct {
	Pack string `toml:"pack"` // of the shipped ones; empty for the profile's
	Dir  string `toml:"dir"`  // one's own files, in place of a pack
}

// Ceiling overrides ceiling.toml.
type Ceiling struct {
	File string `toml:"file"`
}

// Trust overrides trust.toml.
type Trust struct {
	File string `toml:"file"`
}

// Kernel says what a kernel must have.
type Kernel struct {
	Landlock string `toml:"landlock"` // "required", or "optional": up and check warn, and do not refuse, where the kernel has none
}

// Profiles are the names that profile takes.
var Profiles = []string{"restricted", "baseline", "conformance"}

// Default is the configuration where the file says nothing.
func Default() Config {
	return Config{
		Profile: "baseline",
		Stream:  Stream{Address: "127.0.0.1:0"},
		Image:   Image{MaxParallelLayers: 3, ShortNames: "refuse", StallTimeout: time.Minute},
		Network: Network{ConfDir: "/etc/cni/net.d", BinDirs: []string{"/opt/cni/bin", "/usr/lib/cni"}},
		Kubelet: Kubelet{Root: "/var/lib/kubelet"},
		Stop:    Stop{OnStop: "leave"},
		Log:     Log{MaxLine: 16 << 10},
		Users:   Users{Base: 64500},
		Kernel:  Kernel{Landlock: "required"},
	}
}

// Load reads the file at path.
func Load(path string) (Config, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Config{}, err
	}
	return Parse(filepath.Base(path), b)
}

// Parse reads text; name is for errors. All errors are returned, joined, one a
// line.
func Parse(name string, text []byte) (Config, error) {
	c := Default()
	md, err := toml.Decode(string(text), &c)
	if err != nil {
		var pe toml.ParseError
		if errors.As(err, &pe) {
			return c, fmt.Errorf("%s: line %d: %s", name, pe.Position.Line, strings.TrimPrefix(pe.Message, "toml: "))
		}
		return c, fmt.Errorf("%s: %s", name, wrongType(err))
	}
	var errs []error
	seen := map[string]bool{}
	for _, k := range md.Undecoded() {
		if len(k) > 1 && seen[strings.Join(k[:len(k)-1], ".")] {
			continue // its table was named already
		}
		seen[k.String()] = true
		errs = append(errs, unknown(name, string(text), k))
	}
	for _, p := range c.problems() {
		errs = append(errs, fmt.Errorf("%s: %s", name, p))
	}
	return c, errors.Join(errs...)
}

// problems are values that cannot be.
func (c Config) problems() (out []string) {
	oneOf := func(key, v string, allowed ...string) {
		for _, a := range allowed {
			if v == a {
				return
			}
		}
		out = append(out, fmt.Sprintf("%s = %q: must be one of %q%s", key, v, allowed, meant(v, allowed)))
	}
	absolute := func(key, path string) {
		if path != "" && (!filepath.IsAbs(path) || filepath.Clean(path) != path) {
			out = append(out, fmt.Sprintf("%s = %q: must be an absolute path without \"..\"", key, path))
		}
	}
	within := func(key string, v, low, high int) {
		if v < low || v > high {
			out = append(out, fmt.Sprintf("%s = %d: must be from %d to %d", key, v, low, high))
		}
	}
	oneOf("profile", c.Profile, Profiles...)
	oneOf("image.short_names", c.Image.ShortNames, "refuse", "docker.io")
	oneOf("stop.on_stop", c.Stop.OnStop, "leave", "kill")
	oneOf("kernel.landlock", c.Kernel.Landlock, "required", "optional")
	if _, err := netip.ParseAddrPort(c.Stream.Address); err != nil {
		out = append(out, fmt.Sprintf("stream.address = %q: must be address:port with a numeric address, like \"127.0.0.1:0\"", c.Stream.Address))
	}
	absolute("image.registries_conf", c.Image.RegistriesConf)
	absolute("image.auth_file", c.Image.AuthFile)
	absolute("image.certs_dir", c.Image.CertsDir)
	absolute("network.conf_dir", c.Network.ConfDir)
	for _, d := range c.Network.BinDirs {
		absolute("network.bin_dirs", d)
	}
	absolute("kubelet.root", c.Kubelet.Root)
	for _, u := range c.Container.Ulimits {
		if _, err := ulimit.Parse(u); err != nil {
			out = append(out, fmt.Sprintf("container.ulimits: %v", err))
		}
	}
	absolute("policy.dir", c.Policy.Dir)
	absolute("ceiling.file", c.Ceiling.File)
	absolute("trust.file", c.Trust.File)
	within("image.max_parallel_layers", c.Image.MaxParallelLayers, 1, 16)
	if c.Image.StallTimeout < time.Second || c.Image.StallTimeout > time.Hour {
		out = append(out, fmt.Sprintf("image.stall_timeout = %q: must be from \"1s\" to \"1h\"", c.Image.StallTimeout))
	}
	within("log.max_line", c.Log.MaxLine, 256, 1<<20)
	within("users.base", int(c.Users.Base), 1000, 1<<31-100)
	if c.Policy.Pack != "" && c.Policy.Dir != "" {
		out = append(out, "policy.pack and policy.dir exclude one another: remove one")
	}
	return out
}
