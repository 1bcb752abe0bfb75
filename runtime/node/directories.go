package node

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/postern-cri/postern/privsep/ceiling"
	"github.com/postern-cri/postern/privsep/layout"
	"github.com/postern-cri/postern/runtime/cdi"
)

// directory is one to make, with its owner and mode.
type directory struct {
	path string
	mode os.FileMode
	id   layout.ID
}

// directories lists them, parents first. Those above a daemon's own belong to
// root and cannot be listed or written by others: a daemon cannot put anything
// where another looks for it.
func directories(root string, l layout.Layout, u layout.Users) []directory {
	none := layout.ID{}
	shared := layout.ID{UID: u.Verify.UID, GID: u.Front.GID}
	list := []directory{
		{l.Etc, 0o755, none}, {l.Policy(), 0o755, none}, {l.TrustDir(), 0o755, none}, {l.Seccomp(), 0o755, none},
		{l.Run, 0o711, none}, {filepath.Dir(l.HelperSocket()), 0o711, none}, {l.Box(), 0o700, none},
		{l.Lib, 0o711, none}, {l.BoxState(), 0o700, none}, {l.Log, 0o700, none},
		{l.FrontState(), 0o700, u.Front}, {l.FetchState(), 0o700, u.Fetch},
		{l.Records(), 0o750, shared}, {l.Layers(), 0o750, shared},
		{l.AuditLog(), 0o700, u.Audit}, {l.PolicyState(), 0o700, u.Policy},
	}
	if root != "" {
		list = append([]directory{{root, 0o711, none}}, list...)
	}
	return list
}

// make creates the directory or corrects its owner and mode. A symbolic link is
// not followed: it would let its owner choose what is given away.
func (d directory) make() error {
	if err := os.MkdirAll(d.path, 0o711); err != nil {
		return err
	}
	st, err := os.Lstat(d.path)
	if err != nil {
		return err
	}
	if !st.IsDir() {
		return fmt.Errorf("%s is not a directory", d.path)
	}
	if err := os.Lchown(d.path, int(d.id.UID), int(d.id.GID)); err != nil {
		return err
	}
	return os.Chmod(d.path, d.mode)
}

// makeLogRoots makes the directories that the ceiling permits for containers'
// logs. The helper makes pods' directories beneath them, but never these; a
// kubelet makes its own only when it first starts.
func makeLogRoots(path string) error {
	c, err := ceiling.Load(path)
	if err != nil {
		return err
	}
	for _, r := range c.LogRoots {
		if err := os.MkdirAll(r.Path, 0o755); err != nil {
			return fmt.Errorf("making the log root %s: %w", r.Name, err)
		}
	}
	return nil
}

// makeSpecifications makes the directories of CDI specifications: the front end is
// given what is there when it starts, and a device's driver may come later.
func makeSpecifications(l layout.Layout) error {
	for _, d := range cdi.Dirs(l) {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("making a directory of CDI specifications: %w", err)
		}
	}
	return nil
}

// passable finds the first ancestor of path that other users cannot enter.
func passable(path string) error {
	for d := filepath.Dir(path); ; d = filepath.Dir(d) {
		if st, err := os.Stat(d); err == nil && st.Mode().Perm()&0o001 == 0 {
			return fmt.Errorf("%s cannot be entered by the processes' users: chmod o+x it, or choose another --root", d)
		}
		if d == "/" || d == "." {
			return nil
		}
	}
}

// replaceFile writes a file so that a reader sees the old or the new one.
func replaceFile(path string, b []byte, mode os.FileMode) error {
	tmp := path + ".tmp"
	os.Remove(tmp)
	if err := os.WriteFile(tmp, b, mode); err != nil {
		return err
	}
	if err := os.Chmod(tmp, mode); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
