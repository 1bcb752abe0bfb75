package erofs

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// Union is the layers of an image, lowest first, as overlayfs would stack them.
type Union []*FS

const maxLinks = 40

// place is an inode in one of the layers.
type place struct {
	fs *FS
	i  *inode
}

// ReadFile returns the content of the regular file at path, at most max bytes
// (more is an error). Symlinks are followed within the image: one that points
// out of it points back to its root.
func (u Union) ReadFile(path string, max int64) ([]byte, error) {
	p, err := u.lookup(path)
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: path, Err: err}
	}
	if !p.i.IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("mode %o is not a regular file's", p.i.Mode)}
	}
	if p.i.Size > max {
		return nil, &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("%d bytes, at most %d", p.i.Size, max)}
	}
	b := make([]byte, p.i.Size)
	if err := p.fs.readAt(p.i, b, 0); err != nil {
		return nil, &fs.PathError{Op: "read", Path: path, Err: err}
	}
	return b, nil
}

// Stat returns what path is; symlinks are followed as in ReadFile.
func (u Union) Stat(path string) (Attr, error) {
	p, err := u.lookup(path)
	if err != nil {
		return Attr{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return p.i.Attr, nil
}

func (u Union) lookup(path string) (place, error) {
	var root []place
	for k := len(u) - 1; k >= 0; k-- {
		i, err := u[k].inode(rootNID)
		if err != nil {
			return place{}, err
		}
		if !i.IsDir() {
			return place{}, corrupt("the root is not a directory")
		}
		root = append(root, place{u[k], i})
	}
	if len(root) == 0 {
		return place{}, fs.ErrNotExist
	}
	// Each element of stack is one directory: its places in the layers, from the
	// top down to where something hides the rest.
	stack, todo, links := [][]place{root}, strings.Split(path, "/"), 0
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			if len(stack) > 1 {
				stack = stack[:len(stack)-1]
			}
			continue
		}
		found, err := descend(stack[len(stack)-1], name)
		if err != nil {
			return place{}, err
		}
		top := found[0]
		switch {
		case top.i.IsDir():
			stack = append(stack, found)
		case top.i.Mode&ModeType == ModeSymlink:
			if links++; links > maxLinks {
				return place{}, errors.New("too many symbolic links")
			}
			b := make([]byte, top.i.Size)
			if err := top.fs.readAt(top.i, b, 0); err != nil {
				return place{}, err
			}
			if b[0] == '/' {
				stack = stack[:1]
			}
			todo = append(strings.Split(string(b), "/"), todo...)
			if len(todo) > 4096 {
				return place{}, errors.New("path too long")
			}
		default:
			for _, rest := range todo {
				if rest != "" && rest != "." {
					return place{}, fs.ErrNotExist
				}
			}
			return top, nil
		}
	}
	return stack[len(stack)-1][0], nil
}

// descend finds name in a directory that lies in several layers.
func descend(dirs []place, name string) ([]place, error) {
	var found []place
	for _, d := range dirs {
		i, err := d.fs.find(d.i, name)
		if err != nil {
			return nil, err
		}
		if i == nil {
			continue
		}
		if !i.IsDir() {
			if len(found) == 0 && !i.IsWhiteout() {
				return []place{{d.fs, i}}, nil
			}
			break
		}
		found = append(found, place{d.fs, i})
		if v, ok := i.Xattr(Opaque); ok && string(v) == "y" {
			break
		}
	}
	if len(found) == 0 {
		return nil, fs.ErrNotExist
	}
	return found, nil
}

// find looks a name up in one directory; nil says that it is not there.
func (f *FS) find(d *inode, name string) (*inode, error) {
	var nid uint64
	if _, err := f.readDir(d, func(e dirent) bool {
		if e.name == name {
			nid = e.nid
		}
		return e.name < name
	}); err != nil {
		return nil, err
	}
	if nid == 0 {
		return nil, nil
	}
	return f.inode(nid)
}
