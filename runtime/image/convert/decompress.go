package convert

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

var (
	gzipMagic = []byte{0x1f, 0x8b}
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}
	// zstdSkip starts a frame without content, which some writers put first.
	zstdSkip = []byte{0x2a, 0x4d, 0x18}
)

// decompress tells the format by its first bytes, not by a media type that
// somebody wrote. xz and bzip2 are refused: no registry needs them and their
// decoders have a history.
func decompress(src io.Reader) (io.ReadCloser, error) {
	r := bufio.NewReaderSize(src, 128<<10)
	head, err := r.Peek(262)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, gzipMagic):
		return gzip.NewReader(r)
	case bytes.HasPrefix(head, zstdMagic), len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], zstdSkip):
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(2), zstd.WithDecoderMaxWindow(128<<20),
			zstd.WithDecoderMaxMemory(1<<60), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	case len(head) >= 262 && string(head[257:262]) == "ustar", len(bytes.Trim(head, "\x00")) == 0:
		return io.NopCloser(r), nil
	case len(head) >= 262 && head[156] == 0 && head[0] != 0: // the oldest tar has no magic
		return io.NopCloser(r), nil
	}
	return nil, fmt.Errorf("neither gzip nor zstd nor tar: it starts with % x", head[:min(8, len(head))])
}
