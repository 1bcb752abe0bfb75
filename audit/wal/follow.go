package wal

import (
	"errors"
	"io/fs"
)

// Follower reads the log from its first record on, whole records only, and goes
// on where it stopped: a reader of a running log calls Next again and again.
type Follower struct {
	fs  FS
	seg uint64
	at  cursor
	f   File
}

// NewFollower returns a Follower at the beginning of the log.
func NewFollower(fs FS) *Follower { return &Follower{fs: fs} }

// Next visits the records that are there now and were not visited yet. Damage is
// not its business: it goes on with the next segment, and Verify tells.
func (w *Follower) Next(visit func(Frame) error) error {
	for {
		if w.f == nil {
			ok, err := w.open()
			if err != nil || !ok {
				return err
			}
		}
		// A next segment must be looked for before the end of this one is read.
		next, more, err := w.following()
		if err != nil {
			return err
		}
		size, err := w.f.Size()
		if err != nil {
			return err
		}
		limit := size
		if more && next.PrevIndex == w.seg {
			limit = min(size, next.PrevBytes) // beyond lies what was never acknowledged
		}
		w.at, err = walk(w.f, segmentName(w.seg), w.at, limit, visit)
		var bad *Damage
		if err != nil && !errors.As(err, &bad) {
			return err
		}
		if !more {
			return nil
		}
		w.f.Close()
		w.f = nil
	}
}

// Close closes what is open.
func (w *Follower) Close() error {
	if w.f == nil {
		return nil
	}
	return w.f.Close()
}

// following returns the header of the next segment that holds records.
func (w *Follower) following() (Header, bool, error) {
	segs, err := segments(w.fs)
	if err != nil {
		return Header{}, false, err
	}
	for _, i := range segs {
		if i > w.seg {
			if h, size, err := segmentHeader(w.fs, i); err == nil {
				if size > HeaderSize { // an empty one may be one whose making failed, and this one goes on
					return h, true, nil
				}
			} else if errors.Is(err, fs.ErrPermission) {
				return h, false, err
			}
		}
	}
	return Header{}, false, nil
}

func (w *Follower) open() (bool, error) {
	h, ok, err := w.following()
	if err != nil || !ok {
		return false, err
	}
	f, err := w.fs.Open(segmentName(h.Index), false)
	if err != nil {
		return false, err
	}
	w.f, w.seg = f, h.Index
	w.at = cursor{h.FirstSeq, h.PrevHash, HeaderSize}
	return true, nil
}
