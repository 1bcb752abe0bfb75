package sandbox

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/postern-cri/postern/privsep/plan"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type places struct{}

func (places) CgroupParent(p string) (plan.Place, error) {
	if strings.HasPrefix(p, "/bad") {
		return plan.Place{}, errors.New("beneath no cgroup root of the ceiling")
	}
	return plan.Place{Root: plan.RootCgroup, Name: "kubepods", Rel: strings.Trim(p, "/")}, nil
}

func (places) LogDir(p string) (plan.Place, error) {
	return plan.Place{Root: plan.RootLog, Name: "pods", Rel: strings.TrimPrefix(p, "/var/log/pods/")}, nil
}

func config(change func(*cri.PodSandboxConfig)) *cri.PodSandboxConfig {
	c := &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: "web", Uid: "u-1", Namespace: "prod"},
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent:    "/kubepods/podu-1",
			SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}},
		},
	}
	if change != nil {
		change(c)
	}
	return c
}

func TestPlan(t *testing.T) {
	got, err := Plan(config(func(c *cri.PodSandboxConfig) {
		c.LogDirectory = "/var/log/pods/prod_web_u-1"
		c.PortMappings = []*cri.PortMapping{{ContainerPort: 80}, {ContainerPort: 80, HostPort: 8080, HostIp: "127.0.0.1"}}
		c.DnsConfig = &cri.DNSConfig{Servers: []string{"10.0.0.1"}, Searches: []string{"a.b"}, Options: []string{"ndots:5"}}
		c.Linux.Sysctls = map[string]string{"net.core.somaxconn": "10", "kernel.sem": "250 32000 100 128"}
	}), "", places{})
	if err != nil {
		t.Fatal(err)
	}
	want := plan.PodPlan{
		Class: plan.Baseline, UID: "u-1", Hostname: "web", Network: plan.NamespacePod, PID: plan.NamespaceContainer, IPC: plan.NamespacePod,
		Sysctls:      []plan.Sysctl{{Name: "kernel.sem", Value: "250 32000 100 128"}, {Name: "net.core.somaxconn", Value: "10"}},
		Ports:        []plan.PortMapping{{Protocol: plan.TCP, ContainerPort: 80, HostPort: 8080, HostIP: "127.0.0.1"}},
		DNS:          plan.DNS{Servers: []string{"10.0.0.1"}, Searches: []string{"a.b"}, Options: []string{"ndots:5"}},
		CgroupParent: plan.Place{Root: plan.RootCgroup, Name: "kubepods", Rel: "kubepods/podu-1"},
		Logs:         plan.Place{Root: plan.RootLog, Name: "pods", Rel: "prod_web_u-1"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestClass(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(*cri.PodSandboxConfig)
		want plan.Class
	}{
		{"plain", nil, plan.Restricted},
		{"host network", func(c *cri.PodSandboxConfig) {
			c.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_NODE
		}, plan.System},
		{"host pid", func(c *cri.PodSandboxConfig) {
			c.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_NODE
		}, plan.System},
		{"privileged", func(c *cri.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true }, plan.System},
	} {
		p, err := Plan(config(c.do), "", places{})
		if err != nil {
			t.Fatal(c.name, err)
		}
		if p.Class != c.want {
			t.Errorf("%s: class %d, want %d", c.name, p.Class, c.want)
		}
	}
}

// TestFullName: what the kubelet asks for where a pod wants its full name as its
// host name, and the cluster has no domain.
func TestFullName(t *testing.T) {
	p, err := Plan(config(func(c *cri.PodSandboxConfig) { c.Hostname = "web-1.sub.ns.svc." }), "", places{})
	if err != nil || p.Hostname != "web-1.sub.ns.svc." {
		t.Errorf("%q, %v", p.Hostname, err)
	}
}

func TestRefused(t *testing.T) {
	node := func(c *cri.PodSandboxConfig) *cri.NamespaceOption { return c.Linux.SecurityContext.NamespaceOptions }
	sysctl := func(k, v string) func(*cri.PodSandboxConfig) {
		return func(c *cri.PodSandboxConfig) { c.Linux.Sysctls = map[string]string{k: v} }
	}
	for _, c := range []struct {
		name, field string
		do          func(*cri.PodSandboxConfig)
	}{
		{"no metadata", "metadata", func(c *cri.PodSandboxConfig) { c.Metadata = nil }},
		{"uid with dots", "metadata.uid", func(c *cri.PodSandboxConfig) { c.Metadata.Uid = "../x" }},
		{"name with line break", "metadata.name", func(c *cri.PodSandboxConfig) { c.Metadata.Name = "a\nb" }},
		{"namespace with slash", "metadata.namespace", func(c *cri.PodSandboxConfig) { c.Metadata.Namespace = "a/b" }},
		{"hostname", "hostname", func(c *cri.PodSandboxConfig) { c.Hostname = "a b" }},
		{"hostname with a dash at its end", "hostname", func(c *cri.PodSandboxConfig) { c.Hostname = "a-" }},
		{"hostname with a dot before it", "hostname", func(c *cri.PodSandboxConfig) { c.Hostname = ".a" }},
		{"long hostname", "hostname", func(c *cri.PodSandboxConfig) { c.Hostname = strings.Repeat("a", 64) }},
		{"network of a container", "network", func(c *cri.PodSandboxConfig) { node(c).Network = cri.NamespaceMode_CONTAINER }},
		{"unknown mode", "pid", func(c *cri.PodSandboxConfig) { node(c).Pid = 77 }},
		{"target", "pid", func(c *cri.PodSandboxConfig) { node(c).Pid = cri.NamespaceMode_TARGET }},
		{"userns without maps", "uids", func(c *cri.PodSandboxConfig) { node(c).UsernsOptions = &cri.UserNamespace{} }},
		{"plus", "sysctls", sysctl("kernel.shm_rmid_forced", "1+kernel.core_pattern=|/tmp/x #")},
		{"equals", "sysctls", sysctl("net.core.somaxconn", "1=2")},
		{"line break", "sysctls", sysctl("net.core.somaxconn", "1\n2")},
		{"NUL", "sysctls", sysctl("net.core.somaxconn", "1\x00")},
		{"slash", "sysctls", sysctl("net/../kernel/core_pattern", "1")},
		{"not namespaced", "sysctls", sysctl("kernel.core_pattern", "x")},
		{"dots", "sysctls", sysctl("net..core", "x")},
		{"sysctl of the host", "sysctls", func(c *cri.PodSandboxConfig) {
			node(c).Network = cri.NamespaceMode_NODE
			c.Linux.Sysctls = map[string]string{"net.ipv4.ip_unprivileged_port_start": "0"}
		}},
		{"ipc sysctl of the host", "sysctls", func(c *cri.PodSandboxConfig) {
			node(c).Ipc = cri.NamespaceMode_NODE
			c.Linux.Sysctls = map[string]string{"kernel.shmmax": "1"}
		}},
		{"port", "host_port", func(c *cri.PodSandboxConfig) { c.PortMappings = []*cri.PortMapping{{HostPort: 70000}} }},
		{"host ip", "host_ip", func(c *cri.PodSandboxConfig) {
			c.PortMappings = []*cri.PortMapping{{HostPort: 1, ContainerPort: 1, HostIp: "x"}}
		}},
		{"dns server", "servers", func(c *cri.PodSandboxConfig) { c.DnsConfig = &cri.DNSConfig{Servers: []string{"1.1.1.1\noptions x"}} }},
		{"dns option", "options", func(c *cri.PodSandboxConfig) { c.DnsConfig = &cri.DNSConfig{Options: []string{"a\nb"}} }},
		{"cgroup", "cgroup_parent", func(c *cri.PodSandboxConfig) { c.Linux.CgroupParent = "/bad" }},
		{"windows", "windows", func(c *cri.PodSandboxConfig) { c.Windows = &cri.WindowsPodSandboxConfig{} }},
	} {
		_, err := Plan(config(c.do), "", places{})
		if err == nil || !strings.Contains(err.Error(), c.field) {
			t.Errorf("%s: error %v, want one that names %s", c.name, err, c.field)
		}
	}
}

func FuzzSysctl(f *testing.F) {
	f.Add("net.core.somaxconn", "1")
	f.Fuzz(func(t *testing.T, name, value string) {
		out, err := Sysctls(map[string]string{name: value}, plan.NamespacePod, plan.NamespaceNode)
		if err == nil && (strings.ContainsAny(out[0].Value+out[0].Name, "\n\x00+=/|") || !strings.HasPrefix(out[0].Name, "net.")) {
			t.Errorf("%q=%q passed", name, value)
		}
	})
}
