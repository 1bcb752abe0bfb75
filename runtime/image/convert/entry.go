package convert

import (
	"archive/tar"
	"math"
	"sort"
	"strings"

	"github.com/postern-cri/postern/runtime/image/erofs"
)

const (
	whiteoutPrefix = ".wh."
	opaqueName     = ".wh..wh..opq"
	metaPrefix     = ".wh..wh." // of an older union filesystem: bookkeeping, no files
	xattrPrefix    = "SCHILY.xattr."
)

// entry adds one entry of the archive to the image and the tree.
func (c *converter) entry(h *tar.Header) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	refuse := func(reason string) error { return &EntryError{h.Name, reason} }
	parent, base, reason := clean(h.Name)
	if reason != "" {
		return refuse(reason)
	}
	if base == "" {
		if h.Typeflag != tar.TypeDir {
			return refuse("the root can only be a directory")
		}
		a, reason := attrOf(h, erofs.ModeDir)
		if reason != "" {
			return refuse(reason)
		}
		c.tree.root.attr = a
		return nil
	}
	d, reason := c.tree.enter(parent)
	if reason != "" {
		return refuse(reason)
	}
	if strings.HasPrefix(base, whiteoutPrefix) {
		if reason := c.whiteout(d, base); reason != "" {
			return refuse(reason)
		}
		return nil
	}
	n, reason, err := c.node(h, parent)
	if err != nil {
		return err
	}
	if reason == "" && n != nil {
		reason = c.tree.put(d, base, n)
	}
	if reason != "" {
		return refuse(reason)
	}
	return nil
}

func (c *converter) whiteout(d *dir, base string) string {
	switch {
	case base == opaqueName && d == c.tree.root:
		return "overlayfs cannot hide the root of the layers beneath"
	case base == opaqueName:
		d.opaque = true
		return ""
	case strings.HasPrefix(base, metaPrefix):
		return ""
	}
	name := strings.TrimPrefix(base, whiteoutPrefix)
	if name == "" || name == "." || name == ".." {
		return "whiteout of no name"
	}
	return c.tree.put(d, name, &node{whiteout: true, kind: erofs.ModeChar})
}

// node writes an entry's inode; a nil node says that the entry is left out.
func (c *converter) node(h *tar.Header, parent string) (*node, string, error) {
	var kind uint16
	switch h.Typeflag {
	case tar.TypeReg:
		kind = erofs.ModeRegular
		for k := range h.PAXRecords {
			if strings.HasPrefix(k, "GNU.sparse.") {
				return nil, "sparse file", nil
			}
		}
	case tar.TypeDir:
		kind = erofs.ModeDir
	case tar.TypeSymlink:
		kind = erofs.ModeSymlink
	case tar.TypeFifo:
		kind = erofs.ModeFIFO
	case tar.TypeLink:
		return c.hardlink(h)
	case tar.TypeChar, tar.TypeBlock:
		// Old base images bring a /dev, which no container ever sees.
		if parent == "dev" || strings.HasPrefix(parent, "dev/") {
			return nil, "", nil
		}
		return nil, "device node", nil
	case tar.TypeGNUSparse:
		return nil, "sparse file", nil
	default:
		return nil, "unknown type", nil
	}
	a, reason := attrOf(h, kind)
	if reason != "" {
		return nil, reason, nil
	}
	if kind == erofs.ModeDir {
		return &node{dir: &dir{attr: a, names: map[string]*node{}}, kind: kind}, "", nil
	}
	size, r := int64(0), c.content
	switch kind {
	case erofs.ModeRegular:
		size = h.Size
	case erofs.ModeSymlink:
		if h.Linkname == "" || len(h.Linkname) > erofs.MaxSymlink || strings.IndexByte(h.Linkname, 0) >= 0 {
			return nil, "symlink without a valid target", nil
		}
		size, r = int64(len(h.Linkname)), strings.NewReader(h.Linkname)
	}
	i, err := c.out.Add(a, size, r)
	return &node{inode: i, kind: kind}, "", err
}

// hardlink resolves within the layer: the target is another name for an inode
// that this archive brought, never a path anywhere.
func (c *converter) hardlink(h *tar.Header) (*node, string, error) {
	parent, base, reason := clean(h.Linkname)
	if reason != "" || base == "" {
		return nil, "hard link to " + quote(h.Linkname) + ": not a name in this layer", nil
	}
	t := c.tree.find(parent, base)
	switch {
	case t == nil || t.whiteout:
		return nil, "hard link to " + quote(h.Linkname) + ", which is not in this layer", nil
	case t.dir != nil:
		return nil, "hard link to the directory " + quote(h.Linkname), nil
	}
	return t, "", nil
}

// attrOf translates a header. Extended attributes that a layer may not bring are
// left out, but for those that would steer overlayfs: a layer that tries is
// refused.
func attrOf(h *tar.Header, kind uint16) (erofs.Attr, string) {
	a := erofs.Attr{Mode: kind | uint16(h.Mode&0o7777)}
	if kind == erofs.ModeSymlink {
		a.Mode = kind | 0o777
	}
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) >= math.MaxUint32 || int64(h.Gid) >= math.MaxUint32 {
		return a, "uid or gid out of range"
	}
	a.UID, a.GID = uint32(h.Uid), uint32(h.Gid)
	if !h.ModTime.IsZero() {
		a.Mtime, a.Nsec = h.ModTime.Unix(), uint32(h.ModTime.Nanosecond())
	}
	size := 0
	for k, v := range h.PAXRecords {
		name, ok := strings.CutPrefix(k, xattrPrefix)
		if !ok {
			continue
		}
		if strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.") {
			return a, "extended attribute " + quote(name)
		}
		if !erofs.AllowedXattr(name) {
			continue
		}
		if size += len(name) + len(v) + 8; len(name) > erofs.MaxName || size > erofs.MaxXattrs-64 {
			return a, "extended attributes too large"
		}
		a.Xattrs = append(a.Xattrs, erofs.Xattr{Name: name, Value: []byte(v)})
	}
	sort.Slice(a.Xattrs, func(i, j int) bool { return a.Xattrs[i].Name < a.Xattrs[j].Name })
	return a, ""
}

func quote(s string) string {
	if len(s) > 200 {
		s = s[:200] + "…"
	}
	return `"` + strings.ToValidUTF8(s, "?") + `"`
}
