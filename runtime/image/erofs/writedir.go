package erofs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sort"
	"strings"
)

// Dir is a directory to be written.
type Dir struct {
	Attr    Attr
	Entries []Entry // in any order; each name once
	nid     uint64
	parent  *Dir
}

// Entry is one name in a directory: a directory, or an inode that Add returned.
// Two entries with the same inode are hard links.
type Entry struct {
	Name  string
	Dir   *Dir
	Inode Inode
}

// Finish writes the directories of the tree and completes the image.
func (w *Writer) Finish(root *Dir) error {
	root.parent = root
	dirs, links := []*Dir{root}, map[Inode]uint32{}
	for i := 0; i < len(dirs); i++ {
		d := dirs[i]
		if !d.Attr.IsDir() {
			return fmt.Errorf("mode %o is not a directory's", d.Attr.Mode)
		}
		sort.Slice(d.Entries, func(i, j int) bool { return d.Entries[i].Name < d.Entries[j].Name })
		for j := range d.Entries {
			e := &d.Entries[j]
			if err := checkName(e.Name); err != nil {
				return err
			}
			if j > 0 && d.Entries[j-1].Name == e.Name {
				return fmt.Errorf("name %q is there twice", e.Name)
			}
			if e.Dir != nil {
				e.Dir.parent = d
				dirs = append(dirs, e.Dir)
			} else {
				links[e.Inode]++
			}
		}
	}
	if err := w.closePack(); err != nil {
		return err
	}
	// Directories name one another, so that each needs its number before the
	// first is written: lay all of them out, go back, and do it again in earnest.
	before := *w
	w.dry = true
	if err := w.dirs(dirs); err != nil {
		return err
	}
	*w = before
	if err := w.dirs(dirs); err != nil {
		return err
	}
	return w.finish(links)
}

func (w *Writer) dirs(dirs []*Dir) error {
	for _, d := range dirs {
		names := d.names()
		var content []byte
		size := dirSize(names)
		links := uint32(2)
		for i := range d.Entries {
			if d.Entries[i].Dir != nil {
				links++
			}
		}
		if !w.dry {
			content = d.encode(names, size)
		}
		nid, err := w.inode(d.Attr, size, links, bytes.NewReader(content), d.parent == d)
		if err != nil {
			return err
		}
		if !w.dry && nid != d.nid {
			return fmt.Errorf("directory laid out as %d and written as %d", d.nid, nid)
		}
		d.nid = nid
	}
	return nil
}

// names lists the directory with its two dot entries in order.
func (d *Dir) names() []Entry {
	list := make([]Entry, 0, len(d.Entries)+2)
	dots := []Entry{{Name: ".", Dir: d}, {Name: "..", Dir: d.parent}}
	for _, e := range d.Entries {
		for len(dots) > 0 && dots[0].Name < e.Name {
			list, dots = append(list, dots[0]), dots[1:]
		}
		list = append(list, e)
	}
	return append(list, dots...)
}

// fill returns how many of the entries fit in one block and the bytes they take.
func fill(list []Entry) (n, size int) {
	for n < len(list) && size+direntSize+len(list[n].Name) <= BlockSize {
		size += direntSize + len(list[n].Name)
		n++
	}
	return n, size
}

func dirSize(list []Entry) int64 {
	var total int64
	for len(list) > 0 {
		n, size := fill(list)
		if list = list[n:]; len(list) > 0 {
			size = BlockSize
		}
		total += int64(size)
	}
	return total
}

func (d *Dir) encode(list []Entry, size int64) []byte {
	out := make([]byte, size)
	for b := out; len(list) > 0; {
		n, _ := fill(list)
		off := n * direntSize
		for i, e := range list[:n] {
			nid, mode := e.Inode.nid, e.Inode.mode
			if e.Dir != nil {
				nid, mode = e.Dir.nid, ModeDir
			}
			p := b[i*direntSize:]
			binary.LittleEndian.PutUint64(p, nid)
			binary.LittleEndian.PutUint16(p[8:], uint16(off))
			p[10] = fileType(mode)
			off += copy(b[off:], e.Name)
		}
		if list = list[n:]; len(list) > 0 {
			b = b[BlockSize:]
		}
	}
	return out
}

func checkName(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > MaxName || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("%.80q is not a file name", name)
	}
	return nil
}
