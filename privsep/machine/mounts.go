package machine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/helper"
	"github.com/postern-cri/postern/privsep/label"
	"github.com/postern-cri/postern/privsep/mount"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/record"
	"github.com/postern-cri/postern/privsep/spec"
)

// layersOf returns the layers of an image as names of files, lowest first.
func layersOf(r *record.Record) []string {
	var out []string
	for _, l := range r.Layers {
		if hex, err := record.Hex(l.DiffID); err == nil { // record.Decode has checked it
			out = append(out, hex)
		}
	}
	return out
}

func union(a, b []string) []string {
	for _, s := range b {
		if !slices.Contains(a, s) {
			a = append(a, s)
		}
	}
	return a
}

// countLayers finds out which layers the containers of an earlier helper use.
func (m *Machine) countLayers() error {
	for _, id := range names(m.box("ctr")) {
		for _, hex := range m.readNote(id).Layers {
			m.layers[hex]++
		}
	}
	return nil
}

// holdLayers mounts what is not mounted yet. On an error none is held.
func (m *Machine) holdLayers(layers []string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, hex := range layers {
		if m.layers[hex] == 0 {
			if err := m.mountLayer(hex); err != nil {
				return errors.Join(err, m.releaseLayers(layers[:i]))
			}
		}
		m.layers[hex]++
	}
	return nil
}

// mountLayer mounts one layer, read-only, from the file that the verifier owns.
func (m *Machine) mountLayer(hex string) error {
	dir, err := mount.OpenRoot(m.Layout.Layers())
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	f, err := record.OpenOwned(dir, hex+".erofs", m.Users.Verify.UID)
	if err != nil {
		return fmt.Errorf("image layer: %w", err)
	}
	defer f.Close()
	at := m.box("layers", hex)
	if err := os.Mkdir(at, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("image layer: %w", err)
	}
	if err := mount.Unmount(at); err != nil { // one that a killed helper did not count
		return err
	}
	if err := mount.EROFS(f, at, imageLabel()); err != nil {
		return fmt.Errorf("image layer %s: %w", hex, err)
	}
	return nil
}

// imageLabel is the label of what containers share of images.
func imageLabel() string {
	if !label.Enabled() {
		return ""
	}
	return label.Image
}

// dropLayers gives a container's layers back, once: its note goes first.
func (m *Machine) dropLayers(layers []string, notePath string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := os.Remove(notePath); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	return m.releaseLayers(layers)
}

func (m *Machine) releaseLayers(layers []string) error {
	var errs []error
	for _, hex := range layers {
		if m.layers[hex]--; m.layers[hex] <= 0 {
			delete(m.layers, hex)
			errs = append(errs, removeTree(m.box("layers", hex)))
		}
	}
	return errors.Join(errs...)
}

// layerDirs returns where an image's layers are mounted. For a pod with a user
// namespace they are clones, at prefix, whose owners are mapped into it.
func (m *Machine) layerDirs(in helper.CtrIn, r *record.Record, prefix string) ([]string, error) {
	var out []string
	user, err := m.userNS(in)
	if err != nil {
		return nil, err
	}
	defer unix.Close(user)
	for i, hex := range layersOf(r) {
		dir := m.box("layers", hex)
		if user >= 0 {
			fd, err := mount.OpenRoot(dir)
			if err != nil {
				return nil, err
			}
			dir = prefix + strconv.Itoa(i)
			err = mount.Stage(fd, dir, mount.Attr{Private: true, UserNS: user})
			unix.Close(fd)
			if err != nil {
				return nil, err
			}
		}
		out = append(out, dir)
	}
	return out, nil
}

// userNS opens the pod's user namespace; -1 is the host's.
func (m *Machine) userNS(in helper.CtrIn) (int, error) {
	if !in.Pod.UserNS {
		return -1, nil
	}
	fd, err := unix.Open(m.box("pod", in.PodID, "user"), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return -1, fmt.Errorf("opening the pod's user namespace: %w", err)
	}
	return fd, nil
}

// rootfs puts a writable overlay over the image's layers.
func (m *Machine) rootfs(in helper.CtrIn, at, files string) error {
	r := in.Records[in.Plan.Image]
	if r == nil {
		return errors.New("no record of the image")
	}
	dir := m.state("ctr", in.ID)
	lower, err := m.layerDirs(in, r, m.box("ctr", in.ID, "layer"))
	if err != nil {
		return err
	}
	for _, d := range []string{"/upper", "/work"} {
		if err := os.Mkdir(dir+d, 0o755); err != nil {
			return err
		}
	}
	// The overlay's root is the upper directory: it has to look like the image's.
	var st unix.Stat_t
	if err := unix.Stat(lower[len(lower)-1], &st); err != nil {
		return err
	}
	if err := os.Chown(dir+"/upper", int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Chmod(dir+"/upper", st.Mode&0o7777); err != nil {
		return err
	}
	return mount.Overlay(lower, dir+"/upper", dir+"/work", at, files)
}

// stage resolves the source of every mount and clones it into the box, where no
// other uid can rename anything.
func (m *Machine) stage(in helper.CtrIn) ([]spec.Mount, error) {
	var out []spec.Mount
	for i := range in.Plan.Mounts {
		pm := &in.Plan.Mounts[i]
		at := m.box("ctr", in.ID, "m", strconv.Itoa(i))
		if err := m.stageOne(in, pm, at); err != nil {
			if k := pm.From.Root; errors.Is(err, os.ErrNotExist) && (k == plan.RootHostPath || k == plan.RootPodVolumes) {
				return nil, helper.Invalid("mount at %s: the host path does not exist. Fix: make it before the container", pm.To)
			}
			return nil, fmt.Errorf("mount at %s: %w", pm.To, err)
		}
		from := pm.From.Root // what is none of these has its label from us already
		out = append(out, spec.Mount{Source: at, To: pm.To, ReadOnly: pm.ReadOnly, RecursiveReadOnly: pm.RecursiveReadOnly,
			Propagation: pm.Propagation, NoExec: pm.NoExec, NoDev: pm.NoDev, NoSuid: pm.NoSuid,
			Relabel: from == plan.RootScratch || pm.Relabel && (from == plan.RootHostPath || from == plan.RootPodVolumes)})
	}
	return out, nil
}

// unstage takes the sources out of the box again when the container has mounts of
// its own. What stayed would be one more mount of each volume on the host: nobody
// could remove a directory there that something was mounted on.
func (m *Machine) unstage(id string) error {
	dir := m.box("ctr", id, "m")
	var errs []error
	for _, n := range names(dir) {
		p := filepath.Join(dir, n)
		// Out of its peer groups first: to unmount a peer unmounts the host's.
		if err := unix.Mount("", p, "", unix.MS_REC|unix.MS_PRIVATE, ""); err == unix.EINVAL {
			continue // not mounted
		} else if err != nil {
			errs = append(errs, fmt.Errorf("making %s private: %w", p, err))
			continue
		}
		errs = append(errs, mount.Unmount(p))
	}
	return errors.Join(errs...)
}

func (m *Machine) stageOne(in helper.CtrIn, pm *plan.Mount, at string) error {
	fd, err := m.source(in, pm, at)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	a := mount.Attr{ReadOnly: pm.ReadOnly, Recursive: pm.RecursiveReadOnly, NoExec: pm.NoExec, NoDev: pm.NoDev, NoSuid: pm.NoSuid,
		Private: pm.Propagation == plan.Private}
	if _, class, ok := m.Ceiling.Root(pm.From); ok && class != nil && class.ReadOnly {
		a.Recursive = true // a class is read-only with what is mounted in it
	}
	if in.Pod.UserNS && (pm.From.Root == plan.RootPodVolumes || pm.From.Root == plan.RootHostPath) {
		if a.UserNS, err = m.userNS(in); err != nil {
			return err
		}
		defer unix.Close(a.UserNS)
	}
	return mount.Stage(fd, at, a)
}

// source opens the place that a mount shows.
func (m *Machine) source(in helper.CtrIn, pm *plan.Mount, at string) (int, error) {
	from, dir := pm.From, ""
	links, create := false, false
	switch from.Root {
	case plan.RootPodVolumes:
		if in.Pod.UID == "" {
			return -1, errors.New("the pod has no uid, and so no volumes")
		}
		dir = filepath.Join(m.Ceiling.KubeletRoot, "pods", in.Pod.UID)
	case plan.RootHostPath:
		root, class, ok := m.Ceiling.Root(from)
		if !ok {
			return -1, fmt.Errorf("no host path %q", from.Name)
		}
		dir, links, create = root, class.Symlinks, class.Create && pm.MakeDir
	case plan.RootScratch:
		dir = m.state("ctr", in.ID, "scratch", from.Name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return -1, err
		}
		// A volume of the image: the container's user writes there.
		if err := errors.Join(os.Chmod(dir, 0o755), os.Chown(dir, hostID(in.Plan.User.UID, in.Pod.UIDs), hostID(in.Plan.User.GID, in.Pod.GIDs))); err != nil {
			return -1, err
		}
	case plan.RootPodFile:
		dir, from.Rel = m.box("pod", in.PodID, podEtc), from.Name
	case plan.RootPodShm:
		if dir = m.box("pod", in.PodID, "shm"); in.Pod.IPC == plan.NamespaceNode {
			dir = "/dev/shm"
		}
	case plan.RootImage:
		lower, err := m.layerDirs(in, in.Records[from.Name], at+".layer")
		if err != nil {
			return -1, err
		}
		if dir = lower[0]; len(lower) > 1 {
			dir = at + ".image"
			if err := os.Mkdir(dir, 0o700); err != nil {
				return -1, err
			}
			if err := mount.Overlay(lower, "", "", dir, imageLabel()); err != nil {
				return -1, err
			}
		}
	default:
		return -1, fmt.Errorf("root kind %d is not mounted", from.Root)
	}
	root, err := mount.OpenRoot(dir)
	if err != nil {
		return -1, err
	}
	defer unix.Close(root)
	fd, err := mount.Resolve(root, from.Rel, links)
	if errors.Is(err, os.ErrNotExist) && create {
		return mount.MakeDirs(root, from.Rel, links)
	}
	return fd, err
}

// hostID is the host's number of a uid or gid inside the pod.
func hostID(id uint32, maps []plan.IDMap) int {
	for _, m := range maps {
		if id >= m.Container && id-m.Container < m.Length {
			return int(m.Host + (id - m.Container))
		}
	}
	return int(id)
}

// devices looks at the host's nodes that a plan asks for.
func (m *Machine) devices(p *plan.Plan) ([]spec.Device, error) {
	var out []spec.Device
	root, err := mount.OpenRoot("/dev")
	if err != nil {
		return nil, err
	}
	defer unix.Close(root)
	for _, d := range p.Devices {
		fd, err := mount.Resolve(root, d.Host.Rel, true)
		if err != nil {
			return nil, fmt.Errorf("device %s: %w", d.Host.Rel, err)
		}
		var st unix.Stat_t
		err = unix.Fstat(fd, &st)
		unix.Close(fd)
		kind := st.Mode & unix.S_IFMT
		if err != nil || (kind != unix.S_IFCHR && kind != unix.S_IFBLK) {
			return nil, fmt.Errorf("device %s: not a device node (%v)", d.Host.Rel, err)
		}
		out = append(out, spec.Device{Path: d.To, Char: kind == unix.S_IFCHR, Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev),
			Permissions: d.Permissions, Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid})
	}
	return out, nil
}
