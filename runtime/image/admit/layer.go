package admit

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/record"
	"github.com/postern-cri/postern/runtime/image"
	"github.com/postern-cri/postern/runtime/image/erofs"
	"github.com/postern-cri/postern/runtime/image/manifest"
)

// tempPrefix marks files that no finished pull left behind.
const tempPrefix = ".tmp-"

// admit lets one layer in: blob is an open file of the fetching process, and
// nothing about it is believed.
func (s *Server) admit(rec *record.Record, files []string, r Request, blob int) error {
	defer unix.Close(blob)
	if rec == nil || rec.Manifest != r.Manifest || r.Layer < 0 || r.Layer >= len(rec.Layers) {
		return image.Errorf(image.Invalid, "layer %d of %.80q was not verified here", r.Layer, r.Manifest)
	}
	want := rec.Layers[r.Layer]
	name, err := record.Hex(want.DiffID)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(blob, &st); err != nil {
		return fmt.Errorf("looking at a blob: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != want.Size {
		return image.Errorf(image.Invalid, "layer %s: a blob of %d bytes, want %d", want.Digest, st.Size, want.Size)
	}
	temp, out, err := s.temp()
	if err != nil {
		return err
	}
	dir := int(s.layers.Fd())
	keep := false
	defer func() {
		if !keep {
			unix.Unlinkat(dir, temp, 0)
		}
	}()
	file := ""
	if files != nil {
		file = files[r.Layer]
	}
	res, err := s.converters.convert(blob, out, file)
	unix.Close(out)
	if errors.Is(err, errFull) {
		return image.Errorf(image.Internal, "writing layer %s in %s: %v", want.Digest, s.l.Layers(), err)
	}
	if err != nil {
		return err
	}
	if res.Digest != want.Digest {
		return image.Errorf(image.Invalid, "layer %s: the registry sent %s", want.Digest, res.Digest)
	}
	if file != "" {
		res.DiffID = manifest.FileID(res.Digest, file)
	}
	if res.DiffID != want.DiffID {
		return image.Errorf(image.Invalid, "layer %s: its content is %s, the image's configuration says %s", want.Digest, res.DiffID, want.DiffID)
	}
	if err := s.check(temp); err != nil {
		return fmt.Errorf("layer %s: %w", want.Digest, err)
	}
	// One that is here stays: other images have it, too, and this one comes from
	// a converter that read what this image's author wrote.
	err = unix.Renameat2(dir, temp, dir, name+".erofs", unix.RENAME_NOREPLACE)
	if err != nil && err != unix.EEXIST {
		return fmt.Errorf("admitting layer %s: %w", want.DiffID, err)
	}
	keep = err == nil
	return nil
}

// temp makes the file that the converter writes to.
func (s *Server) temp() (string, int, error) {
	var b [12]byte
	rand.Read(b[:])
	name := tempPrefix + hex.EncodeToString(b[:])
	fd, err := unix.Openat(int(s.layers.Fd()), name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return "", -1, fmt.Errorf("making a layer: %w", err)
	}
	return name, fd, nil
}

// check reads the image again. First it makes sure that nobody can write to it
// any more: a converter that kept its fd could change what was checked, and a
// read lease is not given while anyone has the file open for writing.
func (s *Server) check(name string) error {
	fd, err := unix.Openat(int(s.layers.Fd()), name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("opening a converted layer: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if err := lease(fd); err != nil {
		return err
	}
	img, err := erofs.Open(f)
	if err != nil {
		return image.Errorf(image.Invalid, "checking a converted layer: %v", err)
	}
	if st, err := f.Stat(); err != nil || st.Size() != img.Size() {
		return image.Errorf(image.Invalid, "checking a converted layer: its size is not %d", img.Size())
	}
	if _, err := img.Check(maxInodes); err != nil {
		return image.Errorf(image.Invalid, "checking a converted layer: %v", err)
	}
	if err := f.Chmod(0o444); err != nil {
		return fmt.Errorf("closing a layer: %w", err)
	}
	if err := unix.Fdatasync(fd); err != nil {
		return fmt.Errorf("writing a layer to disk: %w", err)
	}
	return nil
}

// lease waits until nobody has the file open for writing.
func lease(fd int) error {
	for wait := time.Millisecond; ; wait *= 2 {
		_, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_RDLCK)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EAGAIN) {
			return fmt.Errorf("making sure that a layer has no writer: %w", err)
		}
		if wait > time.Second {
			return image.Errorf(image.Internal, "a converter keeps its layer open")
		}
		time.Sleep(wait)
	}
}
