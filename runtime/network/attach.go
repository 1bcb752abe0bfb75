package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"
)

// device is the name of the pod's interface.
const device = "eth0"

// check refuses what would be read as something else further on.
func (r *Request) check() error {
	for _, dir := range append([]string{r.ConfDir, r.CacheDir}, r.BinDirs...) {
		if !filepath.IsAbs(dir) || filepath.Clean(dir) != dir {
			return fmt.Errorf("directory %q is not absolute and clean", dir)
		}
	}
	if len(r.BinDirs) == 0 {
		return errors.New("no plugin directory")
	}
	if r.Op == Status {
		return nil
	}
	const name = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-"
	if r.Pod == "" || len(r.Pod) > 128 || strings.Trim(r.Pod, name) != "" {
		return fmt.Errorf("%q is no pod", r.Pod)
	}
	if r.NetNS != "" && !filepath.IsAbs(r.NetNS) {
		return fmt.Errorf("network namespace %q is no absolute path", r.NetNS)
	}
	// CNI_ARGS is one string "a=b;c=d", so a value must not hold its signs.
	for field, v := range map[string]string{"name": r.Name, "namespace": r.Namespace, "uid": r.UID} {
		if strings.ContainsFunc(v, func(c rune) bool { return c == ';' || c == '=' || c <= ' ' || c >= 0x7f }) || len(v) > 253 {
			return fmt.Errorf("%s %q cannot be an argument of a plugin", field, v)
		}
	}
	for _, p := range r.Ports {
		if p.Protocol != "tcp" && p.Protocol != "udp" && p.Protocol != "sctp" {
			return fmt.Errorf("protocol %q", p.Protocol)
		}
		if p.HostIP != "" {
			if _, err := netip.ParseAddr(p.HostIP); err != nil {
				return fmt.Errorf("host address %q is none", p.HostIP)
			}
		}
	}
	return nil
}

// runtimeConf is what the plugins are told of the pod.
func (r *Request) runtimeConf() *libcni.RuntimeConf {
	rt := &libcni.RuntimeConf{
		ContainerID: r.Pod, NetNS: r.NetNS, IfName: device,
		Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", r.Namespace}, {"K8S_POD_NAME", r.Name},
			{"K8S_POD_INFRA_CONTAINER_ID", r.Pod}, {"K8S_POD_UID", r.UID}},
	}
	var ports []map[string]any
	for _, p := range r.Ports {
		if p.HostPort != 0 {
			ports = append(ports, map[string]any{"hostPort": p.HostPort, "containerPort": p.ContainerPort, "protocol": p.Protocol, "hostIP": p.HostIP})
		}
	}
	if ports != nil {
		rt.CapabilityArgs = map[string]any{"portMappings": ports}
	}
	return rt
}

func (r *Request) cni() *libcni.CNIConfig {
	return libcni.NewCNIConfigWithCacheDir(r.BinDirs, r.CacheDir, &runner{})
}

// add attaches the pod. What a failed attempt left is taken off again.
func (r *Request) add(ctx context.Context) ([]string, error) {
	list, err := choose(r.ConfDir)
	if err != nil {
		return nil, err
	}
	if !isNamespace(r.NetNS) {
		return nil, fmt.Errorf("network namespace %q is not there", r.NetNS)
	}
	c, rt := r.cni(), r.runtimeConf()
	adding, cancel := context.WithTimeout(ctx, addTimeout)
	defer cancel()
	result, err := c.AddNetworkList(adding, needed(list, rt), rt)
	var addresses []string
	if err == nil {
		addresses, err = addressesOf(result)
	}
	if err != nil {
		undoing, cancel := context.WithTimeout(ctx, undoTimeout)
		defer cancel()
		if e := c.DelNetworkList(undoing, list, rt); e != nil {
			err = fmt.Errorf("%w (and undoing it: %v)", err, e)
		}
		return nil, fmt.Errorf("network %s: %w", list.Name, err)
	}
	return addresses, nil
}

func addressesOf(result interface{ Version() string }) ([]string, error) {
	res, ok := result.(*types100.Result)
	if !ok {
		var err error
		if res, err = convert(result); err != nil {
			return nil, err
		}
	}
	var list []string
	for _, ip := range res.IPs {
		a, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok || !a.Unmap().IsGlobalUnicast() {
			return nil, fmt.Errorf("a plugin answered address %q", ip.Address.String())
		}
		list = append(list, a.Unmap().String())
	}
	if len(list) == 0 {
		return nil, errors.New("the plugins gave the pod no address")
	}
	return list, nil
}

// del takes the pod off. The namespace may be gone, the configuration may have
// changed: what was stored when the pod was attached is what counts. A pod that
// never was attached is an ordinary case.
func (r *Request) del(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, addTimeout)
	defer cancel()
	c, rt := r.cni(), r.runtimeConf()
	if !isNamespace(r.NetNS) {
		rt.NetNS = ""
	}
	now, noConf := choose(r.ConfDir)
	list, err := stored(c, now, rt)
	switch {
	case err != nil:
		return err
	case list != nil:
		list = needed(list, rt)
	case noConf != nil:
		return nil // never attached, and nothing to ask
	default:
		list = now
	}
	if err := c.DelNetworkList(ctx, list, rt); err != nil {
		return fmt.Errorf("network %s: %w", list.Name, err)
	}
	return nil
}

// needed leaves out the port mapper of a pod without host ports. It would do
// nothing, but take its time for it: at DEL more than all the others together.
func needed(list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) *libcni.NetworkConfigList {
	if rt.CapabilityArgs["portMappings"] != nil {
		return list
	}
	short := *list
	short.Plugins = nil
	for _, p := range list.Plugins {
		// Ports can be written into the configuration too, in principle.
		if p.Network.Type != "portmap" || bytes.Contains(p.Bytes, []byte("runtimeConfig")) {
			short.Plugins = append(short.Plugins, p)
		}
	}
	if len(short.Plugins) == 0 {
		return list
	}
	return &short
}

// stored returns the configuration that the pod was attached with; nil where it
// was not. The cache is trusted: only root can enter it.
func stored(c *libcni.CNIConfig, now *libcni.NetworkConfigList, rt *libcni.RuntimeConf) (*libcni.NetworkConfigList, error) {
	if now != nil {
		if b, was, err := c.GetNetworkListCachedConfig(now, rt); err == nil && b != nil {
			rt.CapabilityArgs = was.CapabilityArgs
			return parse("the stored configuration", b)
		}
	}
	list, err := c.GetCachedAttachments(rt.ContainerID)
	if err != nil || len(list) == 0 {
		return nil, nil
	}
	rt.CapabilityArgs = list[0].CapabilityArgs
	return parse("the stored configuration", list[0].Config)
}

// status reports whether a pod could be attached now.
func (r *Request) status(ctx context.Context) error {
	list, err := choose(r.ConfDir)
	if err != nil {
		return err
	}
	run := &runner{}
	for _, p := range list.Plugins {
		if _, err := run.FindInPath(p.Network.Type, r.BinDirs); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, undoTimeout)
	defer cancel()
	return r.cni().GetStatusNetworkList(ctx, list)
}

// isNamespace reports whether path is a pinned namespace that is still there.
func isNamespace(path string) bool {
	var st unix.Statfs_t
	return path != "" && unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}
