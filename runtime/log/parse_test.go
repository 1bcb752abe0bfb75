package logd

import (
	"bytes"
	"errors"
	"strings"
	"time"
)

// Record is one line of a log in the CRI format.
type Record struct {
	Time    time.Time
	Stream  Stream
	Partial bool // the line goes on in the next record
	Content []byte
}

// ErrFormat says that a line is not in the CRI log format.
var ErrFormat = errors.New("not a line of a CRI log")

// Parse reads one line of a log, without or with its newline. Content aliases line.
func Parse(line []byte) (Record, error) {
	var r Record
	line = bytes.TrimSuffix(line, []byte("\n"))
	if bytes.IndexByte(line, '\n') >= 0 {
		return r, ErrFormat
	}
	stamp, rest, ok1 := bytes.Cut(line, []byte(" "))
	stream, rest, ok2 := bytes.Cut(rest, []byte(" "))
	tag, content, ok3 := bytes.Cut(rest, []byte(" "))
	if !ok1 || !ok2 || !ok3 {
		return r, ErrFormat
	}
	t, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil {
		return r, ErrFormat
	}
	r.Time, r.Content = t, content
	switch string(stream) {
	case "stdout":
	case "stderr":
		r.Stream = Stderr
	default:
		return r, ErrFormat
	}
	switch first, _, _ := strings.Cut(string(tag), ":"); first {
	case "F":
	case "P":
		r.Partial = true
	default:
		return r, ErrFormat
	}
	return r, nil
}
