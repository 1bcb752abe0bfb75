// Package userdb looks names up in an image's /etc/passwd and /etc/group. It
// reads them from the layers' EROFS files, through a reader that checks every
// bound: no path of the image is ever opened on the host, so that a symlink in
// the image cannot lead anywhere.
//
// What it answers was written by the image's author: numbers inside the
// container and nothing else.
package userdb

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/postern-cri/postern/privsep/record"
	"github.com/postern-cri/postern/runtime/image/erofs"
)

// MaxFile is the most bytes of either file.
const MaxFile = 1 << 20

// DB answers for one image.
type DB struct {
	union  erofs.Union
	files  []*os.File
	passwd []byte
	group  []byte
	read   [2]bool
}

// Open opens the layers, lowest first, of which the files lie in dir.
func Open(dir string, diffIDs []string) (*DB, error) {
	d := &DB{}
	for _, id := range diffIDs {
		h, err := record.Hex(id)
		if err != nil {
			d.Close()
			return nil, err
		}
		f, err := os.Open(filepath.Join(dir, h+".erofs"))
		if err != nil {
			d.Close()
			return nil, fmt.Errorf("opening a layer: %w", err)
		}
		d.files = append(d.files, f)
		l, err := erofs.Open(f)
		if err != nil {
			d.Close()
			return nil, fmt.Errorf("layer %s: %w", id, err)
		}
		d.union = append(d.union, l)
	}
	return d, nil
}

// Close closes the layers.
func (d *DB) Close() error {
	for _, f := range d.files {
		f.Close()
	}
	return nil
}

func (d *DB) load(k int, path string, into *[]byte) error {
	if d.read[k] {
		return nil
	}
	b, err := d.union.ReadFile(path, MaxFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("image: %w", err)
	}
	*into, d.read[k] = b, true
	return nil
}

// lines calls do with the fields of each line that has at least min of them.
func lines(b []byte, min int, do func([]string) bool) {
	for len(b) > 0 {
		var line []byte
		line, b, _ = bytes.Cut(b, []byte("\n"))
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		if f := strings.Split(string(line), ":"); len(f) >= min && !do(f) {
			return
		}
	}
}

// number reads an id; one that does not fit in 31 bits is nobody's: elsewhere
// such a number became 0.
func number(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n > math.MaxInt32 || strings.HasPrefix(s, "+") {
		return 0, fmt.Errorf("image: %.40q is not an id from 0 to %d", s, math.MaxInt32)
	}
	return uint32(n), nil
}

// ByName finds a user by name.
func (d *DB) ByName(name string) (uid, gid uint32, found bool, err error) {
	if err = d.load(0, "/etc/passwd", &d.passwd); err != nil {
		return
	}
	lines(d.passwd, 4, func(f []string) bool {
		if f[0] != name {
			return true
		}
		if uid, err = number(f[2]); err == nil {
			gid, err = number(f[3])
		}
		found = err == nil
		return false
	})
	return uid, gid, found, err
}

// ByUID finds the first user with this uid.
func (d *DB) ByUID(uid uint32) (name string, gid uint32, found bool, err error) {
	if err = d.load(0, "/etc/passwd", &d.passwd); err != nil {
		return
	}
	lines(d.passwd, 4, func(f []string) bool {
		if n, e := number(f[2]); e != nil || n != uid {
			return true
		}
		name = f[0]
		gid, err = number(f[3])
		found = err == nil
		return false
	})
	return name, gid, found, err
}

// Group finds a group's number by name.
func (d *DB) Group(name string) (gid uint32, found bool, err error) {
	if err = d.load(1, "/etc/group", &d.group); err != nil {
		return
	}
	lines(d.group, 3, func(f []string) bool {
		if f[0] != name {
			return true
		}
		gid, err = number(f[2])
		found = err == nil
		return false
	})
	return gid, found, err
}

// maxGroups bounds what a member list may add: the kernel's own limit.
const maxGroups = 65536

// Member lists the groups that name is a member of.
func (d *DB) Member(name string) ([]uint32, error) {
	if err := d.load(1, "/etc/group", &d.group); err != nil {
		return nil, err
	}
	var gids []uint32
	var err error
	lines(d.group, 4, func(f []string) bool {
		for _, m := range strings.Split(f[3], ",") {
			if strings.TrimSpace(m) != name {
				continue
			}
			var gid uint32
			if gid, err = number(f[2]); err != nil {
				return false
			}
			gids = append(gids, gid)
			break
		}
		return len(gids) < maxGroups
	})
	return gids, err
}
