package engine

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// Limits of a policy directory.
const (
	maxFiles    = 256
	maxFileSize = 1 << 20
	maxTotal    = 8 << 20
)

// Files is a policy as it lies on disk: name to content.
type Files map[string][]byte

// ReadDir reads the *.rego files and data.json of dir, not of what is beneath it.
func ReadDir(dir string) (Files, error) {
	ents, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("reading the policy directory: %w", err)
	}
	files, total := Files{}, 0
	for _, e := range ents {
		name := e.Name()
		if strings.HasPrefix(name, ".") || e.IsDir() || !strings.HasSuffix(name, ".rego") && name != dataFile {
			continue
		}
		if len(files) == maxFiles {
			return nil, fmt.Errorf("%s: more than %d files", dir, maxFiles)
		}
		b, err := readFile(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		if total += len(b); total > maxTotal {
			return nil, fmt.Errorf("%s: more than %d bytes", dir, maxTotal)
		}
		files[name] = b
	}
	return files, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("reading policy: %w", err)
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, fmt.Errorf("reading policy: %s is not a regular file", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		return nil, fmt.Errorf("reading policy: %w", err)
	}
	if len(b) > maxFileSize {
		return nil, fmt.Errorf("reading policy: %s has more than %d bytes", path, maxFileSize)
	}
	return b, nil
}

// isTest tells whether a file holds tests: they are not part of the policy.
func isTest(name string) bool { return strings.HasSuffix(name, "_test.rego") }

// Policy returns the files without the tests.
func (f Files) Policy() Files {
	out := Files{}
	for n, b := range f {
		if !isTest(n) {
			out[n] = b
		}
	}
	return out
}

// Revision names the policy: the first 16 digits of the SHA-256 over the names
// and contents of its files and of the engine's own modules.
func (f Files) revision() string {
	all := f.Policy()
	for n, b := range systemModules() {
		all["system/"+n] = b
	}
	names := make([]string, 0, len(all))
	for n := range all {
		names = append(names, n)
	}
	sort.Strings(names)
	h := sha256.New()
	for _, n := range names {
		fmt.Fprintf(h, "%s\x00%x\n", n, sha256.Sum256(all[n]))
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}
