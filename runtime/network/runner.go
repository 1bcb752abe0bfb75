package network

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
)

const (
	maxOutput = 64 << 10 // of a plugin
	maxStderr = 4 << 10
	// pluginPath is where plugins find iptables and their like.
	pluginPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// runner executes plugins for libcni.
type runner struct{ version.PluginDecoder }

// FindInPath finds a plugin, which must be root's like its directory.
func (*runner) FindInPath(plugin string, dirs []string) (string, error) {
	if err := pluginName(plugin); err != nil {
		return "", err
	}
	for _, dir := range dirs {
		path := filepath.Join(dir, plugin)
		f, err := os.Open(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		err = rootsOwn(f)
		f.Close()
		if err != nil {
			return "", err
		}
		d, err := os.Open(dir)
		if err != nil {
			return "", err
		}
		err = rootsOwn(d)
		d.Close()
		return path, err
	}
	return "", fmt.Errorf("plugin %s is not in %s", plugin, strings.Join(dirs, ", "))
}

// ExecPlugin runs a plugin with input, in a process group of its own that is
// killed as a whole when the time is over or the output is too long.
func (*runner) ExecPlugin(ctx context.Context, path string, input []byte, environ []string) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	cmd := exec.CommandContext(ctx, path)
	cmd.Env = []string{pluginPath}
	for _, e := range environ {
		if strings.HasPrefix(e, "CNI_") {
			cmd.Env = append(cmd.Env, e)
		}
	}
	cmd.Dir = "/"
	cmd.Stdin = bytes.NewReader(input)
	stdout, stderr := &bounded{max: maxOutput, full: cancel}, &bounded{max: maxStderr}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		return nil, fmt.Errorf("plugin %s was ended: %w", filepath.Base(path), context.Cause(ctx))
	}
	if err == nil {
		return stdout.buf.Bytes(), nil
	}
	said := types.Error{}
	if json.Unmarshal(stdout.buf.Bytes(), &said) != nil || said.Msg == "" {
		said.Msg = fmt.Sprintf("plugin %s: %v: %s", filepath.Base(path), err, strings.TrimSpace(stderr.buf.String()))
	}
	return nil, &said
}

// bounded is a buffer that takes so much. What is too long for it ends the
// plugin, or is dropped where full is not set. It embeds nothing: io.Copy would
// find bytes.Buffer's ReadFrom, which has no bound.
type bounded struct {
	buf  bytes.Buffer
	max  int
	full context.CancelCauseFunc
}

func (b *bounded) Write(p []byte) (int, error) {
	if room := b.max - b.buf.Len(); len(p) > room {
		if b.full != nil {
			b.full(fmt.Errorf("its output is longer than %d bytes", b.max))
			return 0, errors.New("output is too long")
		}
		b.buf.Write(p[:room])
		return len(p), nil
	}
	return b.buf.Write(p)
}
