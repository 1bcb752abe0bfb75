package node

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/postern-cri/postern/privsep/layout"
)

// Users finds the uids of the processes: by name in /etc/passwd where all of them
// are there, else eight numbers from base on. named says which.
func Users(passwd string, base uint32) (u layout.Users, named bool, err error) {
	f, err := os.Open(passwd)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return u, false, err
	}
	byName, byUID := map[string]layout.ID{}, map[uint32]string{}
	if f != nil {
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan(); {
			part := strings.Split(s.Text(), ":")
			if len(part) < 4 {
				continue
			}
			uid, err1 := strconv.ParseUint(part[2], 10, 32)
			gid, err2 := strconv.ParseUint(part[3], 10, 32)
			if err1 == nil && err2 == nil {
				byName[part[0]] = layout.ID{UID: uint32(uid), GID: uint32(gid)}
				byUID[uint32(uid)] = part[0]
			}
		}
	}
	var found, missing []string
	for _, r := range u.Roles() {
		if id, ok := byName[r.Name]; ok {
			*r.ID = id
			found = append(found, r.Name)
		} else {
			missing = append(missing, r.Name)
		}
	}
	switch {
	case len(missing) == 0:
		return u, true, nil
	case len(found) > 0:
		return u, false, fmt.Errorf("/etc/passwd has %s but not %s: add all eight users, or none",
			strings.Join(found, ", "), strings.Join(missing, ", "))
	}
	for i, r := range u.Roles() {
		uid := base + uint32(i)
		if other, taken := byUID[uid]; taken {
			return u, false, fmt.Errorf("uid %d belongs to %s: set users.base in postern.toml to eight free uids", uid, other)
		}
		*r.ID = layout.ID{UID: uid, GID: uid}
	}
	return u, false, nil
}
