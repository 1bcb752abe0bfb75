package wal

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// FS is what the log needs of a directory. Tests put one in between that fails.
type FS interface {
	List() ([]string, error)
	Create(name string) (File, error) // O_EXCL, O_APPEND, 0600
	Open(name string, write bool) (File, error)
	Remove(name string) error
	ReadOnly(name string) error
	Reserve(name string, size int64) error // a file that really takes the space
	Sync() error                           // of the directory
}

// File is an open file of the directory. Writes append.
type File interface {
	io.Writer
	io.ReaderAt
	io.Closer
	WriteAt(b []byte, off int64) (int, error)
	Sync() error // of the data and the size
	Size() (int64, error)
	Truncate(size int64) error
}

// Dir is the FS of a real directory.
type Dir string

func (d Dir) path(name string) string { return filepath.Join(string(d), name) }

// List returns the names in order.
func (d Dir) List() ([]string, error) {
	f, err := os.Open(string(d))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	sort.Strings(names)
	return names, err
}

// Create makes a new file.
//
// Expected syscalls: openat.
func (d Dir) Create(name string) (File, error) {
	f, err := os.OpenFile(d.path(name), os.O_RDWR|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// Open opens an existing file; a link is never followed.
//
// Expected syscalls: openat.
func (d Dir) Open(name string, write bool) (File, error) {
	flags := os.O_RDONLY
	if write {
		flags = os.O_RDWR
		if strings.HasSuffix(name, segmentSuffix) {
			flags |= os.O_APPEND
		}
	}
	f, err := os.OpenFile(d.path(name), flags|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// Remove removes a file.
func (d Dir) Remove(name string) error { return os.Remove(d.path(name)) }

// ReadOnly takes away the right to write.
func (d Dir) ReadOnly(name string) error { return os.Chmod(d.path(name), 0o400) }

// Reserve makes a file of size allocated bytes, or none.
//
// Expected syscalls: openat, fallocate.
func (d Dir) Reserve(name string, size int64) error {
	f, err := os.OpenFile(d.path(name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, size); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		os.Remove(d.path(name))
		return &os.PathError{Op: "reserve", Path: d.path(name), Err: err}
	}
	return nil
}

// Sync makes names durable.
//
// Expected syscalls: openat, fsync.
func (d Dir) Sync() error {
	f, err := os.Open(string(d))
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

type osFile struct{ *os.File }

func (f osFile) Sync() error { return unix.Fdatasync(int(f.Fd())) }

func (f osFile) Size() (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}
