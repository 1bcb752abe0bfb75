package erofs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
)

const (
	windowSize = 64 << 10
	windows    = 16
	maxDir     = 256 << 20 // bytes of one directory
)

// ErrCorrupt is wrapped by every error about what an image says.
var ErrCorrupt = errors.New("corrupt image")

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}

// FS reads an image. It is safe for concurrent use.
type FS struct {
	r      io.ReaderAt
	size   int64
	inodes uint64

	mu     sync.Mutex
	window [windows]struct {
		at   int64 // -1: empty
		data []byte
	}
}

// Open reads the superblock. An image with any feature that the writer does not
// use is refused.
func Open(r io.ReaderAt) (*FS, error) {
	var b [BlockSize]byte
	if n, err := r.ReadAt(b[:], 0); n < len(b) {
		return nil, fmt.Errorf("reading a superblock: %w", orEOF(err))
	}
	le, sb := binary.LittleEndian, b[superOffset:]
	switch {
	case le.Uint32(sb) != magic:
		return nil, corrupt("no EROFS superblock")
	case sb[12] != blockBits, sb[13] != 0, le.Uint16(sb[14:]) != rootNID, sb[90] != 0:
		return nil, corrupt("superblock: block size, extension, root or directory block size is not as written here")
	case le.Uint32(sb[8:]) != compatChecksum|compatMtime, le.Uint32(sb[80:]) != 0:
		return nil, corrupt("superblock: features %x, %x", le.Uint32(sb[8:]), le.Uint32(sb[80:]))
	case le.Uint32(sb[40:]) != 0, le.Uint32(sb[44:]) != 0:
		return nil, corrupt("superblock: metadata elsewhere")
	case le.Uint32(sb[4:]) != checksum(sb):
		return nil, corrupt("superblock: wrong checksum")
	}
	for _, c := range sb[84:superSize] {
		if c != 0 { // extra devices, packed inode, prefixes, and whatever comes later
			return nil, corrupt("superblock: unknown field")
		}
	}
	f := &FS{r: r, size: int64(le.Uint32(sb[36:])) << blockBits, inodes: le.Uint64(sb[16:])}
	for i := range f.window {
		f.window[i].at = -1
	}
	if f.size < BlockSize {
		return nil, corrupt("superblock: no blocks")
	}
	// The last byte must be there: a file that was cut is found here, not later.
	if n, err := r.ReadAt(b[:1], f.size-1); n < 1 {
		return nil, fmt.Errorf("image is shorter than its %d bytes: %w", f.size, orEOF(err))
	}
	return f, nil
}

func orEOF(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Size is the image's length in bytes as its superblock has it.
func (f *FS) Size() int64 { return f.size }

// read fills b from off, which may be any number.
func (f *FS) read(b []byte, off int64) error {
	if off < 0 || off > f.size || int64(len(b)) > f.size-off {
		return corrupt("%d bytes at %d, beyond the end", len(b), off)
	}
	if len(b) > windowSize/2 {
		if n, err := f.r.ReadAt(b, off); n < len(b) {
			return fmt.Errorf("reading an image: %w", orEOF(err))
		}
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(b) > 0 {
		at := off &^ (windowSize - 1)
		w := &f.window[(at/windowSize)%windows]
		if w.at != at {
			if w.data == nil {
				w.data = make([]byte, windowSize)
			}
			w.at = -1
			want := min(windowSize, f.size-at)
			if n, err := f.r.ReadAt(w.data[:want], at); int64(n) < want {
				return fmt.Errorf("reading an image: %w", orEOF(err))
			}
			w.at = at
		}
		n := copy(b, w.data[off-at:])
		b, off = b[n:], off+int64(n)
	}
	return nil
}

// inode is a decoded inode with the places of its content.
type inode struct {
	Attr
	nid    uint64
	block  int64 // of the whole blocks
	inline int64 // offset of the end of the content
	tail   int64 // its length; 0 for none
}

func (f *FS) inode(nid uint64) (*inode, error) {
	if nid >= uint64(f.size)>>slotBits || nid < rootNID {
		return nil, corrupt("inode %d does not exist", nid)
	}
	off := int64(nid) << slotBits
	var b [extendedSize]byte
	if err := f.read(b[:compactSize], off); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	format, icount := le.Uint16(b[:]), int64(le.Uint16(b[2:]))
	i := &inode{nid: nid}
	i.Mode = le.Uint16(b[4:])
	isize := int64(compactSize)
	if format&1 == 0 {
		i.Links, i.Size = uint32(le.Uint16(b[6:])), int64(le.Uint32(b[8:]))
		i.UID, i.GID = uint32(le.Uint16(b[24:])), uint32(le.Uint16(b[26:]))
	} else {
		if err := f.read(b[:], off); err != nil {
			return nil, err
		}
		isize = extendedSize
		i.Size = int64(le.Uint64(b[8:]))
		i.UID, i.GID = le.Uint32(b[24:]), le.Uint32(b[28:])
		i.Mtime, i.Nsec, i.Links = int64(le.Uint64(b[32:])), le.Uint32(b[40:]), le.Uint32(b[44:])
	}
	layout := format >> 1
	if layout != layoutPlain && layout != layoutInline {
		return nil, corrupt("inode %d: layout %d", nid, layout)
	}
	if fileType(i.Mode) == 0 || i.Nsec >= 1e9 || i.Size < 0 {
		return nil, corrupt("inode %d: mode %o, %d ns, %d bytes", nid, i.Mode, i.Nsec, i.Size)
	}
	if icount > 0 {
		x := make([]byte, xattrHeader+4*(icount-1))
		if len(x) > MaxXattrs {
			return nil, corrupt("inode %d: %d bytes of extended attributes", nid, len(x))
		}
		if err := f.read(x, off+isize); err != nil {
			return nil, err
		}
		var err error
		if i.Xattrs, err = decodeXattrs(x); err != nil {
			return nil, corrupt("inode %d: %v", nid, err)
		}
		isize += int64(len(x))
	}
	if err := f.content(i, layout, int64(le.Uint32(b[16:])), off+isize); err != nil {
		return nil, err
	}
	return i, nil
}

// content checks where the content lies: wholly within the image, and its end,
// where it follows the inode, within one block.
func (f *FS) content(i *inode, layout uint16, u, end int64) error {
	switch i.Mode & ModeType {
	case ModeChar, ModeBlock:
		i.Rdev = uint32(u)
		fallthrough
	case ModeFIFO, ModeSocket:
		if i.Size != 0 || layout != layoutPlain && layout != layoutInline {
			return corrupt("inode %d: a special file with content", i.nid)
		}
		return nil
	case ModeSymlink:
		if i.Size < 1 || i.Size > MaxSymlink {
			return corrupt("inode %d: symlink target of %d bytes", i.nid, i.Size)
		}
	case ModeDir:
		if i.Size > maxDir {
			return corrupt("inode %d: directory of %d bytes", i.nid, i.Size)
		}
	}
	whole := i.Size
	if layout == layoutInline {
		i.tail, i.inline = i.Size%BlockSize, end
		whole -= i.tail
		if i.tail > 0 && (end%BlockSize+i.tail > BlockSize || end+i.tail > f.size) {
			return corrupt("inode %d: the end of its content crosses a block", i.nid)
		}
	}
	i.block = u << blockBits
	if whole > 0 && (i.block < BlockSize || i.block > f.size || roundUp(whole, BlockSize) > f.size-i.block) {
		return corrupt("inode %d: content beyond the end", i.nid)
	}
	return nil
}

// readAt reads from i's content; b must lie within it.
func (f *FS) readAt(i *inode, b []byte, off int64) error {
	whole := i.Size - i.tail
	if off < whole {
		n := min(int64(len(b)), whole-off)
		if err := f.read(b[:n], i.block+off); err != nil {
			return err
		}
		b, off = b[n:], off+n
	}
	if len(b) == 0 {
		return nil
	}
	return f.read(b, i.inline+off-whole)
}

// dirent is one name of a directory.
type dirent struct {
	name string
	nid  uint64
	kind uint8
}

// readDir calls do for every name but the dots, in order, until do returns
// false. Names must be valid and strictly ascending, as the kernel's binary
// search takes for granted, and the dots there and right.
func (f *FS) readDir(i *inode, do func(dirent) bool) (parent uint64, err error) {
	var block [BlockSize]byte
	last, self, up := "", false, false
	for off := int64(0); off < i.Size; off += BlockSize {
		b := block[:min(BlockSize, i.Size-off)]
		if err := f.readAt(i, b, off); err != nil {
			return 0, err
		}
		if len(b) < direntSize {
			return 0, corrupt("directory %d: cut", i.nid)
		}
		le := binary.LittleEndian
		n := int(le.Uint16(b[8:])) / direntSize
		if n == 0 || n*direntSize != int(le.Uint16(b[8:])) || n*direntSize > len(b) {
			return 0, corrupt("directory %d: %d entries in a block", i.nid, n)
		}
		for k := range n {
			p := b[k*direntSize:]
			start, end := int(le.Uint16(p[8:])), len(b)
			if k+1 < n {
				end = int(le.Uint16(p[direntSize+8:]))
			}
			if start < n*direntSize || end > len(b) || start >= end {
				return 0, corrupt("directory %d: name out of bounds", i.nid)
			}
			raw := b[start:end]
			if k+1 == n {
				raw = []byte(strings.TrimRight(string(raw), "\x00"))
			}
			d := dirent{string(raw), le.Uint64(p), p[10]}
			if d.name <= last {
				return 0, corrupt("directory %d: names out of order", i.nid)
			}
			last = d.name
			switch {
			case d.name == ".":
				self = d.nid == i.nid && d.kind == typeDirectory
			case d.name == "..":
				parent, up = d.nid, d.kind == typeDirectory
			case checkName(d.name) != nil:
				return 0, corrupt("directory %d: %v", i.nid, checkName(d.name))
			case !do(d):
				return 0, nil
			}
		}
	}
	if !self || !up {
		return 0, corrupt("directory %d: dot entries are missing or wrong", i.nid)
	}
	return parent, nil
}
