package cri

import (
	"bufio"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/postern-cri/postern/privsep/record"
	"github.com/postern-cri/postern/runtime/image/erofs"
)

// maxUserFile bounds an image's passwd and group (CVE-2025-4437, CVE-2026-47262).
const maxUserFile = 1 << 20

// OpenUsers returns a UserOpener that reads the layers in dir.
func OpenUsers(dir string) UserOpener {
	return func(i Image) (Users, error) { return openUsers(dir, i) }
}

// imageUsers reads /etc/passwd and /etc/group of an image, each at most once.
type imageUsers struct {
	files         []*os.File
	union         erofs.Union
	passwd, group [][]string
	read          [2]bool
}

func openUsers(dir string, i Image) (*imageUsers, error) {
	u := &imageUsers{}
	for _, l := range i.Layers {
		h, err := record.Hex(l)
		if err != nil {
			u.Close()
			return nil, err
		}
		f, err := os.Open(filepath.Join(dir, h+".erofs"))
		if err != nil {
			u.Close()
			return nil, err
		}
		u.files = append(u.files, f)
		layer, err := erofs.Open(f)
		if err != nil {
			u.Close()
			return nil, err
		}
		u.union = append(u.union, layer)
	}
	return u, nil
}

// Close closes the layers.
func (u *imageUsers) Close() error {
	for _, f := range u.files {
		f.Close()
	}
	return nil
}

// lines returns the records of a file that have at least n fields. A file that
// is not there has none.
func (u *imageUsers) lines(which int, path string, n int) ([][]string, error) {
	at := []*[][]string{&u.passwd, &u.group}[which]
	if u.read[which] {
		return *at, nil
	}
	b, err := u.union.ReadFile(path, maxUserFile)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return nil, err
	}
	s := bufio.NewScanner(bytes.NewReader(b))
	s.Buffer(nil, maxUserFile)
	for s.Scan() {
		if f := strings.Split(s.Text(), ":"); len(f) >= n && f[0] != "" && !strings.HasPrefix(f[0], "#") {
			*at = append(*at, f)
		}
	}
	u.read[which] = true
	return *at, s.Err()
}

func id31(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 31)
	return uint32(n), err == nil
}

func (u *imageUsers) user(match func(name string, uid uint32) bool) (name string, uid, gid uint32, found bool, err error) {
	lines, err := u.lines(0, "/etc/passwd", 4)
	for _, f := range lines {
		n, ok1 := id31(f[2])
		g, ok2 := id31(f[3])
		if ok1 && ok2 && match(f[0], n) {
			return f[0], n, g, true, nil
		}
	}
	return "", 0, 0, false, err
}

// ByName implements container.UserDB.
func (u *imageUsers) ByName(name string) (uid, gid uint32, found bool, err error) {
	_, uid, gid, found, err = u.user(func(n string, _ uint32) bool { return n == name })
	return uid, gid, found, err
}

// ByUID implements container.UserDB.
func (u *imageUsers) ByUID(uid uint32) (name string, gid uint32, found bool, err error) {
	name, _, gid, found, err = u.user(func(_ string, n uint32) bool { return n == uid })
	return name, gid, found, err
}

// Group implements container.UserDB.
func (u *imageUsers) Group(name string) (gid uint32, found bool, err error) {
	lines, err := u.lines(1, "/etc/group", 3)
	for _, f := range lines {
		if g, ok := id31(f[2]); ok && f[0] == name {
			return g, true, nil
		}
	}
	return 0, false, err
}

// maxMember bounds the groups of one user: the kernel takes 65,536 and a plan
// 1,024.
const maxMember = 512

// Member implements container.UserDB.
func (u *imageUsers) Member(name string) ([]uint32, error) {
	lines, err := u.lines(1, "/etc/group", 4)
	var out []uint32
	for _, f := range lines {
		if len(f) < 4 || len(out) == maxMember {
			continue
		}
		for _, m := range strings.Split(f[3], ",") {
			if g, ok := id31(f[2]); ok && m == name {
				out = append(out, g)
				break
			}
		}
	}
	return out, err
}
