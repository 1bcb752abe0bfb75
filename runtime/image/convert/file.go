package convert

import (
	"fmt"
	"io"

	"github.com/postern-cri/postern/runtime/image/erofs"
)

// File writes an image that has all of blob as one file: a layer of an artifact,
// whose bytes nobody looks at. Everybody may read it, and nobody run it.
func File(out io.WriterAt, blob io.Reader, size int64, name string, l Limits) (Result, error) {
	var res Result
	if _, base, reason := clean(name); reason != "" || base == "" {
		return res, &EntryError{name, reason}
	}
	raw := newPump(blob, l.Blob, "as pulled")
	defer raw.close()
	w := erofs.NewWriter(out)
	inode, err := w.Add(erofs.Attr{Mode: erofs.ModeRegular | 0o444}, size, raw)
	if err != nil {
		return res, fmt.Errorf("writing %.200q: %w", name, err)
	}
	if n, err := raw.Read(make([]byte, 1)); n > 0 || err != io.EOF {
		return res, fmt.Errorf("%.200q is longer than it was, or cannot be read: %v", name, err)
	}
	if err := w.Finish(nest(name, inode)); err != nil {
		return res, fmt.Errorf("finishing an image: %w", err)
	}
	return Result{Digest: raw.digest(), Blob: raw.n, Image: w.Size()}, nil
}

// nest makes the directories above a file.
func nest(name string, inode erofs.Inode) *erofs.Dir {
	d := &erofs.Dir{Attr: erofs.Attr{Mode: erofs.ModeDir | 0o755}}
	for i := range name {
		if name[i] == '/' {
			d.Entries = []erofs.Entry{{Name: name[:i], Dir: nest(name[i+1:], inode)}}
			return d
		}
	}
	d.Entries = []erofs.Entry{{Name: name, Inode: inode}}
	return d
}
