package node

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// owned finds that somebody other than root can change path. What is not there is
// nobody's.
func owned(path string) []Finding {
	var st unix.Stat_t
	switch err := unix.Lstat(path, &st); {
	case errors.Is(err, unix.ENOENT):
		return nil
	case err != nil:
		return []Finding{{Error: true, What: path, Text: err.Error()}}
	case st.Uid != 0 || st.Mode&unix.S_IFMT != unix.S_IFLNK && st.Mode&0o022 != 0:
		return []Finding{{Error: true, What: path, Text: "can be changed by somebody other than root",
			Remedy: "chown root: " + path + " && chmod go-w " + path}}
	}
	return nil
}

// ownedIn looks at each file of a directory: who can change one key or one rule
// decides as much as who can change them all.
func ownedIn(dir string) (out []Finding) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return []Finding{{Error: true, What: dir, Text: err.Error()}}
	}
	for _, e := range entries {
		out = append(out, owned(filepath.Join(dir, e.Name()))...)
	}
	return out
}
