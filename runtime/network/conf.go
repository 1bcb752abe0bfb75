package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
)

// maxConf bounds the size of a configuration file.
const maxConf = 256 << 10

// ErrNoNetwork says that there is no configuration yet: a node is not ready until
// its network add-on has written one.
var ErrNoNetwork = errors.New("no network configuration")

// choose returns the first valid configuration of dir, in the order of the names.
// One that somebody else could have written is not passed over: it is an error.
func choose(dir string) (*libcni.NetworkConfigList, error) {
	d, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s does not exist", ErrNoNetwork, dir)
	}
	if err != nil {
		return nil, err
	}
	defer d.Close()
	if err := rootsOwn(d); err != nil {
		return nil, err
	}
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var invalid error
	for _, name := range names {
		switch filepath.Ext(name) {
		case ".conflist", ".conf", ".json":
		default:
			continue
		}
		b, err := readConf(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		list, err := parse(name, b)
		if err == nil {
			return list, nil
		}
		if invalid == nil {
			invalid = err
		}
	}
	if invalid != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoNetwork, invalid)
	}
	return nil, fmt.Errorf("%w: %s has none", ErrNoNetwork, dir)
}

func readConf(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := rootsOwn(f); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxConf+1))
	if err == nil && len(b) > maxConf {
		err = fmt.Errorf("%s is larger than 256 KiB", path)
	}
	return b, err
}

// rootsOwn refuses what somebody else than root could have written.
func rootsOwn(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Sys().(*syscall.Stat_t).Uid != 0 || info.Mode()&0o022 != 0 {
		return fmt.Errorf("%s must belong to root and be writable by nobody else, not %v", f.Name(), info.Mode())
	}
	if !info.IsDir() && !info.Mode().IsRegular() {
		return fmt.Errorf("%s is no regular file", f.Name())
	}
	return nil
}

// asList is the list whose only plugin is one.
func asList(one *libcni.PluginConfig) (*libcni.NetworkConfigList, error) {
	b, err := json.Marshal(map[string]any{"cniVersion": one.Network.CNIVersion, "name": one.Network.Name,
		"plugins": []json.RawMessage{one.Bytes}})
	if err != nil {
		return nil, err
	}
	return libcni.NetworkConfFromBytes(b)
}

// parse reads a list of plugins, or a single one as a list.
func parse(name string, b []byte) (*libcni.NetworkConfigList, error) {
	list, err := libcni.NetworkConfFromBytes(b)
	if err != nil || len(list.Plugins) == 0 {
		if one, e := libcni.NetworkPluginConfFromBytes(b); e == nil && one.Network.Type != "" {
			list, err = asList(one)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(list.Plugins) == 0 {
		return nil, fmt.Errorf("%s: no plugins", name)
	}
	for _, p := range list.Plugins {
		if err := pluginName(p.Network.Type); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if ipam := p.Network.IPAM.Type; ipam != "" {
			if err := pluginName(ipam); err != nil {
				return nil, fmt.Errorf("%s: ipam: %w", name, err)
			}
		}
	}
	return list, nil
}

func pluginName(t string) error {
	if t == "" || strings.ContainsAny(t, "/\x00") || strings.Contains(t, "..") {
		return fmt.Errorf("plugin type %q is no name", t)
	}
	return nil
}

func convert(result interface{ Version() string }) (*types100.Result, error) {
	r, ok := result.(types.Result)
	if !ok {
		return nil, errors.New("the plugins answered no result")
	}
	return types100.NewResultFromResult(r)
}
