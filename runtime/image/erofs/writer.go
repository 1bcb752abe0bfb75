package erofs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

const (
	packSize = 256 << 10 // of one packing area
	dataSize = 1 << 20   // of the buffer of file data
)

// Writer writes one image. Its methods are not safe for concurrent use, and
// after an error the image is lost.
type Writer struct {
	out    io.WriterAt
	end    int64 // where the next area or block goes
	data   []byte
	dataAt int64
	pack   []byte
	packAt int64
	used   int
	inodes uint64
	first  [BlockSize]byte // block 0: superblock and root inode, written last
	dry    bool            // lay out only
}

// Inode is a written inode.
type Inode struct {
	nid  uint64
	mode uint16
}

// NewWriter returns a writer to out, which must be empty.
func NewWriter(out io.WriterAt) *Writer {
	return &Writer{out: out, end: BlockSize, dataAt: BlockSize, data: make([]byte, 0, dataSize)}
}

// Add writes an inode that is not a directory, with size bytes of r as its
// content: a regular file's data, or a symlink's target. Other inodes have none.
func (w *Writer) Add(a Attr, size int64, r io.Reader) (Inode, error) {
	switch t := a.Mode & ModeType; {
	case t == ModeDir || fileType(a.Mode) == 0:
		return Inode{}, fmt.Errorf("mode %o is not a file's", a.Mode)
	case t == ModeSymlink && (size < 1 || size > MaxSymlink):
		return Inode{}, fmt.Errorf("symlink target of %d bytes, want 1 to %d", size, MaxSymlink)
	case t != ModeSymlink && t != ModeRegular && size != 0:
		return Inode{}, fmt.Errorf("mode %o has no content", a.Mode)
	}
	nid, err := w.inode(a, size, 1, r, false)
	return Inode{nid, a.Mode}, err
}

// inode places an inode and copies its content.
func (w *Writer) inode(a Attr, size int64, links uint32, r io.Reader, root bool) (uint64, error) {
	xattrs, err := encodeXattrs(a.Xattrs)
	if err != nil {
		return 0, err
	}
	if size < 0 || size > 1<<46 {
		return 0, fmt.Errorf("a file of %d bytes", size)
	}
	isize := extendedSize
	if a.IsWhiteout() && len(xattrs) == 0 && a.UID == 0 && a.GID == 0 && a.Mtime == 0 {
		isize = compactSize // whiteouts have no time that anyone sees
	}
	meta, room := isize+len(xattrs), BlockSize
	if root {
		room -= rootNID * slot
	}
	tail := int(size % BlockSize)
	layout := uint16(layoutInline)
	if tail == 0 || meta+tail > room {
		tail, layout = 0, layoutPlain
	}
	nid, buf := uint64(rootNID), w.first[rootNID*slot:]
	if !root {
		nid, buf, err = w.alloc(meta + tail)
	} else if meta+tail > room {
		err = errors.New("extended attributes of the root directory do not fit")
	}
	if err != nil {
		return 0, err
	}
	w.inodes++
	u := a.Rdev
	if t := a.Mode & ModeType; t == ModeRegular || t == ModeDir || t == ModeSymlink {
		u = 0
		if size > int64(tail) {
			if w.end>>blockBits > 0xfffffffe {
				return 0, errors.New("image is larger than 16 TiB")
			}
			u = uint32(w.end >> blockBits)
		}
	}
	if !w.dry {
		le := binary.LittleEndian
		le.PutUint16(buf, layout<<1)
		le.PutUint16(buf[2:], xattrCount(len(xattrs)))
		le.PutUint16(buf[4:], a.Mode)
		le.PutUint32(buf[16:], u)
		le.PutUint32(buf[20:], uint32(w.inodes))
		if isize == compactSize {
			le.PutUint16(buf[6:], uint16(links))
			le.PutUint32(buf[8:], uint32(size))
		} else {
			le.PutUint16(buf, layout<<1|1)
			le.PutUint64(buf[8:], uint64(size))
			le.PutUint32(buf[24:], a.UID)
			le.PutUint32(buf[28:], a.GID)
			le.PutUint64(buf[32:], uint64(a.Mtime))
			le.PutUint32(buf[40:], a.Nsec)
			le.PutUint32(buf[44:], links)
		}
		copy(buf[isize:], xattrs)
	}
	if err := w.blocks(size-int64(tail), r); err != nil {
		return 0, err
	}
	if tail > 0 && !w.dry {
		if _, err := io.ReadFull(r, buf[meta:meta+tail]); err != nil {
			return 0, fmt.Errorf("reading a file's content: %w", err)
		}
	}
	return nid, nil
}

// alloc finds n bytes for an inode, within one block where they fit in one: the
// end of a file may not cross a block boundary, and neither should an inode.
func (w *Writer) alloc(n int) (uint64, []byte, error) {
	used := int(roundUp(int64(w.used), slot))
	if used%BlockSize+n > BlockSize {
		used = int(roundUp(int64(used), BlockSize))
	}
	if used+n > len(w.pack) {
		if err := w.flushPack(); err != nil {
			return 0, nil, err
		}
		size := max(packSize, int(roundUp(int64(n), BlockSize)))
		if cap(w.pack) >= size {
			w.pack = w.pack[:size]
			clear(w.pack)
		} else {
			w.pack = make([]byte, size)
		}
		w.packAt, used = w.end, 0
		w.end += int64(size)
	}
	w.used = used + n
	return uint64(w.packAt+int64(used)) >> slotBits, w.pack[used : used+n], nil
}

func (w *Writer) flushPack() error {
	if len(w.pack) == 0 || w.dry {
		return nil
	}
	if _, err := w.out.WriteAt(w.pack, w.packAt); err != nil {
		return fmt.Errorf("writing an image: %w", err)
	}
	return nil
}

// closePack writes the open packing area and gives back what is free at its end
// where nothing follows it yet.
func (w *Writer) closePack() error {
	if used := roundUp(int64(w.used), BlockSize); w.packAt+int64(len(w.pack)) == w.end {
		w.pack = w.pack[:used]
		w.end = w.packAt + used
	}
	err := w.flushPack()
	w.pack, w.used = nil, 0
	return err
}

// blocks copies n bytes of r to whole blocks at the end.
func (w *Writer) blocks(n int64, r io.Reader) error {
	at := w.end
	w.end += roundUp(n, BlockSize)
	if w.dry || n == 0 {
		return nil
	}
	if w.dataAt+int64(len(w.data)) != at {
		if err := w.flushData(); err != nil {
			return err
		}
		w.dataAt = at
	}
	for left := n; left > 0; {
		if len(w.data) == cap(w.data) {
			if err := w.flushData(); err != nil {
				return err
			}
		}
		k := int(min(left, int64(cap(w.data)-len(w.data))))
		if _, err := io.ReadFull(r, w.data[len(w.data):len(w.data)+k]); err != nil {
			return fmt.Errorf("reading a file's content: %w", err)
		}
		w.data = w.data[:len(w.data)+k]
		left -= int64(k)
	}
	pad := len(w.data)
	w.data = w.data[:pad+int(roundUp(n, BlockSize)-n)]
	clear(w.data[pad:])
	return nil
}

func (w *Writer) flushData() error {
	if len(w.data) > 0 {
		if _, err := w.out.WriteAt(w.data, w.dataAt); err != nil {
			return fmt.Errorf("writing an image: %w", err)
		}
	}
	w.dataAt += int64(len(w.data))
	w.data = w.data[:0]
	return nil
}

// finish writes what is buffered, the link counts and block 0.
func (w *Writer) finish(links map[Inode]uint32) error {
	if err := w.closePack(); err != nil {
		return err
	}
	if err := w.flushData(); err != nil {
		return err
	}
	var n [4]byte
	for ino, count := range links {
		if count < 2 {
			continue
		}
		binary.LittleEndian.PutUint32(n[:], count)
		if _, err := w.out.WriteAt(n[:], int64(ino.nid)<<slotBits+44); err != nil {
			return fmt.Errorf("writing a link count: %w", err)
		}
	}
	le, sb := binary.LittleEndian, w.first[superOffset:]
	le.PutUint32(sb, magic)
	le.PutUint32(sb[8:], compatChecksum|compatMtime)
	sb[12] = blockBits
	le.PutUint16(sb[14:], rootNID)
	le.PutUint64(sb[16:], w.inodes)
	le.PutUint32(sb[36:], uint32(w.end>>blockBits))
	le.PutUint32(sb[4:], checksum(sb))
	if _, err := w.out.WriteAt(w.first[:], 0); err != nil {
		return fmt.Errorf("writing a superblock: %w", err)
	}
	return nil
}

// Size is how long the image is so far.
func (w *Writer) Size() int64 { return w.end }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum is the superblock's: CRC-32C, not inverted at the end, of the rest of
// its block with the checksum itself as zero.
func checksum(sb []byte) uint32 {
	c := crc32.Update(0, castagnoli, sb[:4])
	c = crc32.Update(c, castagnoli, make([]byte, 4))
	return ^crc32.Update(c, castagnoli, sb[8:])
}
