package convert

import (
	"strings"

	"github.com/postern-cri/postern/runtime/image/erofs"
)

// node is one name of the layer: a directory, a written inode, or a whiteout.
type node struct {
	dir      *dir
	inode    erofs.Inode
	kind     uint16 // type bits
	whiteout bool
}

// dir is a directory of the layer.
type dir struct {
	attr   erofs.Attr
	opaque bool
	names  map[string]*node
}

// tree is the layer as read so far. No path is ever looked up anywhere else.
type tree struct {
	root  *dir
	count int
	max   int

	lastPath string // the directory of the last entry: archives are sorted
	lastDir  *dir
}

const maxPath = 4096

func newTree(max int) *tree {
	return &tree{root: &dir{attr: erofs.Attr{Mode: erofs.ModeDir | 0o755}, names: map[string]*node{}}, max: max}
}

// clean splits an entry's name into its directory and its last element; both are
// empty for the root. What is not plainly beneath the root is refused, even
// where it would lead back.
func clean(name string) (parent, base, reason string) {
	if name == "/" {
		return "", "", ""
	}
	switch {
	case name == "":
		return "", "", "no name"
	case name[0] == '/':
		return "", "", "absolute name"
	case len(name) > maxPath:
		return "", "", "name longer than 4096 bytes"
	case strings.IndexByte(name, 0) >= 0:
		return "", "", "name with a zero byte"
	}
	parts := strings.Split(name, "/")
	kept := parts[:0]
	for _, p := range parts {
		switch {
		case p == "" || p == ".":
			continue
		case p == "..":
			return "", "", `name with ".."`
		case len(p) > erofs.MaxName:
			return "", "", "name element longer than 255 bytes"
		}
		kept = append(kept, p)
	}
	if len(kept) == 0 {
		return "", "", ""
	}
	return strings.Join(kept[:len(kept)-1], "/"), kept[len(kept)-1], ""
}

// enter returns the directory at path and makes those that no entry announced.
// A parent that is anything but a directory is refused: following a symlink is
// what every unpacking hole was made of, and overlayfs would not follow it.
func (t *tree) enter(path string) (*dir, string) {
	if t.lastDir != nil && path == t.lastPath {
		return t.lastDir, ""
	}
	d := t.root
	for rest := path; rest != ""; {
		name := rest
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			name, rest = rest[:i], rest[i+1:]
		} else {
			rest = ""
		}
		n := d.names[name]
		switch {
		case n == nil || n.whiteout:
			if t.count++; n == nil && t.count > t.max {
				return nil, "too many entries"
			}
			sub := &dir{attr: implied(path[:len(path)-len(rest)]), names: map[string]*node{}, opaque: n != nil}
			d.names[name] = &node{dir: sub, kind: erofs.ModeDir}
			d = sub
		case n.dir != nil:
			d = n.dir
		case n.kind == erofs.ModeSymlink:
			return nil, "its parent " + name + " is a symlink in this layer"
		default:
			return nil, "its parent " + name + " is not a directory"
		}
	}
	t.lastPath, t.lastDir = path, d
	return d, ""
}

// implied are the attributes of a directory without an entry of its own. In
// overlayfs they hide those of the layers beneath, hence the two exceptions.
func implied(path string) erofs.Attr {
	a := erofs.Attr{Mode: erofs.ModeDir | 0o755}
	switch strings.TrimRight(path, "/") {
	case "tmp", "var/tmp":
		a.Mode = erofs.ModeDir | 0o1777
	case "root":
		a.Mode = erofs.ModeDir | 0o700
	}
	return a
}

// put sets name in d; the last entry of a name wins. A directory stays one when
// an entry only describes it again; anything else takes the name's place with
// all that was beneath it.
func (t *tree) put(d *dir, name string, n *node) string {
	old := d.names[name]
	if old == nil {
		if t.count++; t.count > t.max {
			return "too many entries"
		}
	}
	switch {
	case old == nil:
	case n.dir != nil && old.dir != nil:
		old.dir.attr = n.dir.attr
		return ""
	case n.dir != nil && old.whiteout:
		n.dir.opaque = true
	case n.whiteout && old.dir != nil:
		// The name beneath is hidden; this layer's directory stays.
		old.dir.opaque = true
		return ""
	case n.whiteout && !old.whiteout:
		return "" // a file hides the name beneath anyway
	}
	d.names[name] = n
	if old != nil && old.dir != nil {
		t.lastDir = nil // it may have been in what was replaced
	}
	return ""
}

// find returns the node of a path within the layer, or nil.
func (t *tree) find(parent, base string) *node {
	d := t.root
	for _, name := range strings.Split(parent, "/") {
		if name == "" {
			continue
		}
		n := d.names[name]
		if n == nil || n.dir == nil {
			return nil
		}
		d = n.dir
	}
	return d.names[base]
}
