// Package convert turns a layer, a tar archive that anyone may have made, into
// an EROFS image. The digests of the compressed and of the uncompressed bytes
// are computed on the very bytes that are parsed, in the same pass, so that no
// second reading can see another archive.
//
// It makes no file and follows no path: the layer's tree exists in memory only,
// and what the archive says about names can do no more than end up in the image
// or be refused. An entry is refused, by name, when runtimes are known to
// disagree about it: a parent that is a symlink, a hard link to nothing, "..".
package convert

import (
	"errors"
	"fmt"
)

// Limits bound one layer.
type Limits struct {
	Entries int   // names, with the directories that are only implied
	Bytes   int64 // uncompressed
	Blob    int64 // as pulled
	Trailer int64 // zero bytes behind the archive's end
}

// DefaultLimits are generous for real images and small enough for a node.
var DefaultLimits = Limits{Entries: 1 << 20, Bytes: 64 << 30, Blob: 32 << 30, Trailer: 16 << 20}

// Result says what was converted.
type Result struct {
	Digest string `json:"digest"`  // of the bytes as read
	DiffID string `json:"diff_id"` // of the uncompressed bytes
	Blob   int64  `json:"blob"`    // how many bytes were read
	Tar    int64  `json:"tar"`     // how many they were uncompressed
	Image  int64  `json:"image"`   // how long the image is
}

// EntryError is a layer that was refused for one of its entries.
type EntryError struct {
	Name   string
	Reason string
}

// Error names the entry.
func (e *EntryError) Error() string {
	return fmt.Sprintf("layer entry %.200q refused: %s", e.Name, e.Reason)
}

// ErrTooLarge is wrapped where a limit was met.
var ErrTooLarge = errors.New("layer exceeds a limit")
