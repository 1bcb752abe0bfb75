package machine

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/helper"
	"github.com/postern-cri/postern/privsep/label"
	"github.com/postern-cri/postern/privsep/mount"
	"github.com/postern-cri/postern/privsep/netns"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/spec"
	"github.com/postern-cri/postern/privsep/wire"
)

const (
	defaultShm = 64 << 20
	podEtc     = "etc" // of its directory: where hosts, hostname and resolv.conf are
)

// PodCreate makes a pod's namespaces, files and network. On an error the caller
// removes what there is.
func (m *Machine) PodCreate(in helper.PodIn) (out helper.PodOut, err error) {
	p, dir := in.Plan, m.box("pod", in.ID)
	if p.UserNS {
		if err := checkUserNS(p); err != nil {
			return out, err
		}
	}
	out.Cgroup = m.podCgroup(in)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return out, fmt.Errorf("making a pod: %w", err)
	}
	if err := m.makeCgroup(out.Cgroup); err != nil {
		return out, err
	}
	_, files, err := labels(p, plan.SELinux{}, in.Level, false)
	if err != nil {
		return out, err
	}
	ownNet, ownIPC, shared := p.Network == plan.NamespacePod, p.IPC == plan.NamespacePod, p.PID == plan.NamespacePod
	o := netns.Options{Net: ownNet, IPC: ownIPC, Hostname: p.Hostname, Sysctls: p.Sysctls}
	if shared || p.UserNS {
		if out.Pause, err = m.startPause(dir, files, p); err != nil {
			return out, err
		}
	}
	if p.UserNS {
		o.Holder, o.RootUID = out.Pause.PID, p.UIDs[0].Host
	}
	if err := netns.Create(dir, o); err != nil {
		return out, err
	}
	if p.UserNS && !shared { // it has done its work
		if err := m.Signal("", out.Pause, uint8(unix.SIGKILL)); err != nil {
			return out, err
		}
	}
	if ownIPC {
		size := p.ShmSize
		if size == 0 {
			size = defaultShm
		}
		if err := os.Mkdir(dir+"/shm", 0o700); err != nil {
			return out, err
		}
		if err := mount.Tmpfs(dir+"/shm", size, 0o1777, files); err != nil {
			return out, err
		}
		if err := chownRoot(p, dir+"/shm"); err != nil {
			return out, err
		}
	}
	if ownNet {
		n := m.network("add", in)
		for _, port := range p.Ports {
			name := map[plan.Protocol]string{plan.TCP: "tcp", plan.UDP: "udp", plan.SCTP: "sctp"}[port.Protocol]
			n.Ports = append(n.Ports, spec.NetworkPort{Protocol: name, ContainerPort: port.ContainerPort, HostPort: port.HostPort, HostIP: port.HostIP})
		}
		if out.IPs, err = m.attach(n); err != nil {
			return out, err
		}
	}
	return out, m.podFiles(dir, p, out.IPs, files)
}

func (m *Machine) network(op string, in helper.PodIn) spec.Network {
	n := spec.Network{Op: op, Pod: in.ID, NetNS: m.box("pod", in.ID, netns.Net)}
	if in.Claims != nil {
		n.Name, n.Namespace, n.UID = argument(in.Claims.PodName), argument(in.Claims.Namespace), argument(in.Claims.PodUID)
	}
	return n
}

// argument makes a claim one that a plugin can be told. To refuse it would be too
// late where a pod is torn down: what cannot be told cannot be taken off either.
func argument(claim string) string {
	return strings.Map(func(r rune) rune {
		if r == ';' || r == '=' || r <= ' ' || r >= 0x7f {
			return '_'
		}
		return r
	}, claim)
}

// podCgroup is the parent of the pod's containers: the kubelet's, or where none is
// asked for one of the pod's own below the ceiling's first root.
func (m *Machine) podCgroup(in helper.PodIn) string {
	dir, _, ok := m.Ceiling.Root(in.Plan.CgroupParent)
	if !ok {
		return path.Join("/", m.Ceiling.CgroupRoots[0].Path, ownCgroup+in.ID)
	}
	return path.Join("/", dir, in.Plan.CgroupParent.Rel)
}

// podFiles writes hosts, hostname and resolv.conf: the pod's own, or copies of
// the host's where the pod shares them.
func (m *Machine) podFiles(dir string, p *plan.PodPlan, ips []string, fileLabel string) error {
	files := map[string]string{}
	for _, name := range []string{"hosts", "hostname", "resolv.conf"} {
		b, err := os.ReadFile("/etc/" + name)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		files[name] = string(b)
	}
	if d := p.DNS; len(d.Servers)+len(d.Searches)+len(d.Options) > 0 {
		var b strings.Builder
		if len(d.Searches) > 0 {
			fmt.Fprintf(&b, "search %s\n", strings.Join(d.Searches, " "))
		}
		for _, s := range d.Servers {
			fmt.Fprintf(&b, "nameserver %s\n", s)
		}
		if len(d.Options) > 0 {
			fmt.Fprintf(&b, "options %s\n", strings.Join(d.Options, " "))
		}
		files["resolv.conf"] = b.String()
	}
	if p.Network == plan.NamespacePod {
		files["hostname"] = p.Hostname + "\n"
		files["hosts"] = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
		for _, ip := range ips {
			files["hosts"] += ip + "\t" + p.Hostname + "\n"
		}
	}
	// On a file system of their own: root in the container may write to them, and
	// the one that they would be on otherwise is the node's /run.
	if err := os.Mkdir(dir+"/"+podEtc, 0o700); err != nil {
		return err
	}
	if err := mount.Tmpfs(dir+"/"+podEtc, 1<<20, 0o755, fileLabel); err != nil {
		return err
	}
	for name, text := range files {
		f := dir + "/" + podEtc + "/" + name
		if err := os.WriteFile(f, []byte(text), 0o644); err != nil {
			return err
		}
		if err := errors.Join(os.Chmod(f, 0o644), chownRoot(p, f)); err != nil { // the umask is 077
			return err
		}
	}
	return nil
}

// labels are those of a container's process and files, none where the kernel has
// no SELinux.
func labels(pod *plan.PodPlan, ctr plan.SELinux, level string, privileged bool) (process, files string, err error) {
	if !label.Enabled() {
		return "", "", nil
	}
	process, files, err = label.Of(pod.SELinux, ctr, level, privileged)
	if err != nil {
		err = helper.Invalid("selinux_options: %v. Fix: name a label of the node's policy, and load Postern's policy there", err)
	}
	return process, files, err
}

// chownRoot gives path to the pod's root where that is not the host's.
func chownRoot(p *plan.PodPlan, path string) error {
	if !p.UserNS {
		return nil
	}
	return os.Chown(path, int(p.UIDs[0].Host), int(p.GIDs[0].Host))
}

// PodDelete removes all of a pod but its network.
func (m *Machine) PodDelete(in helper.PodIn, out helper.PodOut) error {
	dir := m.box("pod", in.ID)
	errs := []error{m.stopPause(dir, out.Pause)}
	for _, name := range []string{"shm", netns.IPC, netns.UTS, podEtc} {
		errs = append(errs, mount.Unmount(dir+"/"+name))
		if err := os.Remove(dir + "/" + name); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	// With containers that are stopped but not yet removed it stays, and goes with
	// the last of them.
	cgroup := out.Cgroup
	if cgroup == "" && in.Plan != nil {
		cgroup = m.podCgroup(in)
	}
	return errors.Join(append(errs, m.dropCgroup(cgroup))...)
}

// NetworkDelete gives back what the plugins hold. The namespace goes even where
// they fail: the next try does without.
func (m *Machine) NetworkDelete(in helper.PodIn) error {
	var err error
	if in.Plan == nil || in.Plan.Network != plan.NamespaceNode { // one whose plan is lost had its own, perhaps
		n := m.network("del", in)
		if _, serr := os.Stat(n.NetNS); serr != nil {
			n.NetNS = ""
		}
		_, err = m.attach(n)
	}
	return errors.Join(err, m.dropPodDir(in.ID))
}

func (m *Machine) dropPodDir(id string) error {
	dir := m.box("pod", id)
	return errors.Join(netns.Remove(dir), removeTree(dir))
}

// PodSocket makes an fd in the pod's network namespace.
func (m *Machine) PodSocket(id string, kind wire.SocketKind) (int, error) {
	at := m.box("pod", id, netns.Net)
	switch kind {
	case wire.SocketTCP4:
		return netns.Socket(at, unix.AF_INET)
	case wire.SocketTCP6:
		return netns.Socket(at, unix.AF_INET6)
	}
	return netns.NetDev(at)
}
