package fetch

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/layout"
)

// certsDirs hold CAs and client certificates, in a directory for each registry,
// when postern.toml names no other (containers-certs.d(5)).
var certsDirs = []string{"/etc/containers/certs.d", "/etc/docker/certs.d"}

const (
	maxCerts = 4096 // files
	maxCert  = 1 << 20
)

// ReadCerts reads them with root's rights, as ReadAuth does and for the same
// reason: the keys of client certificates are for root's eyes only. The names are
// "HOST:PORT/FILE".
func ReadCerts(named string) (map[string][]byte, error) {
	dirs := certsDirs
	if named != "" {
		dirs = []string{named}
		if _, err := os.Stat(named); err != nil {
			return nil, fmt.Errorf("image.certs_dir: %w", err)
		}
	}
	files := map[string][]byte{}
	for _, dir := range dirs {
		hosts, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("image.certs_dir: %w", err)
		}
		for _, h := range hosts {
			list, err := os.ReadDir(filepath.Join(dir, h.Name()))
			if err != nil {
				continue // a file, perhaps a README
			}
			for _, e := range list {
				name := filepath.Join(h.Name(), e.Name())
				if !slices.Contains([]string{".crt", ".cert", ".key"}, filepath.Ext(name)) || files[name] != nil {
					continue
				}
				if files[name], err = readCert(filepath.Join(dir, name)); err != nil {
					return nil, fmt.Errorf("image.certs_dir: %w", err)
				}
				if len(files) > maxCerts {
					return nil, fmt.Errorf("image.certs_dir: more than %d files", maxCerts)
				}
			}
		}
	}
	return files, nil
}

func readCert(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxCert+1))
	if err == nil && len(b) > maxCert {
		err = fmt.Errorf("%s is longer than %d bytes", path, maxCert)
	}
	return b, err
}

// KeepCerts puts what ReadCerts returned where the role can read it, in place of
// what was there, and says where that is.
func KeepCerts(l layout.Layout, files map[string][]byte) (string, error) {
	dir := filepath.Join(l.FetchState(), "certs.d")
	if err := os.RemoveAll(dir); err != nil {
		return "", fmt.Errorf("dropping old certificates: %w", err)
	}
	for name, b := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return "", fmt.Errorf("keeping certificates: %w", err)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			return "", fmt.Errorf("keeping certificates: %w", err)
		}
	}
	return dir, nil
}
