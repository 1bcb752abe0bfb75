// Package cdi reads CDI specifications: files of the node's operator, or of a
// device driver of the node's, that say what a container needs to use a device.
//
// A specification adds nothing by itself. What it asks for becomes part of the
// container's plan, where ceiling and policy judge every device, mount and variable
// like one that the pod asked for. What a plan has no words for is refused by name:
// hooks above all, which are programs that root runs.
//
// The files must be root's and only root's to write, and so must their directory.
package cdi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/layout"
)

// Dirs are the directories of specifications; the later one counts where two have a
// device of one name.
func Dirs(l layout.Layout) []string {
	if l == layout.New("") {
		return []string{"/etc/cdi", "/run/cdi"} // the second is better known as /var/run/cdi
	}
	return []string{filepath.Join(l.Etc, "cdi"), filepath.Join(l.Run, "cdi")}
}

const (
	maxFile  = 1 << 20
	maxFiles = 256
)

// Edits is what a container gets with a device.
type Edits struct {
	Env     []string     `json:"env"`
	Devices []DeviceNode `json:"deviceNodes"`
	Mounts  []Mount      `json:"mounts"`
	GIDs    []uint32     `json:"additionalGids"`

	// What no plan can say.
	Hooks      []json.RawMessage `json:"hooks"`
	IntelRDT   json.RawMessage   `json:"intelRdt"`
	NetDevices []json.RawMessage `json:"netDevices"`
}

// DeviceNode is a node of the host. Kind, number, mode and owner are the host's own:
// others are refused.
type DeviceNode struct {
	Path        string  `json:"path"`
	HostPath    string  `json:"hostPath"`
	Permissions string  `json:"permissions"`
	Type        string  `json:"type"`
	Major       *int64  `json:"major"`
	Minor       *int64  `json:"minor"`
	FileMode    *uint32 `json:"fileMode"`
	UID         *uint32 `json:"uid"`
	GID         *uint32 `json:"gid"`
}

// Mount is a file or directory of the host.
type Mount struct {
	HostPath      string   `json:"hostPath"`
	ContainerPath string   `json:"containerPath"`
	Options       []string `json:"options"`
	Type          string   `json:"type"`
}

type spec struct {
	Version     string            `json:"cdiVersion"`
	Kind        string            `json:"kind"`
	Annotations map[string]string `json:"annotations"`
	Devices     []device          `json:"devices"`
	Edits       Edits             `json:"containerEdits"`
}

type device struct {
	Name        string            `json:"name"`
	Annotations map[string]string `json:"annotations"`
	Edits       Edits             `json:"containerEdits"`
}

// In returns Find for the specifications in dirs.
func In(dirs []string) func(name string) ([]Edits, error) {
	return func(name string) ([]Edits, error) { return Find(dirs, name) }
}

// Find returns what the device vendor/class=name needs: the edits of its
// specification, then its own.
func Find(dirs []string, name string) ([]Edits, error) {
	kind, short, ok := strings.Cut(name, "=")
	if !ok {
		return nil, fmt.Errorf("%q is not vendor/class=name", name)
	}
	for i := len(dirs) - 1; i >= 0; i-- {
		found, err := findIn(dirs[i], kind, short)
		if err != nil || found != nil {
			return found, err
		}
	}
	return nil, fmt.Errorf("CDI device %q is in no specification in %s", name, strings.Join(dirs, " or "))
}

func findIn(dir, kind, name string) ([]Edits, error) {
	d, err := open(dir, unix.S_IFDIR)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer d.Close()
	files, err := d.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	if len(files) > maxFiles {
		return nil, fmt.Errorf("%s: more than %d files", dir, maxFiles)
	}
	var found []Edits
	var in string
	for _, f := range files {
		ext := filepath.Ext(f.Name())
		if ext != ".json" && ext != ".yaml" {
			continue
		}
		path := filepath.Join(dir, f.Name())
		s, err := read(path)
		if err != nil {
			return nil, err // it may be the one that is asked for
		}
		if s.Kind != kind {
			continue
		}
		for _, v := range s.Devices {
			if v.Name != name {
				continue
			}
			if found != nil {
				return nil, fmt.Errorf("CDI device %s=%s is in %s and in %s: remove one", kind, name, in, path)
			}
			for _, e := range []*Edits{&s.Edits, &v.Edits} {
				if err := e.check(); err != nil {
					return nil, fmt.Errorf("CDI device %s=%s: %s: %w", kind, name, path, err)
				}
			}
			found, in = []Edits{s.Edits, v.Edits}, path
		}
	}
	return found, nil
}

// check refuses what no plan can say.
func (e *Edits) check() error {
	switch {
	case len(e.Hooks) > 0:
		return errors.New("hooks: a hook is a program that root would run; make the specification without hooks")
	case e.IntelRDT != nil && !bytes.Equal(e.IntelRDT, []byte("null")):
		return errors.New("intelRdt is not supported")
	case len(e.NetDevices) > 0:
		return errors.New("netDevices are not supported")
	}
	for _, m := range e.Mounts {
		if m.Type != "" && m.Type != "bind" && m.Type != "none" {
			return fmt.Errorf("mounts: type %q: only files and directories of the host can be mounted", m.Type)
		}
	}
	for _, d := range e.Devices {
		if err := d.check(); err != nil {
			return err
		}
	}
	return nil
}

// Host is the node on the host.
func (d *DeviceNode) Host() string {
	if d.HostPath != "" {
		return d.HostPath
	}
	return d.Path
}

// check compares what the specification says of the node with the node.
func (d *DeviceNode) check() error {
	if d.Type == "" && d.Major == nil && d.Minor == nil && d.FileMode == nil && d.UID == nil && d.GID == nil {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Stat(d.Host(), &st); err != nil {
		return fmt.Errorf("deviceNodes: %s: %w", d.Host(), err)
	}
	kind := map[uint32]string{unix.S_IFCHR: "c", unix.S_IFBLK: "b"}[st.Mode&unix.S_IFMT]
	if d.Type != "" && d.Type != kind && (d.Type != "u" || kind != "c") {
		return fmt.Errorf("deviceNodes: %s: type %q, the host's is %q", d.Host(), d.Type, kind)
	}
	for _, f := range []struct {
		name string
		want *int64
		is   int64
	}{
		{"major", d.Major, int64(unix.Major(st.Rdev))}, {"minor", d.Minor, int64(unix.Minor(st.Rdev))},
		{"fileMode", wide(d.FileMode), int64(st.Mode & 0o7777)}, {"uid", wide(d.UID), int64(st.Uid)}, {"gid", wide(d.GID), int64(st.Gid)},
	} {
		if f.want != nil && *f.want != f.is {
			return fmt.Errorf("deviceNodes: %s: %s %d, the host's is %d, and a container gets the host's", d.Host(), f.name, *f.want, f.is)
		}
	}
	return nil
}

func wide(v *uint32) *int64 {
	if v == nil {
		return nil
	}
	n := int64(*v)
	return &n
}

// open opens a file or directory of root's that nobody else can write.
func open(path string, kind uint32) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("reading CDI specifications: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		f.Close()
		return nil, fmt.Errorf("reading CDI specifications: %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != kind || st.Uid != 0 || st.Mode&0o022 != 0 {
		f.Close()
		return nil, fmt.Errorf("CDI specifications: %s: mode %o of uid %d: it must be root's, and only root's to write", path, st.Mode&0o7777, st.Uid)
	}
	return f, nil
}

func read(path string) (*spec, error) {
	f, err := open(path, unix.S_IFREG)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("%s: longer than %d bytes", path, maxFile)
	}
	s, err := parse(b, filepath.Ext(path) == ".yaml")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// parse reads a specification. A key that we do not know is an error: it may be a
// promise to the container's author.
func parse(b []byte, isYAML bool) (*spec, error) {
	if isYAML {
		var v any
		if err := yaml.Unmarshal(b, &v); err != nil {
			return nil, err
		}
		var err error
		if b, err = json.Marshal(v); err != nil {
			return nil, err
		}
	}
	s := &spec{}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(s); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("bytes after its end")
	}
	if s.Kind == "" || s.Version == "" {
		return nil, errors.New("no cdiVersion or kind")
	}
	return s, nil
}
