package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// journal is the file that the state is kept in: lines that are only ever appended,
// each eight hex digits of a checksum, a space, and a change as JSON. The checksum
// goes over all lines before, too. So what can be read is what was written up to
// some moment, whichever pages of the rest a power cut left on the disk: the first
// line that does not fit is the end.
//
// Nothing waits for the disk. A line reaches the page cache before its change is
// answered, so a killed process loses nothing; the disk follows within syncDelay.
// An fsync for each change would cost more than all else in starting a pod, and
// after a power cut nothing that this file speaks of is alive.
type journal struct {
	dir  *os.File // holds the lock
	path string
	f    *os.File
	size int64  // of the lines that are whole
	sum  uint32 // of them
	next int64  // the size at which to write the file anew
	room int64  // that it has for history at least
	rest bool   // there may be half a line at the end
	step func() // after each thing done to the disk, in tests
}

// entry is one change.
type entry struct {
	Made int64      `json:"made,omitempty"` // the first line alone: when the file was
	Pod  *Pod       `json:"pod,omitempty"`
	Ctr  *Container `json:"ctr,omitempty"`
	Gone string     `json:"gone,omitempty"` // the id of a pod or a container
}

const lockTime = 5 * time.Second

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// openJournal reads a journal, or makes one, and tells how many bytes at its end
// could not be used.
func openJournal(path string, replay func(entry)) (j *journal, lost int64, err error) {
	j = &journal{path: path, room: 1 << 20, step: func() {}}
	defer func() {
		if err != nil {
			j.close()
		}
	}()
	if j.dir, err = os.Open(filepath.Dir(path)); err != nil {
		return nil, 0, fmt.Errorf("opening the state: %w", err)
	}
	for end := time.Now().Add(lockTime); ; time.Sleep(20 * time.Millisecond) {
		if err = unix.Flock(int(j.dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
			break
		}
		if time.Now().After(end) {
			return nil, 0, fmt.Errorf("locking %s: another process holds it: %w", j.dir.Name(), err)
		}
	}
	if j.f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o600); err != nil {
		return nil, 0, fmt.Errorf("opening the state: %w", err)
	}
	b, err := io.ReadAll(j.f)
	if err != nil {
		return nil, 0, fmt.Errorf("reading the state: %w", err)
	}
	j.read(b, replay)
	lost = int64(len(b)) - j.size
	j.rest, j.next = lost > 0, max(j.room, 4*j.size)
	if j.size == 0 {
		err = j.append(entry{Made: time.Now().UnixNano()})
	}
	return j, lost, err
}

// read takes whole lines until one does not fit.
func (j *journal) read(b []byte, replay func(entry)) {
	for {
		i := bytes.IndexByte(b, '\n')
		if i < 9 || b[8] != ' ' {
			return
		}
		want, err := strconv.ParseUint(string(b[:8]), 16, 32)
		sum := crc32.Update(j.sum, castagnoli, b[9:i])
		var e entry
		if err != nil || uint32(want) != sum || json.Unmarshal(b[9:i], &e) != nil {
			return
		}
		replay(e)
		j.sum = sum
		j.size += int64(i) + 1
		b = b[i+1:]
	}
}

// lines encodes entries that follow what has this checksum.
func lines(sum uint32, entries []entry) ([]byte, uint32, error) {
	var out []byte
	for _, e := range entries {
		b, err := json.Marshal(e)
		if err != nil {
			return nil, 0, fmt.Errorf("encoding the state: %w", err)
		}
		sum = crc32.Update(sum, castagnoli, b)
		out = append(fmt.Appendf(out, "%08x ", sum), b...)
		out = append(out, '\n')
	}
	return out, sum, nil
}

// append adds changes, or leaves the file as it was.
func (j *journal) append(entries ...entry) error {
	b, sum, err := lines(j.sum, entries)
	if err != nil {
		return err
	}
	if j.rest {
		if err := j.f.Truncate(j.size); err != nil {
			return fmt.Errorf("writing the state: %w", err)
		}
		j.rest = false
	}
	_, err = j.f.Write(b)
	j.step()
	if err != nil { // of a full disk, some of it may be there
		j.rest = j.f.Truncate(j.size) != nil
		return fmt.Errorf("writing the state: %w", err)
	}
	j.size += int64(len(b))
	j.sum = sum
	return nil
}

// rewrite puts a new file in the place of this one, with nothing but what is alive.
func (j *journal) rewrite(live []entry) (err error) {
	j.next = j.size + j.room // a full disk is not asked at every change
	b, sum, err := lines(0, append([]entry{{Made: time.Now().UnixNano()}}, live...))
	if err != nil {
		return err
	}
	name := j.path + ".new"
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("writing the state anew: %w", err)
	}
	_, err = f.Write(b)
	j.step()
	if err == nil {
		err = f.Sync() // before its name says that it is the state
	}
	if err == nil {
		err = os.Rename(name, j.path)
		j.step()
	}
	if err != nil {
		f.Close()
		os.Remove(name)
		return fmt.Errorf("writing the state anew: %w", err)
	}
	j.f.Close()
	j.f, j.size, j.sum, j.rest = f, int64(len(b)), sum, false
	j.next = max(j.room, 4*j.size)
	return j.dir.Sync()
}

func (j *journal) sync() error {
	err := j.f.Sync()
	j.step()
	return err
}

func (j *journal) close() error {
	var errs []error
	for _, f := range []*os.File{j.f, j.dir} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}
