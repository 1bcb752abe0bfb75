package fetch

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/record"
)

// partAge is how long a part of a blob is kept for somebody to go on with.
const partAge = 6 * time.Hour

// parts are blobs of which a part is here, by digest. Nothing believes what is in
// them: the digest is computed over the whole blob by who parses it.
type parts struct {
	dir string
	mu  sync.Mutex
	use map[string]bool
}

// openParts drops what nobody will go on with.
func openParts(dir string) (*parts, error) {
	p := &parts{dir: dir, use: map[string]bool{}}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the spool: %w", err)
	}
	return p, p.clear(partAge)
}

// clear removes the parts that nobody has written to for a while and that nobody
// is writing to now.
func (p *parts) clear(age time.Duration) error {
	ents, err := os.ReadDir(p.dir)
	if err != nil {
		return fmt.Errorf("clearing the spool: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range ents {
		if st, err := e.Info(); p.use[e.Name()] || err == nil && time.Since(st.ModTime()) < age {
			continue
		}
		if err := os.RemoveAll(filepath.Join(p.dir, e.Name())); err != nil {
			return fmt.Errorf("clearing the spool: %w", err)
		}
	}
	return nil
}

// part is a blob on its way in.
type part struct {
	*os.File
	p    *parts
	name string // empty: nobody will go on with it
	have int64
}

// open returns the part of a blob that is here, which may be nothing. One that
// somebody else is writing to is begun once more, without a name.
func (p *parts) open(digest string, size int64) (*part, error) {
	name, err := record.Hex(digest)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.use[name] {
		f, err := nameless(p.dir)
		if err != nil {
			return nil, fmt.Errorf("making a spool file: %w", err)
		}
		return &part{File: f, p: p}, nil
	}
	f, err := os.OpenFile(filepath.Join(p.dir, name), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("making a spool file: %w", err)
	}
	b := &part{File: f, p: p, name: name}
	st, err := f.Stat()
	if err == nil && st.Size() > size {
		err = b.reset()
	} else if err == nil {
		b.have, err = f.Seek(0, 2)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("opening a spool file: %w", err)
	}
	p.use[name] = true
	return b, nil
}

// reset begins anew.
func (b *part) reset() error {
	b.have = 0
	err := b.Truncate(0)
	if err == nil {
		_, err = b.Seek(0, 0)
	}
	return err
}

// close lets go of it; what is kept can be gone on with.
func (b *part) close(keep bool) {
	b.Close()
	if b.name == "" {
		return
	}
	b.p.mu.Lock()
	defer b.p.mu.Unlock()
	if !keep || b.have == 0 {
		if err := os.Remove(filepath.Join(b.p.dir, b.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			fmt.Fprintln(os.Stderr, "postern-imaged: fetch: clearing the spool:", err)
		}
	}
	delete(b.p.use, b.name)
}

// nameless makes a file that never had a name, or only for a moment where the
// filesystem cannot do that.
func nameless(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		return os.NewFile(uintptr(fd), "blob"), nil
	}
	f, err := os.CreateTemp(dir, "blob-")
	if err != nil {
		return nil, err
	}
	return f, os.Remove(f.Name())
}
