package wal

import (
	"errors"
	"io"
	"os"
	"sort"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// memFS is a directory in memory that knows what a crash of the machine would
// leave, and that fails on demand: op number failAt[i] fails with err; persisted
// says whether its effect takes place all the same. After a failed sync the file
// behaves as Linux does: the pages count as clean, later syncs succeed and write
// nothing of what was lost.
type memFS struct {
	mu        sync.Mutex
	files     map[string]*memFile
	durable   map[string]*memFile // names that a crash leaves
	ops       int
	failAt    map[int]bool
	persisted bool
	err       error
	capacity  int64 // 0: no limit
	syncs     int
	slow      time.Duration // of a sync
}

type memFile struct {
	fs       *memFS
	data     []byte
	durable  []byte
	lost     bool
	readonly bool
	reserved int64
	isHead   bool
}

func newMemFS() *memFS {
	return &memFS{files: map[string]*memFile{}, durable: map[string]*memFile{}, failAt: map[int]bool{}, err: unix.EIO}
}

func (m *memFS) fault() error {
	m.ops++
	if m.failAt[m.ops] {
		return m.err
	}
	return nil
}

func (m *memFS) used() (n int64) {
	for _, f := range m.files {
		n += max(int64(len(f.data)), f.reserved)
	}
	return n
}

// crash returns what the disk holds after a loss of power; with kept, what was
// written and not synced had reached it, too.
func (m *memFS) crash(kept bool) *memFS {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := newMemFS()
	names := m.durable
	if kept {
		names = m.files
	}
	for name, f := range names {
		d := f.durable
		if kept || f.isHead {
			d = f.data
		}
		g := &memFile{fs: n, data: append([]byte(nil), d...), durable: append([]byte(nil), d...), isHead: f.isHead}
		n.files[name], n.durable[name] = g, g
	}
	return n
}

func (m *memFS) List() ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for n := range m.files {
		out = append(out, n)
	}
	sort.Strings(out)
	return out, nil
}

func (m *memFS) Create(name string) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.files[name] != nil {
		return nil, os.ErrExist
	}
	err := m.fault()
	if err != nil && !m.persisted {
		return nil, err
	}
	f := &memFile{fs: m, isHead: name == headName}
	m.files[name] = f
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (m *memFS) Open(name string, write bool) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.files[name]
	if f == nil {
		return nil, os.ErrNotExist
	}
	if write && f.readonly {
		return nil, os.ErrPermission
	}
	return f, nil
}

func (m *memFS) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.files[name] == nil {
		return os.ErrNotExist
	}
	err := m.fault()
	if err == nil || m.persisted {
		delete(m.files, name)
	}
	return err
}

func (m *memFS) ReadOnly(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.files[name].readonly = true
	return nil
}

func (m *memFS) Reserve(name string, size int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.files[name] == nil {
		if m.capacity > 0 && m.used()+size > m.capacity {
			return unix.ENOSPC
		}
		m.files[name] = &memFile{fs: m, reserved: size}
	}
	return nil
}

func (m *memFS) Sync() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	err := m.fault()
	if err == nil || m.persisted {
		m.durable = map[string]*memFile{}
		for n, f := range m.files {
			m.durable[n] = f
		}
	}
	return err
}

func (f *memFile) Write(b []byte) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if f.fs.capacity > 0 && f.fs.used()+int64(len(b)) > f.fs.capacity {
		n := max(f.fs.capacity-f.fs.used(), 0)
		f.data = append(f.data, b[:n]...)
		return int(n), unix.ENOSPC
	}
	if err := f.fs.fault(); err != nil {
		n := len(b) / 2
		if f.fs.persisted {
			n = len(b)
		}
		f.data = append(f.data, b[:n]...)
		return n, err
	}
	f.data = append(f.data, b...)
	return len(b), nil
}

func (f *memFile) ReadAt(b []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if off >= int64(len(f.data)) {
		return 0, io.EOF
	}
	n := copy(b, f.data[off:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(b []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if need := int(off) + len(b); len(f.data) < need {
		f.data = append(f.data, make([]byte, need-len(f.data))...)
	}
	return copy(f.data[off:], b), nil
}

func (f *memFile) Sync() error {
	time.Sleep(f.fs.slow)
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	f.fs.syncs++
	err := f.fs.fault()
	if err != nil && !f.fs.persisted {
		f.lost = true
		return err
	}
	if !f.lost {
		f.durable = append([]byte(nil), f.data...)
	}
	return err
}

func (f *memFile) Size() (int64, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	return int64(len(f.data)), nil
}

func (f *memFile) Truncate(size int64) error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if size > int64(len(f.data)) {
		return errors.New("grown by a truncate")
	}
	f.data = f.data[:size]
	return nil
}

func (f *memFile) Close() error { return nil }
