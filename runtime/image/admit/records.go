package admit

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/record"
	"github.com/postern-cri/postern/runtime/image"
)

// writeRecord makes rec the record of its manifest, and returns the one that
// now is: a verified one of this epoch is not replaced by one that was only let
// in. The file is made anew, never written to in place, and appears whole.
func (s *Server) writeRecord(rec *record.Record) (*record.Record, error) {
	dir := int(s.records.Fd())
	if old, _, err := record.Read(dir, rec.Manifest, uint32(os.Geteuid())); err == nil &&
		old.Epoch == rec.Epoch && old.Status == record.Verified && rec.Status != record.Verified {
		return old, nil
	}
	b, err := rec.Encode()
	if err != nil {
		return nil, fmt.Errorf("encoding a record: %w", err)
	}
	if len(b) > record.MaxSize {
		return nil, image.Errorf(image.Invalid, "a record of %d bytes, at most %d", len(b), record.MaxSize)
	}
	h, err := record.Hex(rec.Manifest)
	if err != nil {
		return nil, err
	}
	temp := tempPrefix + h
	unix.Unlinkat(dir, temp, 0)
	fd, err := unix.Openat(dir, temp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o400)
	if err != nil {
		return nil, fmt.Errorf("making a record in %s: %w", s.l.Records(), err)
	}
	f := os.NewFile(uintptr(fd), temp)
	_, err = f.Write(b)
	if err == nil {
		err = f.Chmod(0o444)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = unix.Renameat(dir, temp, dir, h+".json")
	}
	if err != nil {
		unix.Unlinkat(dir, temp, 0)
		return nil, fmt.Errorf("writing a record in %s: %w", s.l.Records(), err)
	}
	return rec, s.records.Sync()
}

// remove deletes an image's record, and the layers that no other record names.
// Whether a layer is still needed is decided from the records alone, not from
// what the caller says.
func (s *Server) remove(manifest string) error {
	h, err := record.Hex(manifest)
	if err != nil {
		return image.Errorf(image.Invalid, "%v", err)
	}
	unlock, err := s.hold()
	if err != nil {
		return err
	}
	defer unlock()
	if err := unix.Unlinkat(int(s.records.Fd()), h+".json", 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("removing a record: %w", err)
	}
	if err := s.records.Sync(); err != nil {
		return fmt.Errorf("removing a record: %w", err)
	}
	return s.sweep()
}

// known reads every record.
func (s *Server) known() (records []*record.Record, layers map[string]bool, err error) {
	names, err := list(s.records)
	if err != nil {
		return nil, nil, err
	}
	layers = map[string]bool{}
	for _, n := range names {
		h, ok := strings.CutSuffix(n, ".json")
		if !ok {
			continue
		}
		rec, _, err := record.Read(int(s.records.Fd()), "sha256:"+h, uint32(os.Geteuid()))
		if err != nil {
			// It admits nothing, as the helper will refuse it too; its layers go.
			fmt.Fprintln(os.Stderr, "postern-imaged: verify:", err)
			continue
		}
		records = append(records, rec)
		for _, l := range rec.Layers {
			layers[layerFile(l)] = true
		}
	}
	return records, layers, nil
}

func layerFile(l record.Layer) string { return strings.TrimPrefix(l.DiffID, "sha256:") + ".erofs" }

// whole says whether every layer of an image is here: a pull may have ended half
// way, or the power gone before the disk knew a layer's name.
func (s *Server) whole(rec *record.Record) bool {
	for _, l := range rec.Layers {
		var st unix.Stat_t
		if unix.Fstatat(int(s.layers.Fd()), layerFile(l), &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
			return false
		}
	}
	return true
}

// sweep removes layers without a record, and what interrupted pulls left. The
// caller holds the lock.
func (s *Server) sweep() error {
	_, layers, err := s.known()
	if err != nil {
		return err
	}
	names, err := list(s.layers)
	if err != nil {
		return err
	}
	dir := int(s.layers.Fd())
	for _, n := range names {
		stale := strings.HasPrefix(n, tempPrefix) && s.old(n)
		if stale || strings.HasSuffix(n, ".erofs") && !layers[n] {
			if err := unix.Unlinkat(dir, n, 0); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("removing a layer: %w", err)
			}
		}
	}
	if names, err = list(s.records); err != nil {
		return err
	}
	for _, n := range names {
		if strings.HasPrefix(n, tempPrefix) { // a record that the power cut; the lock is held
			if err := unix.Unlinkat(int(s.records.Fd()), n, 0); err != nil {
				return fmt.Errorf("removing half a record: %w", err)
			}
		}
	}
	return nil
}

// old says whether a temporary file belongs to no conversion that can still run.
func (s *Server) old(name string) bool {
	var st unix.Stat_t
	if unix.Fstatat(int(s.layers.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return false
	}
	return time.Since(time.Unix(st.Mtim.Unix())) > 15*time.Minute || boot().After(time.Unix(st.Mtim.Unix()))
}

// boot is when the machine started.
func boot() time.Time {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return time.Time{}
	}
	return time.Now().Add(-time.Duration(ts.Nano()))
}

func list(d *os.File) ([]string, error) {
	if _, err := d.Seek(0, 0); err != nil {
		return nil, fmt.Errorf("listing: %w", err)
	}
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("listing: %w", err)
	}
	return names, nil
}

// sync sweeps and tells which images have a record and what the layers take.
func (s *Server) sync() Answer {
	a := Answer{Op: "sync"}
	unlock, err := s.hold()
	if err != nil {
		a.Error = image.AsError(err)
		return a
	}
	defer unlock()
	if err := s.sweep(); err != nil {
		a.Error = image.AsError(err)
		return a
	}
	records, _, err := s.known()
	if err != nil {
		a.Error = image.AsError(err)
		return a
	}
	for _, r := range records {
		a.Manifests = append(a.Manifests, r.Manifest)
		if !s.whole(r) {
			a.Broken = append(a.Broken, r.Manifest)
		}
	}
	a.Usage = &image.Usage{Mountpoint: s.l.Layers()}
	names, _ := list(s.layers)
	for _, n := range names {
		var st unix.Stat_t
		if unix.Fstatat(int(s.layers.Fd()), n, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
			a.Usage.Bytes += uint64(st.Blocks) * 512
			a.Usage.Inodes++
		}
	}
	return a
}
