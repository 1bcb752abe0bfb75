// Package mount assembles what a container sees of the host: image layers, the
// writable overlay, and bind mounts of places beneath known roots.
//
// Rules of this package:
//   - a source is resolved once, beneath a root fd, and from then on it is an
//     fd: a name that was checked is never opened again;
//   - magic links are never followed, symlinks only where the root's class says
//     so, and never out of the root;
//   - attributes are set on a detached tree before anybody can see it;
//   - everything is attached in the helper's box, a private mount that only root
//     can enter.
package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// OpenRoot opens a root directory as an O_PATH fd.
func OpenRoot(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open root", Path: path, Err: err}
	}
	return fd, nil
}

// Resolve opens rel beneath root as an O_PATH fd. With symlinks, links are
// followed as long as they stay beneath root (absolute ones are taken as
// absolute inside root); without, any link is an error.
//
// Expected syscalls: openat2, in a loop where the tree is being renamed.
func Resolve(root int, rel string, symlinks bool) (int, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_MAGICLINKS}
	if symlinks {
		how.Resolve |= unix.RESOLVE_IN_ROOT
	} else {
		how.Resolve |= unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS
	}
	if rel == "" {
		rel = "."
	}
	for range 32 {
		fd, err := unix.Openat2(root, rel, &how)
		if err == unix.EAGAIN || err == unix.EINTR { // a rename raced with the walk
			continue
		}
		if err != nil {
			return -1, &os.PathError{Op: "openat2", Path: rel, Err: err}
		}
		return fd, nil
	}
	return -1, &os.PathError{Op: "openat2", Path: rel, Err: unix.EAGAIN}
}

// MakeDirs makes the directories of rel beneath root, mode 0755, and returns an
// O_PATH fd of the last. Existing ones are kept; a link is an error unless
// symlinks says otherwise.
//
// Expected syscalls: openat2, mkdirat.
func MakeDirs(root int, rel string, symlinks bool) (int, error) {
	dir, err := Resolve(root, "", symlinks)
	if err != nil {
		return -1, err
	}
	at := ""
	for _, part := range strings.Split(rel, "/") {
		if part == "" {
			continue
		}
		err := mkdirat(dir, part)
		unix.Close(dir)
		if err != nil && err != unix.EEXIST {
			return -1, &os.PathError{Op: "mkdirat", Path: rel, Err: err}
		}
		at = filepath.Join(at, part)
		// From the root again: the walk may have to follow a link that leads up
		// and down again beneath it.
		if dir, err = Resolve(root, at, symlinks); err != nil {
			return -1, err
		}
	}
	return dir, nil
}

// mkdirat makes a directory of mode 0755 on a thread with a umask of its own:
// the process's is 077, and to change the mode afterwards would mean to name a
// directory that another may have replaced.
func mkdirat(dir int, name string) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_FS)
		if err == nil {
			unix.Umask(0o022)
			err = unix.Mkdirat(dir, name, 0o755)
		}
		done <- err
	}()
	return <-done
}

// Attr are attributes set on a staged tree.
type Attr struct {
	ReadOnly  bool
	Recursive bool // ReadOnly for every mount below, too
	NoExec    bool
	NoDev     bool
	NoSuid    bool
	Private   bool // take the tree out of its peer group: no propagation either way
	UserNS    int  // fd of the user namespace that owners are mapped into, 0 is none; the top mount alone
}

// Stage clones the tree at fd and attaches it at target, a path in the box that
// must not exist: it is made as a file or directory, as the source is.
//
// Expected syscalls: fstat, open_tree, mount_setattr, openat or mkdirat, move_mount.
func Stage(fd int, target string, a Attr) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("fstat of a mount source: %w", err)
	}
	tree, err := unix.OpenTree(fd, "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return fmt.Errorf("cloning a mount source: %w", err)
	}
	defer unix.Close(tree)
	if err := setAttr(tree, a); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		err = os.Mkdir(target, 0o700)
	} else {
		var f *os.File
		if f, err = os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600); err == nil {
			f.Close()
		}
	}
	if err != nil {
		return fmt.Errorf("staging a mount: %w", err)
	}
	if err := attach(tree, target); err != nil {
		return errors.Join(err, os.Remove(target))
	}
	return nil
}

func setAttr(tree int, a Attr) error {
	set := func(flags uint, m unix.MountAttr) error {
		if m == (unix.MountAttr{}) {
			return nil
		}
		if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|flags, &m); err != nil {
			return fmt.Errorf("setting mount attributes: %w", err)
		}
		return nil
	}
	var m, prop unix.MountAttr
	if a.ReadOnly {
		m.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if a.NoExec {
		m.Attr_set |= unix.MOUNT_ATTR_NOEXEC
	}
	if a.NoDev {
		m.Attr_set |= unix.MOUNT_ATTR_NODEV
	}
	if a.NoSuid {
		m.Attr_set |= unix.MOUNT_ATTR_NOSUID
	}
	if a.Private {
		prop.Propagation = unix.MS_PRIVATE
	}
	flags := uint(0)
	if a.Recursive {
		flags = unix.AT_RECURSIVE
	}
	if err := set(unix.AT_RECURSIVE, prop); err != nil {
		return err
	}
	if a.UserNS != 0 {
		if err := set(0, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(a.UserNS)}); err != nil {
			return fmt.Errorf("mapping owners (the file system must support id-mapped mounts): %w", err)
		}
	}
	return set(flags, m)
}

func attach(tree int, target string) error {
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("attaching a mount at %s: %w", target, err)
	}
	return nil
}

// Box makes dir, binds it on itself and makes it private, once, so that nothing
// mounted beneath it is seen in a peer.
func Box(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the box: %w", err)
	}
	mounted, err := Beneath(dir)
	if err != nil {
		return err
	}
	for _, m := range mounted {
		if m == dir {
			return nil
		}
	}
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("binding the box on itself: %w", err)
	}
	if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making the box private: %w", err)
	}
	return nil
}

// Beneath returns the mount points at and beneath dir, deepest and latest first,
// so that unmounting in order works.
func Beneath(dir string) ([]string, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("reading the mount table: %w", err)
	}
	var out []string
	for _, l := range strings.Split(string(b), "\n") {
		f := strings.Fields(l)
		if len(f) < 5 {
			continue
		}
		p := unescape(f[4])
		if p == dir || strings.HasPrefix(p, dir+"/") {
			out = append(out, p)
		}
	}
	for i, j := 0, len(out)-1; i < j; i, j = i+1, j-1 {
		out[i], out[j] = out[j], out[i]
	}
	return out, nil
}

func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// Unmount detaches what is mounted at path; nothing mounted there is fine.
func Unmount(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return fmt.Errorf("unmounting %s: %w", path, err)
	}
	return nil
}

// UnmountBeneath detaches everything mounted at and beneath dir. It names only
// the topmost mounts, which are attached in directories of ours: what is mounted
// in a staged tree goes with it. A path through such a tree could be turned into
// another place by whoever writes to it.
func UnmountBeneath(dir string) error {
	for range 64 { // as many as are stacked on one another
		all, err := Beneath(dir)
		if err != nil || len(all) == 0 {
			return err
		}
		for _, p := range topmost(all) {
			// A staged tree's mounts are peers of the host's: unmounting one of them
			// would unmount the host's, too. So all of them leave their peer groups
			// first.
			if err := unix.Mount("", p, "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil && err != unix.EINVAL && err != unix.ENOENT {
				return fmt.Errorf("making %s private: %w", p, err)
			}
			if err := Unmount(p); err != nil {
				return err
			}
		}
	}
	return fmt.Errorf("%s: something is still mounted there", dir)
}

// topmost returns the mount points that are beneath no other, each once.
func topmost(all []string) []string {
	sort.Strings(all) // a directory sorts before what is in it
	var out []string
	for _, p := range all {
		if !slices.ContainsFunc(out, func(o string) bool { return p == o || strings.HasPrefix(p, o+"/") }) {
			out = append(out, p)
		}
	}
	return out
}
