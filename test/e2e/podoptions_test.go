package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// has holds the output of a command in a container against what must be in it.
func (tr *tree) has(ctr, what, script string, want ...string) {
	tr.t.Helper()
	out, _ := tr.exec(ctr, "sh", "-c", script)
	for _, w := range want {
		if !strings.Contains(out, w) {
			tr.t.Errorf("%s: %q lacks %q", what, out, w)
		}
	}
}

// sleeper starts a container of a pod, changed.
func (tr *tree) sleeper(pod string, p *cri.PodSandboxConfig, name string, change func(*cri.ContainerConfig)) string {
	tr.t.Helper()
	c := tr.ctrConfig(name, "exec sleep 1000")
	if change != nil {
		change(c)
	}
	id := tr.create(pod, p, c)
	tr.start(id)
	return id
}

func mapping() []*cri.IDMapping {
	return []*cri.IDMapping{{HostId: 1 << 20, ContainerId: 0, Length: 1 << 16}}
}

// TestPodOptions: what a pod's configuration says is what its containers see.
func TestPodOptions(t *testing.T) {
	tr := startTree(t, "conformance", "")
	tr.pull()
	host := func(ns string) string {
		l, err := os.Readlink("/proc/self/ns/" + ns)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}

	p := tr.podConfig("options")
	p.Hostname = "box"
	p.DnsConfig = &cri.DNSConfig{Servers: []string{"10.9.8.7"}, Searches: []string{"a.example", "b.example"}, Options: []string{"ndots:3"}}
	p.Linux.Sysctls = map[string]string{"net.ipv4.ip_local_port_range": "40000 40010", "kernel.shm_rmid_forced": "1"}
	p.PortMappings = []*cri.PortMapping{{ContainerPort: 80, HostPort: 18080}}
	pod := tr.runPod(p)
	ctr := tr.sleeper(pod, p, "c", nil)
	tr.has(ctr, "hostname", "hostname; cat /etc/hostname; grep box /etc/hosts", "box\nbox\n10.221.")
	tr.has(ctr, "resolv.conf", "cat /etc/resolv.conf", "search a.example b.example\nnameserver 10.9.8.7\noptions ndots:3\n")
	tr.has(ctr, "sysctls", "cat /proc/sys/net/ipv4/ip_local_port_range /proc/sys/kernel/shm_rmid_forced", "40000\t40010\n1\n")
	if out, _ := tr.exec(ctr, "sh", "-c", "ls -l /proc/self/ns/net /proc/self/ns/ipc /proc/self/ns/pid; df /dev/shm | tail -n 1"); strings.Contains(out, host("net")) ||
		strings.Contains(out, host("ipc")) || strings.Contains(out, host("pid")) || !strings.Contains(out, "65536") {
		t.Errorf("namespaces and /dev/shm of a pod's own: %s", out)
	}
	tr.exec(ctr, "sh", "-c", "echo hello >/tmp/index.html; httpd -p 80 -h /tmp")
	tr.eventually(10*time.Second, "the host port leads to the pod", func() error {
		c, err := net.DialTimeout("tcp", "10.221.0.1:18080", time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(limit(5 * time.Second)))
		fmt.Fprint(c, "GET /index.html HTTP/1.0\r\n\r\n")
		b := make([]byte, 4096)
		for n := 0; ; {
			m, err := c.Read(b[n:])
			if n += m; strings.Contains(string(b[:n]), "hello") {
				return nil
			}
			if err != nil {
				return fmt.Errorf("%q, %w", b[:n], err)
			}
		}
	})

	// The PID namespace: of the pod, of the container, of another container.
	p = tr.podConfig("shared")
	p.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
	pod = tr.runPod(p)
	pid := func(m cri.NamespaceMode, target string) func(*cri.ContainerConfig) {
		return func(c *cri.ContainerConfig) {
			c.Args = []string{"exec sleep 77" + c.Metadata.Name}
			c.Linux.SecurityContext.NamespaceOptions.Pid, c.Linux.SecurityContext.NamespaceOptions.TargetId = m, target
		}
	}
	one := tr.sleeper(pod, p, "1", pid(cri.NamespaceMode_POD, ""))
	two := tr.sleeper(pod, p, "2", pid(cri.NamespaceMode_POD, ""))
	alone := tr.sleeper(pod, p, "3", pid(cri.NamespaceMode_CONTAINER, ""))
	debug := tr.sleeper(pod, p, "4", pid(cri.NamespaceMode_TARGET, alone))
	tr.has(one, "PID namespace of the pod", "ps", "sleep 771", "sleep 772")
	tr.has(two, "PID namespace of the pod", "ps", "sleep 771", "sleep 772")
	tr.has(debug, "PID namespace of the target", "ps", "sleep 773", "sleep 774")
	if out, _ := tr.exec(alone, "ps"); strings.Contains(out, "771") || !strings.Contains(out, "774") {
		t.Errorf("a PID namespace of the container's own, which is also a target: %s", out)
	}

	// The host's namespaces.
	p = tr.podConfig("node")
	p.Linux.SecurityContext.NamespaceOptions = &cri.NamespaceOption{Network: cri.NamespaceMode_NODE, Pid: cri.NamespaceMode_NODE, Ipc: cri.NamespaceMode_NODE}
	pod = tr.runPod(p)
	ctr = tr.sleeper(pod, p, "c", func(c *cri.ContainerConfig) {
		c.Linux.SecurityContext.NamespaceOptions = p.Linux.SecurityContext.NamespaceOptions
	})
	tr.has(ctr, "the host's namespaces", "ls -l /proc/self/ns", host("net"), host("ipc"), host("pid"))
	if s, err := tr.rt.PodSandboxStatus(ctx(t), &cri.PodSandboxStatusRequest{PodSandboxId: pod}); err != nil || s.Status.Linux.Namespaces.Options.Network != cri.NamespaceMode_NODE {
		t.Errorf("status of a pod in the host's network: %v, %v", s, err)
	}

	// A user namespace, with a volume whose owners are mapped into it.
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	tr.write(dir+"/of-root", "x")
	p = tr.podConfig("userns")
	p.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: mapping(), Gids: mapping()}
	pod = tr.runPod(p)
	ctr = tr.sleeper(pod, p, "c", func(c *cri.ContainerConfig) {
		c.Linux.SecurityContext.NamespaceOptions = p.Linux.SecurityContext.NamespaceOptions
		c.Mounts = []*cri.Mount{{ContainerPath: "/vol", HostPath: dir, SelinuxRelabel: true, UidMappings: mapping(), GidMappings: mapping()}}
	})
	tr.has(ctr, "user namespace", "cat /proc/self/uid_map; touch /vol/new; stat -c %u:%g /vol/of-root /vol/new /bin/sh", "0    1048576      65536\n0:0\n0:0\n0:0\n")
	if uid := owner(t, dir+"/new"); uid != 0 {
		t.Errorf("what root in a user namespace made on a mapped volume is of uid %d", uid)
	}
	if m := tr.status(ctr).Mounts; len(m) != 1 || len(m[0].UidMappings) != 1 || m[0].UidMappings[0].HostId != 1<<20 {
		t.Errorf("mounts in the status: %v", m)
	}
}

func owner(t *testing.T, path string) uint32 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Uid
}

// TestAutoUserNamespace: where the ceiling says so, pods that do not ask for a user
// namespace get one, each ids of its own, and see their volumes as before; policy
// sees it, and the ceiling refuses the pods that cannot have one.
func TestAutoUserNamespace(t *testing.T) {
	b, err := os.ReadFile("../../profiles/ceiling/baseline.toml")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ceiling.toml")
	text := strings.Replace(string(b), "max_pods = 250\n", "max_pods = 250\nuserns_auto = 2147483648\n", 1)
	text = strings.ReplaceAll(text, "user_namespaces = true\n", "user_namespaces = true\nrequire_user_namespace = true\n")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	kubelet := t.TempDir()
	if err := os.Chmod(kubelet, 0o755); err != nil {
		t.Fatal(err)
	}
	tr := startTree(t, "baseline", fmt.Sprintf("[ceiling]\nfile = %q\n[kubelet]\nroot = %q\n", file, kubelet))
	tr.pull()
	var maps []string
	for _, name := range []string{"one", "two"} {
		p := tr.podConfig(name)
		// What a kubelet says of a pod that does not ask.
		p.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &cri.UserNamespace{Mode: cri.NamespaceMode_NODE}
		pod := tr.runPod(p)
		volume := fmt.Sprintf("%s/pods/%s-uid/volumes/v", kubelet, name)
		tr.write(volume+"/file", "x")
		ctr := tr.sleeper(pod, p, "c", func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext.NamespaceOptions = p.Linux.SecurityContext.NamespaceOptions
			c.Mounts = []*cri.Mount{{ContainerPath: "/vol", HostPath: volume, SelinuxRelabel: true}}
		})
		out, _ := tr.exec(ctr, "cat", "/proc/self/uid_map")
		maps = append(maps, strings.Join(strings.Fields(out), " "))
		tr.has(ctr, "a volume", "echo y >/vol/new && stat -c %u /vol/file /vol/new", "0\n0\n")
		if uid := owner(t, volume+"/new"); uid != 0 {
			t.Errorf("what the pod wrote is of uid %d outside", uid)
		}
		s, err := tr.rt.PodSandboxStatus(ctx(t), &cri.PodSandboxStatusRequest{PodSandboxId: pod})
		if err != nil || len(s.Status.Linux.Namespaces.Options.UsernsOptions.GetUids()) != 1 {
			t.Errorf("status: %v, %v", s, err)
		}
	}
	if maps[0] != "0 2147483648 65536" || maps[1] != "0 2147549184 65536" {
		t.Errorf("user namespaces: %q", maps)
	}
	p := tr.podConfig("node")
	p.Linux.SecurityContext.NamespaceOptions.Ipc = cri.NamespaceMode_NODE
	if _, err := tr.rt.RunPodSandbox(ctx(t), &cri.RunPodSandboxRequest{Config: p}); err == nil {
		t.Error("a pod that shares the host's namespace was run")
	}
}
