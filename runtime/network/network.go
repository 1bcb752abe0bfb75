// Package network runs the node's CNI plugins for one pod. It is linked into the
// one-shot postern-cni, which holds NET_ADMIN, NET_RAW and SYS_ADMIN and nothing
// else.
//
// Rules of this package:
//   - configuration and plugins are root-owned files that nobody else can write,
//     and a plugin is a plain name in one of the plugin directories;
//   - what a plugin prints is bounded; what a pod claims is checked before it
//     becomes a plugin's argument;
//   - DEL uses the configuration that ADD used, so that a changed node can still
//     take its pods' networks down.
package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"
)

// Request is one operation, from the helper.
type Request struct {
	Op        string   `json:"op"` // add, del or status
	Pod       string   `json:"pod"`
	NetNS     string   `json:"netns"` // empty for a del whose namespace is gone
	ConfDir   string   `json:"conf_dir"`
	BinDirs   []string `json:"bin_dirs"`
	Name      string   `json:"name"`
	Namespace string   `json:"namespace"`
	UID       string   `json:"uid"`
	Ports     []Port   `json:"ports"`
	CacheDir  string   `json:"cache_dir"`
}

// Port is a host port; the names are CNI's portMappings.
type Port struct {
	Protocol      string `json:"protocol"`
	ContainerPort uint16 `json:"container_port"`
	HostPort      uint16 `json:"host_port"`
	HostIP        string `json:"host_ip"`
}

const ifName = "eth0"

// Do carries a request out and returns the pod's addresses.
func Do(ctx context.Context, r *Request) ([]string, error) {
	switch r.Op {
	case "add":
		return r.add(ctx)
	case "del":
		return nil, r.del(ctx)
	case "status":
		list, err := r.choose()
		if err != nil {
			return nil, err
		}
		return nil, r.cni().GetStatusNetworkList(ctx, list)
	}
	return nil, fmt.Errorf("unknown operation %q", r.Op)
}

func (r *Request) cni() *libcni.CNIConfig {
	return libcni.NewCNIConfigWithCacheDir(r.BinDirs, r.CacheDir, &plugins{})
}

func (r *Request) add(ctx context.Context) ([]string, error) {
	list, err := r.choose()
	if err != nil {
		return nil, err
	}
	if err := r.keep(list); err != nil {
		return nil, err
	}
	rt, err := r.runtime()
	if err != nil {
		return nil, err
	}
	c := r.cni()
	res, err := c.AddNetworkList(ctx, list, rt)
	if err != nil {
		// What the first plugins of the list did must not stay.
		return nil, errors.Join(err, c.DelNetworkList(ctx, list, rt))
	}
	got, err := types100.NewResultFromResult(res)
	if err != nil {
		return nil, fmt.Errorf("result of network %s: %w", list.Name, err)
	}
	var ips []string
	for _, ip := range got.IPs {
		// An address of an interface outside the pod is not the pod's.
		if ip.Interface == nil || *ip.Interface < 0 || *ip.Interface >= len(got.Interfaces) || got.Interfaces[*ip.Interface].Sandbox != "" {
			ips = append(ips, ip.Address.IP.String())
		}
	}
	if len(ips) == 0 {
		return nil, errors.Join(fmt.Errorf("network %s gave the pod no address", list.Name), c.DelNetworkList(ctx, list, rt))
	}
	return ips, nil
}

func (r *Request) del(ctx context.Context) error {
	b, err := os.ReadFile(r.kept())
	if errors.Is(err, os.ErrNotExist) {
		return nil // never added
	}
	if err != nil {
		return fmt.Errorf("reading the pod's network configuration: %w", err)
	}
	list, err := libcni.NetworkConfFromBytes(b)
	if err != nil {
		return fmt.Errorf("the pod's network configuration: %w", err)
	}
	rt, err := r.runtime()
	if err != nil {
		return err
	}
	if err := r.cni().DelNetworkList(ctx, list, rt); err != nil {
		return err
	}
	return os.Remove(r.kept())
}

func (r *Request) kept() string { return filepath.Join(r.CacheDir, r.Pod+".conflist") }

// keep writes down the configuration that DEL will need.
func (r *Request) keep(list *libcni.NetworkConfigList) error {
	if err := os.MkdirAll(r.CacheDir, 0o700); err != nil {
		return fmt.Errorf("keeping the pod's network configuration: %w", err)
	}
	if err := os.WriteFile(r.kept(), list.Bytes, 0o600); err != nil {
		return fmt.Errorf("keeping the pod's network configuration: %w", err)
	}
	return nil
}

// runtime is what the plugins are told about the pod.
func (r *Request) runtime() (*libcni.RuntimeConf, error) {
	args := [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", r.Namespace}, {"K8S_POD_NAME", r.Name}, {"K8S_POD_INFRA_CONTAINER_ID", r.Pod}, {"K8S_POD_UID", r.UID}}
	for _, a := range args {
		// CNI_ARGS is one string: a separator in a claimed name would be one more
		// argument.
		if strings.ContainsAny(a[1], ";=\n\x00") {
			return nil, fmt.Errorf("%s %q: the characters ; and = cannot be told to a network plugin", a[0], a[1])
		}
	}
	type mapping struct {
		HostPort      uint16 `json:"hostPort"`
		ContainerPort uint16 `json:"containerPort"`
		Protocol      string `json:"protocol"`
		HostIP        string `json:"hostIP,omitempty"`
	}
	var ports []mapping
	for _, p := range r.Ports {
		if p.HostPort != 0 {
			ports = append(ports, mapping{p.HostPort, p.ContainerPort, strings.ToLower(p.Protocol), p.HostIP})
		}
	}
	rt := &libcni.RuntimeConf{ContainerID: r.Pod, NetNS: r.NetNS, IfName: ifName, Args: args, CacheDir: r.CacheDir}
	if len(ports) > 0 {
		rt.CapabilityArgs = map[string]any{"portMappings": ports}
	}
	return rt, nil
}

// choose takes the first valid configuration by name.
func (r *Request) choose() (*libcni.NetworkConfigList, error) {
	files, err := libcni.ConfFiles(r.ConfDir, []string{".conflist", ".conf", ".json"})
	if err != nil {
		return nil, fmt.Errorf("network configuration: %w", err)
	}
	var problems []error
	for _, f := range files {
		list, err := load(f)
		if err == nil {
			return list, nil
		}
		problems = append(problems, err)
	}
	if len(problems) == 0 {
		return nil, fmt.Errorf("no network configuration (*.conflist, *.conf, *.json) in %s: install a CNI network, or run the pod in the host's network", r.ConfDir)
	}
	return nil, errors.Join(problems...)
}

func load(file string) (*libcni.NetworkConfigList, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := trusted(file, int(f.Fd())); err != nil {
		return nil, err
	}
	var list *libcni.NetworkConfigList
	if strings.HasSuffix(file, ".conflist") {
		list, err = libcni.NetworkConfFromFile(file)
	} else {
		var one *libcni.PluginConfig
		b, rerr := os.ReadFile(file)
		if rerr != nil {
			return nil, rerr
		}
		if one, err = libcni.NetworkPluginConfFromBytes(b); err == nil {
			if one.Network.Type == "" {
				return nil, fmt.Errorf("%s: key \"type\" is missing", file)
			}
			list, err = libcni.ConfListFromConf(one)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if len(list.Plugins) == 0 {
		return nil, fmt.Errorf("%s: no plugins", file)
	}
	return list, nil
}

// trusted refuses what another uid than root could have written.
func trusted(name string, fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("fstat %s: %w", name, err)
	}
	if st.Uid != 0 || st.Mode&0o022 != 0 || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("%s: mode %o of uid %d: want a regular file of root's that only root can write", name, st.Mode&0o7777, st.Uid)
	}
	return nil
}

// Text is an error on one line of at most 1 KiB.
func Text(err error) string {
	s := strings.Join(strings.Fields(err.Error()), " ")
	return s[:min(len(s), 1000)]
}

// pluginError decodes what a failed plugin printed.
func pluginError(out []byte, stderr string, err error) error {
	e := &types.Error{}
	if json.Unmarshal(out, e) == nil && e.Msg != "" {
		return e
	}
	if stderr != "" {
		return fmt.Errorf("%w: %s", err, stderr)
	}
	return err
}
