package erofs

import (
	"strings"
)

// Stats is what a checked image holds.
type Stats struct {
	Inodes int
	Names  int
	Bytes  int64 // of regular files
}

// Check walks everything that can be reached and holds it against what a layer
// may be: a tree in which each directory stands once, link counts that are
// true, no device but whiteouts, no extended attribute that overlayfs or a
// security module would act on other than those the converter writes. It is run
// by another process than the one that wrote the image. maxInodes bounds it.
func (f *FS) Check(maxInodes int) (Stats, error) {
	var st Stats
	type dir struct{ nid, parent uint64 }
	links, want := map[uint64]uint32{}, map[uint64]uint32{}
	queue, seen := []dir{{rootNID, rootNID}}, map[uint64]bool{rootNID: true}
	for len(queue) > 0 {
		d := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		i, err := f.inode(d.nid)
		if err != nil {
			return st, err
		}
		if !i.IsDir() {
			return st, corrupt("inode %d: not a directory", d.nid)
		}
		if err := checkAttr(i); err != nil {
			return st, err
		}
		var inner error
		parent, err := f.readDir(i, func(e dirent) bool {
			inner = nil
			st.Names++
			if st.Names > maxInodes {
				inner = corrupt("more than %d names", maxInodes)
				return false
			}
			if e.kind == typeDirectory {
				if seen[e.nid] {
					inner = corrupt("directory %d stands twice", e.nid)
					return false
				}
				seen[e.nid] = true
				queue = append(queue, dir{e.nid, d.nid})
				return true
			}
			links[e.nid]++
			if links[e.nid] > 1 {
				return true
			}
			c, err := f.inode(e.nid)
			switch {
			case err != nil:
				inner = err
			case fileType(c.Mode) != e.kind:
				inner = corrupt("inode %d: mode %o under a name of type %d", e.nid, c.Mode, e.kind)
			default:
				inner = checkAttr(c)
			}
			if inner != nil {
				return false
			}
			want[e.nid] = c.Links
			if c.IsRegular() {
				st.Bytes += c.Size
			}
			return true
		})
		if inner != nil {
			return st, inner
		}
		if err != nil {
			return st, err
		}
		if parent != d.parent {
			return st, corrupt("directory %d: its parent is %d and not %d", d.nid, d.parent, parent)
		}
	}
	for nid, n := range links {
		if want[nid] != n {
			return st, corrupt("inode %d: link count %d, but %d names", nid, want[nid], n)
		}
	}
	st.Inodes = len(links) + len(seen)
	return st, nil
}

// checkAttr refuses what no layer of ours has.
func checkAttr(i *inode) error {
	switch i.Mode & ModeType {
	case ModeBlock:
		return corrupt("inode %d: a block device", i.nid)
	case ModeChar:
		if i.Rdev != 0 {
			return corrupt("inode %d: a character device", i.nid)
		}
	}
	for _, x := range i.Xattrs {
		if !AllowedXattr(x.Name) && !(x.Name == Opaque && i.IsDir() && string(x.Value) == "y") {
			return corrupt("inode %d: extended attribute %.80q", i.nid, x.Name)
		}
	}
	return nil
}

// AllowedXattr says whether a layer may carry the extended attribute: file
// capabilities, ACLs and what users set. Labels of security modules are the
// node's to give, and trusted.* steers overlayfs.
func AllowedXattr(name string) bool {
	switch name {
	case "security.capability", "system.posix_acl_access", "system.posix_acl_default":
		return true
	}
	return strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "user.overlay.")
}
