// Package erofs writes and reads the part of the EROFS format that image layers
// need: uncompressed, 4 KiB blocks, one device, no feature that changes the
// layout. A layer becomes one immutable file, written without any privilege and
// mounted as it is, so what a writer can express here is what a kernel parser
// gets to see: the less, the better.
//
// The writer streams: inodes and the ends of files go to packing areas, whole
// blocks of file data between them, in the order of the archive; directories
// come last and the superblock, block 0, after everything else. A file that was
// cut short has no superblock and is no image.
//
// The reader takes every number in the image for an attacker's.
package erofs

// The on-disk format. Offsets are in the comments of the encoders.
const (
	magic       = 0xE0F5E1E2
	superOffset = 1024
	superSize   = 128
	blockBits   = 12
	slotBits    = 5
	slot        = 1 << slotBits

	// BlockSize is the only block size that is written and read.
	BlockSize = 1 << blockBits

	compatChecksum = 1
	compatMtime    = 2

	layoutPlain  = 0
	layoutInline = 2

	compactSize  = 32
	extendedSize = 64
	direntSize   = 12
	xattrHeader  = 12

	// rootNID puts the root inode right behind the superblock: its number has
	// only 16 bits.
	rootNID = (superOffset + superSize) / slot
)

// File types of directory entries.
const (
	typeRegular = iota + 1
	typeDirectory
	typeChar
	typeBlock
	typeFIFO
	typeSocket
	typeSymlink
)

// Mode bits, as in stat(2).
const (
	ModeType    = 0o170000
	ModeSocket  = 0o140000
	ModeSymlink = 0o120000
	ModeRegular = 0o100000
	ModeBlock   = 0o060000
	ModeDir     = 0o040000
	ModeChar    = 0o020000
	ModeFIFO    = 0o010000
)

// Limits of one inode.
const (
	MaxName    = 255
	MaxSymlink = 4095
	MaxXattrs  = 64 << 10 // bytes of all names and values
)

// Opaque is the extended attribute that makes overlayfs hide the directories
// beneath the one that has it.
const Opaque = "trusted.overlay.opaque"

// Attr describes an inode.
type Attr struct {
	Mode   uint16 // type and permission bits, as in stat(2)
	UID    uint32
	GID    uint32
	Mtime  int64 // seconds
	Nsec   uint32
	Rdev   uint32 // devices only, as the kernel encodes it
	Links  uint32 // set by the reader
	Size   int64  // set by the reader
	Xattrs []Xattr
}

// Xattr is one extended attribute with its full name.
type Xattr struct {
	Name  string
	Value []byte
}

// IsDir says whether a is a directory's.
func (a *Attr) IsDir() bool { return a.Mode&ModeType == ModeDir }

// IsRegular says whether a is a regular file's.
func (a *Attr) IsRegular() bool { return a.Mode&ModeType == ModeRegular }

// IsWhiteout says whether a hides a name of the layers beneath.
func (a *Attr) IsWhiteout() bool { return a.Mode&ModeType == ModeChar && a.Rdev == 0 }

// Xattr returns the value of one extended attribute.
func (a *Attr) Xattr(name string) ([]byte, bool) {
	for i := range a.Xattrs {
		if a.Xattrs[i].Name == name {
			return a.Xattrs[i].Value, true
		}
	}
	return nil, false
}

// fileType is the type in directory entries that goes with a mode; 0 for none.
func fileType(mode uint16) uint8 {
	switch mode & ModeType {
	case ModeRegular:
		return typeRegular
	case ModeDir:
		return typeDirectory
	case ModeChar:
		return typeChar
	case ModeBlock:
		return typeBlock
	case ModeFIFO:
		return typeFIFO
	case ModeSocket:
		return typeSocket
	case ModeSymlink:
		return typeSymlink
	}
	return 0
}

// xattrPrefixes are the namespaces that have a number on disk; the two ACL names
// are whole names.
var xattrPrefixes = []struct {
	index  uint8
	prefix string
	whole  bool
}{
	{1, "user.", false}, {2, "system.posix_acl_access", true}, {3, "system.posix_acl_default", true},
	{4, "trusted.", false}, {6, "security.", false},
}

func roundUp(n, to int64) int64 { return (n + to - 1) &^ (to - 1) }
