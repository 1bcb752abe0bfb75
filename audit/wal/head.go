package wal

import (
	"encoding/binary"
	"hash/crc32"
)

// The head file holds the last acknowledged record: sequence, hash, checksum. It
// is written after every commit and never synced, so it costs a microsecond and
// can only be older than the log. What it is for: records that were acknowledged
// and are gone from the end of the log look like a torn write without it.
const headName = "head"

const headSize = 44

func encodeHead(seq uint64, h Hash) []byte {
	b := binary.LittleEndian.AppendUint64(nil, seq)
	b = append(b, h[:]...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// readHead returns the head, and zero where there is none that can be read: a
// crash of the machine may leave half of one.
func readHead(fs FS) (uint64, Hash) {
	f, err := fs.Open(headName, false)
	if err != nil {
		return 0, Hash{}
	}
	defer f.Close()
	b := make([]byte, headSize)
	if n, _ := f.ReadAt(b, 0); n != headSize || crc32.Checksum(b[:40], castagnoli) != binary.LittleEndian.Uint32(b[40:]) {
		return 0, Hash{}
	}
	return binary.LittleEndian.Uint64(b), Hash(b[8:40])
}
