package logd

import (
	"bytes"
	"time"
)

// MaxLine is the most bytes of content that one record carries. A longer line
// is split into records tagged P, the last of them tagged F.
const MaxLine = 16 << 10

// Stream is one of a container's two output streams.
type Stream uint8

// The streams. A terminal's output is all Stdout.
const (
	Stdout Stream = iota
	Stderr
)

// String returns the name that stands in the log.
func (s Stream) String() string {
	if s == Stderr {
		return "stderr"
	}
	return "stdout"
}

const (
	// timeLayout is RFC 3339 with all nine digits, in UTC: every header has the
	// same length, and lines sort as they happened.
	timeLayout = "2006-01-02T15:04:05.000000000Z07:00"
	headerLen  = len("2006-01-02T15:04:05.000000000Z stdout F ")
)

// appendHeader appends "<time> <stream> F " to b.
func appendHeader(b []byte, t time.Time, s Stream) []byte {
	b = t.UTC().AppendFormat(b, timeLayout)
	b = append(b, ' ')
	b = append(b, s.String()...)
	return append(b, " F "...)
}

// format appends records for the beginning of raw to out, at most max bytes in
// all, and returns out and how many bytes of raw the records hold. A line
// without its newline is left alone unless force is set or it is longer than
// MaxLine.
//
// Formatting is a pure function, and of what it took it makes the same records
// again when force is set: that is how a successor finishes a record that its
// predecessor was killed in. Content is never interpreted; a newline always ends
// a record, so no content can forge one.
func format(out []byte, max int, raw []byte, t time.Time, s Stream, force bool) ([]byte, int) {
	var header [headerLen + 8]byte
	h := appendHeader(header[:0], t, s)
	tag := len(h) - 2
	taken := 0
	for taken < len(raw) {
		rest := raw[taken:]
		// One byte more than MaxLine: a line of exactly MaxLine is whole.
		window := rest[:min(len(rest), MaxLine+1)]
		size, skip := bytes.IndexByte(window, '\n'), 1
		h[tag] = 'F'
		if size < 0 {
			if len(rest) <= MaxLine && !force {
				break
			}
			size, skip = min(len(rest), MaxLine), 0
			h[tag] = 'P'
		}
		if len(out)+len(h)+size+1 > max {
			break
		}
		out = append(out, h...)
		out = append(out, rest[:size]...)
		out = append(out, '\n')
		taken += size + skip
	}
	return out, taken
}
