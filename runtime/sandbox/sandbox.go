// Package sandbox translates a CRI pod sandbox configuration into the closed
// PodPlan that the privileged side understands. It is a pure function of the
// request and of the ceiling's names: it asks nobody and touches nothing.
//
// What a plan cannot say is refused with an error that names the CRI field. A
// field that were dropped instead would be a promise to the pod's author that
// nobody keeps.
package sandbox

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/postern-cri/postern/privsep/plan"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Locator names places on the host in the words of the ceiling. An error says
// which path lies beneath no root and how the operator can add one.
type Locator interface {
	// CgroupParent locates a cgroup parent; "" is the ceiling's first root.
	CgroupParent(path string) (plan.Place, error)
	// LogDir locates a pod log directory.
	LogDir(path string) (plan.Place, error)
}

// Plan translates cfg. The class is the narrowest that the pod fits in.
func Plan(cfg *cri.PodSandboxConfig, handler string, at Locator) (plan.PodPlan, error) {
	var p plan.PodPlan
	if err := checkMetadata(cfg); err != nil {
		return p, err
	}
	if cfg.Windows != nil {
		return p, Refuse("windows", "this is a Linux runtime")
	}
	sc := cfg.GetLinux().GetSecurityContext()
	p.UID = cfg.Metadata.Uid
	p.Handler = handler
	// There is no sandbox process that any of the two could be of.
	if sc.GetRunAsGroup() != nil && sc.GetRunAsUser() == nil {
		return p, Refuse("linux.security_context.run_as_group", "only with run_as_user")
	}
	p.Privileged = sc.GetPrivileged()
	if err := namespaces(&p, sc.GetNamespaceOptions()); err != nil {
		return p, err
	}
	var err error
	if p.Hostname, err = hostname(cfg, p.Network); err != nil {
		return p, err
	}
	if p.Sysctls, err = Sysctls(cfg.GetLinux().GetSysctls(), p.Network, p.IPC); err != nil {
		return p, err
	}
	if p.Ports, err = ports(cfg.PortMappings, p.Network); err != nil {
		return p, err
	}
	if p.DNS, err = dns(cfg.DnsConfig); err != nil {
		return p, err
	}
	if p.CgroupParent, err = at.CgroupParent(cfg.GetLinux().GetCgroupParent()); err != nil {
		return p, fmt.Errorf("linux.cgroup_parent: %w", err)
	}
	if cfg.LogDirectory != "" {
		if p.Logs, err = at.LogDir(cfg.LogDirectory); err != nil {
			return p, fmt.Errorf("log_directory: %w", err)
		}
	}
	if o := sc.GetSelinuxOptions(); o != nil {
		p.SELinux = plan.SELinux{User: o.User, Role: o.Role, Type: o.Type, Level: o.Level}
	}
	p.Class = class(&p)
	return p, nil
}

// class picks the narrowest class: what a pod may ask for beyond its own
// namespaces is the System row of the ceiling.
func class(p *plan.PodPlan) plan.Class {
	switch {
	case p.Privileged, p.Network == plan.NamespaceNode, p.PID == plan.NamespaceNode, p.IPC == plan.NamespaceNode:
		return plan.System
	case len(p.Ports) > 0:
		return plan.Baseline
	}
	return plan.Restricted
}

// Refuse is the error for a field that cannot be honoured.
func Refuse(field, format string, a ...any) error {
	return fmt.Errorf("%s: %s", field, fmt.Sprintf(format, a...))
}

func checkMetadata(cfg *cri.PodSandboxConfig) error {
	m := cfg.GetMetadata()
	if m == nil {
		return Refuse("metadata", "missing")
	}
	for _, f := range []struct{ field, v string }{
		{"metadata.name", m.Name}, {"metadata.namespace", m.Namespace}, {"metadata.uid", m.Uid},
	} {
		if f.v == "" || len(f.v) > 253 {
			return Refuse(f.field, "must have 1 to 253 bytes")
		}
		if !PlainText(f.v) || strings.ContainsAny(f.v, "/\\") || f.v == ".." {
			return Refuse(f.field, "%q has a character that a name cannot have", f.v)
		}
	}
	// The uid names a directory of the kubelet's: one component, no dots.
	if len(m.Uid) > 128 || strings.Trim(m.Uid, alnum+"-") != "" {
		return Refuse("metadata.uid", "%q: want at most 128 letters, digits and dashes", m.Uid)
	}
	return nil
}

const alnum = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

// PlainText reports whether s is free of control characters, line separators
// and U+FFFD, which is what invalid UTF-8 decodes to. Text that is pasted into
// any file or log must pass: a line break in it would be another line there.
func PlainText(s string) bool {
	for _, r := range s {
		if r < 0x20 || r == 0x7f || r >= 0x80 && r < 0xa0 || r == 0x2028 || r == 0x2029 || r == 0xfffd {
			return false
		}
	}
	return true
}

func namespaces(p *plan.PodPlan, o *cri.NamespaceOption) error {
	var err error
	if p.Network, err = mode("network", o.GetNetwork(), false); err != nil {
		return err
	}
	if p.PID, err = mode("pid", o.GetPid(), true); err != nil {
		return err
	}
	if p.IPC, err = mode("ipc", o.GetIpc(), false); err != nil {
		return err
	}
	if o.GetTargetId() != "" {
		return Refuse("linux.security_context.namespace_options.target_id", "a pod has no target")
	}
	u := o.GetUsernsOptions()
	if u == nil || u.Mode == cri.NamespaceMode_NODE {
		if len(u.GetUids()) > 0 || len(u.GetGids()) > 0 {
			return Refuse("linux.security_context.namespace_options.userns_options", "mappings without a user namespace")
		}
		return nil
	}
	if u.Mode != cri.NamespaceMode_POD {
		return Refuse("linux.security_context.namespace_options.userns_options.mode", "%s is not possible for a pod", u.Mode)
	}
	p.UserNS = true
	if p.Network == plan.NamespaceNode || p.PID == plan.NamespaceNode || p.IPC == plan.NamespaceNode {
		return Refuse("linux.security_context.namespace_options.userns_options", "a pod with a user namespace cannot share the host's other namespaces")
	}
	if p.UIDs, err = IDMaps("uids", u.Uids); err != nil {
		return err
	}
	if p.GIDs, err = IDMaps("gids", u.Gids); err != nil {
		return err
	}
	for _, maps := range [][]plan.IDMap{p.UIDs, p.GIDs} {
		if len(maps) != 1 || maps[0].Container != 0 || maps[0].Length < 65535 {
			return Refuse("linux.security_context.namespace_options.userns_options", "want one mapping each, from container_id 0 on, with a length of at least 65535")
		}
	}
	return nil
}

func mode(name string, m cri.NamespaceMode, container bool) (plan.NamespaceMode, error) {
	switch {
	case m == cri.NamespaceMode_POD:
		return plan.NamespacePod, nil
	case m == cri.NamespaceMode_NODE:
		return plan.NamespaceNode, nil
	case m == cri.NamespaceMode_CONTAINER && container:
		return plan.NamespaceContainer, nil
	}
	return 0, Refuse("linux.security_context.namespace_options."+name, "%s is not possible for a pod", m)
}

// IDMaps translates the mappings of a user namespace.
func IDMaps(name string, in []*cri.IDMapping) ([]plan.IDMap, error) {
	field := "linux.security_context.namespace_options.userns_options." + name
	if len(in) == 0 {
		return nil, Refuse(field, "a user namespace needs mappings")
	}
	var out []plan.IDMap
	for _, m := range in {
		if m.GetLength() == 0 || uint64(m.HostId)+uint64(m.Length) > 1<<32 || uint64(m.ContainerId)+uint64(m.Length) > 1<<32 {
			return nil, Refuse(field, "mapping %d:%d:%d is empty or wraps around", m.GetContainerId(), m.GetHostId(), m.GetLength())
		}
		out = append(out, plan.IDMap{Host: m.HostId, Container: m.ContainerId, Length: m.Length})
	}
	return out, nil
}

func hostname(cfg *cri.PodSandboxConfig, network plan.NamespaceMode) (string, error) {
	if network == plan.NamespaceNode {
		return "", nil // the node's own: there is no namespace to name
	}
	h := cfg.Hostname
	if h == "" {
		h = FallbackHostname(cfg.Metadata.Name)
	}
	if len(h) > 63 || strings.Trim(h, alnum+"-.") != "" || strings.TrimLeft(h, "-.") != h || strings.HasSuffix(h, "-") {
		// A dot at its end is the kubelet's where a pod wants its full name for host name and the cluster's domain is empty.
		return "", Refuse("hostname", "%q: want at most 63 letters, digits, dots and dashes", h)
	}
	return h, nil
}

// FallbackHostname makes a host name of a pod's name where the request has none.
func FallbackHostname(name string) string {
	h := strings.Map(func(r rune) rune {
		if strings.ContainsRune(alnum+"-.", r) {
			return r
		}
		return '-'
	}, name)
	if len(h) > 63 {
		h = h[:63]
	}
	if h = strings.Trim(h, "-."); h == "" {
		h = "pod"
	}
	return h
}

func ports(in []*cri.PortMapping, network plan.NamespaceMode) ([]plan.PortMapping, error) {
	var out []plan.PortMapping
	for i, m := range in {
		field := fmt.Sprintf("port_mappings[%d]", i)
		if m.GetHostPort() < 0 || m.GetHostPort() > 65535 {
			return nil, Refuse(field+".host_port", "%d is no port", m.GetHostPort())
		}
		if m.GetHostPort() == 0 || network == plan.NamespaceNode {
			continue // documentation only: nothing is mapped
		}
		if m.ContainerPort < 1 || m.ContainerPort > 65535 {
			return nil, Refuse(field+".container_port", "%d is no port", m.ContainerPort)
		}
		o := plan.PortMapping{ContainerPort: uint16(m.ContainerPort), HostPort: uint16(m.HostPort)}
		switch m.Protocol {
		case cri.Protocol_TCP:
			o.Protocol = plan.TCP
		case cri.Protocol_UDP:
			o.Protocol = plan.UDP
		case cri.Protocol_SCTP:
			o.Protocol = plan.SCTP
		default:
			return nil, Refuse(field+".protocol", "unknown protocol %d", m.Protocol)
		}
		if m.HostIp != "" {
			a, err := netip.ParseAddr(m.HostIp)
			if err != nil || a.Zone() != "" {
				return nil, Refuse(field+".host_ip", "%q is no IP address", m.HostIp)
			}
			o.HostIP = a.String()
		}
		if !slices.Contains(out, o) {
			out = append(out, o)
		}
	}
	return out, nil
}

// dns checks every word that the helper will write to the pod's resolv.conf: a
// space or line break in one would be another directive.
func dns(in *cri.DNSConfig) (plan.DNS, error) {
	var d plan.DNS
	if in == nil {
		return d, nil
	}
	for i, s := range in.Servers {
		if _, err := netip.ParseAddr(s); err != nil {
			return d, Refuse(fmt.Sprintf("dns_config.servers[%d]", i), "%q is no IP address", s)
		}
		d.Servers = appendNew(d.Servers, s)
	}
	for i, s := range in.Searches {
		if !dnsWord(s, 253) {
			return d, Refuse(fmt.Sprintf("dns_config.searches[%d]", i), "%q is no domain", s)
		}
		d.Searches = appendNew(d.Searches, s)
	}
	for i, s := range in.Options {
		if !dnsWord(s, 128) {
			return d, Refuse(fmt.Sprintf("dns_config.options[%d]", i), "%q is no resolver option", s)
		}
		d.Options = appendNew(d.Options, s)
	}
	return d, nil
}

func appendNew(list []string, s string) []string {
	if slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}

func dnsWord(s string, most int) bool {
	return s != "" && len(s) <= most && strings.Trim(s, alnum+"-._:/") == ""
}
