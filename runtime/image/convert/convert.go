package convert

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/postern-cri/postern/runtime/image/erofs"
)

type converter struct {
	out     *erofs.Writer
	tree    *tree
	content io.Reader
}

// Layer reads one layer from blob to its end and writes the EROFS image to out,
// which must be empty. What is in out after an error is no image.
func Layer(out io.WriterAt, blob io.Reader, l Limits) (Result, error) {
	var res Result
	raw := newPump(blob, l.Blob, "as pulled")
	defer raw.close()
	plain, err := decompress(raw)
	if err != nil {
		return res, fmt.Errorf("decompressing a layer: %w", err)
	}
	defer plain.Close()
	src := newPump(plain, l.Bytes, "uncompressed")
	// Closed before raw: its goroutine reads from there.
	defer src.close()
	defer raw.once.Do(func() { close(raw.stop) })
	c := &converter{out: erofs.NewWriter(out), tree: newTree(l.Entries)}
	if err := c.archive(src, l); err != nil {
		return res, err
	}
	root, err := c.finish()
	if err != nil {
		return res, err
	}
	if err := c.out.Finish(root); err != nil {
		return res, fmt.Errorf("finishing an image: %w", err)
	}
	res = Result{DiffID: src.digest(), Tar: src.n, Image: c.out.Size()}
	// The decompressor stopped at its own end: what follows is part of the blob.
	if n, err := io.Copy(io.Discard, io.LimitReader(raw, l.Trailer+1)); err != nil || n > 0 {
		return res, fmt.Errorf("%d bytes follow the compressed archive: %w", n, errors.Join(err, ErrTooLarge))
	}
	res.Digest, res.Blob = raw.digest(), raw.n
	return res, nil
}

func (c *converter) archive(src io.Reader, l Limits) error {
	tr := tar.NewReader(src)
	c.content = tr
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("reading a layer: %w", err)
		}
		if err := c.entry(h); err != nil {
			var e *EntryError
			if errors.As(err, &e) {
				return err
			}
			return fmt.Errorf("layer entry %.200q: %w", h.Name, err)
		}
	}
	// Archives are padded with zeros, some generously. Anything else behind the
	// end is something that another reader might take for entries.
	var b [32 << 10]byte
	for total := int64(0); ; {
		n, err := src.Read(b[:])
		if total += int64(n); total > l.Trailer {
			return fmt.Errorf("%w: more than %d bytes behind the archive's end", ErrTooLarge, l.Trailer)
		}
		if len(bytes.TrimLeft(b[:n], "\x00")) > 0 {
			return errors.New("data behind the archive's end")
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading a layer: %w", err)
		}
	}
}

// finish writes the whiteouts and turns the tree into directories.
func (c *converter) finish() (*erofs.Dir, error) {
	root := &erofs.Dir{}
	type pair struct {
		from *dir
		to   *erofs.Dir
	}
	for todo := []pair{{c.tree.root, root}}; len(todo) > 0; {
		p := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		p.to.Attr = p.from.attr
		if p.from.opaque {
			p.to.Attr.Xattrs = append(p.to.Attr.Xattrs, erofs.Xattr{Name: erofs.Opaque, Value: []byte("y")})
		}
		p.to.Entries = make([]erofs.Entry, 0, len(p.from.names))
		for _, name := range slices.Sorted(maps.Keys(p.from.names)) {
			n := p.from.names[name]
			e := erofs.Entry{Name: name, Inode: n.inode}
			switch {
			case n.dir != nil:
				e.Dir = &erofs.Dir{}
				todo = append(todo, pair{n.dir, e.Dir})
			case n.whiteout:
				var err error
				if e.Inode, err = c.out.Add(erofs.Attr{Mode: erofs.ModeChar}, 0, nil); err != nil {
					return nil, fmt.Errorf("writing a whiteout: %w", err)
				}
			}
			p.to.Entries = append(p.to.Entries, e)
		}
	}
	return root, nil
}
