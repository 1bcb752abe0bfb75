package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"
)

// maxOutput is the most that a plugin may print.
const maxOutput = 64 << 10

// searchPath is for plugins that run iptables or nft.
const searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// plugins runs plugins: libcni's invoke.Exec.
type plugins struct {
	version.PluginDecoder
}

// FindInPath finds the plugin in dirs. Its name is a configuration's word: it
// must be a plain one, and the file root's own (CVE-2021-20206).
func (*plugins) FindInPath(plugin string, dirs []string) (string, error) {
	if plugin == "" || strings.ContainsRune(plugin, '/') || strings.HasPrefix(plugin, ".") {
		return "", fmt.Errorf("plugin type %q is not a plain name", plugin)
	}
	for _, d := range dirs {
		p := filepath.Join(d, plugin)
		f, err := os.OpenFile(p, unix.O_PATH|unix.O_CLOEXEC, 0)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		err = trusted(p, int(f.Fd()))
		f.Close()
		return p, err
	}
	return "", fmt.Errorf("plugin %q is not in %s", plugin, strings.Join(dirs, ", "))
}

// bounded keeps the first maxOutput bytes and remembers that there were more.
type bounded struct {
	bytes.Buffer
	over bool
}

func (b *bounded) Write(p []byte) (int, error) {
	keep := min(len(p), maxOutput-b.Len())
	b.Buffer.Write(p[:keep])
	b.over = b.over || keep < len(p)
	return len(p), nil
}

// ExecPlugin runs one plugin in a process group of its own, which is killed when
// ctx ends.
func (*plugins) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	var out, stderr bounded
	c := exec.CommandContext(ctx, path)
	c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(stdin), &out, &stderr
	c.Dir = "/"
	c.Env = []string{searchPath}
	for _, e := range environ {
		if strings.HasPrefix(e, "CNI_") {
			c.Env = append(c.Env, e)
		}
	}
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return unix.Kill(-c.Process.Pid, unix.SIGKILL) }
	c.WaitDelay = time.Second
	err := c.Run()
	if out.over {
		return nil, fmt.Errorf("plugin %s printed more than %d bytes", filepath.Base(path), maxOutput)
	}
	if err != nil {
		return nil, fmt.Errorf("plugin %s: %w", filepath.Base(path), pluginError(out.Bytes(), strings.TrimSpace(stderr.String()), err))
	}
	return out.Bytes(), nil
}
