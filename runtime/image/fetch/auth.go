package fetch

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/layout"
)

// authFiles are where the credentials of a node's administrator lie
// (containers-auth.json(5)), when postern.toml names no file.
var authFiles = []string{"/etc/containers/auth.json", "/run/containers/0/auth.json"}

const maxAuth = 1 << 20

// ReadAuth reads the file with the node's credentials, named or in one of the
// usual places; nil is none. It is the one thing that the role does with root's
// rights beside reading its configuration: such files are for root's eyes only.
func ReadAuth(named string) ([]byte, error) {
	files := authFiles
	if named != "" {
		files = []string{named}
	}
	for _, name := range files {
		f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
		if errors.Is(err, os.ErrNotExist) && named == "" {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("image.auth_file: %w", err)
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, maxAuth+1))
		if err == nil && len(b) > maxAuth {
			err = fmt.Errorf("%s is longer than %d bytes", name, maxAuth)
		}
		if err != nil {
			return nil, fmt.Errorf("image.auth_file: %w", err)
		}
		return b, nil
	}
	return nil, nil
}

// KeepAuth puts what ReadAuth returned where the role can read it, and says where
// that is; "" is nowhere. It runs without any right but the role's own.
func KeepAuth(l layout.Layout, b []byte) (string, error) {
	file := filepath.Join(l.FetchState(), "auth.json")
	if b == nil {
		if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("dropping old credentials: %w", err)
		}
		return "", nil
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		return "", fmt.Errorf("keeping credentials: %w", err)
	}
	return file, nil
}
