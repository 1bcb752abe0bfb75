package machine

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/helper"
	"github.com/postern-cri/postern/privsep/mount"
	"github.com/postern-cri/postern/privsep/netns"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/seqpacket"
	"github.com/postern-cri/postern/privsep/spec"
)

// note is written into the box before a container is made, so that whatever
// there is of it can be removed by its handle alone.
type note struct {
	Cgroup string
	Layers []string // hex, each once
	Log    int      // index of the log among the kept fds, -1 without
}

func (m *Machine) readNote(id string) (n note) {
	if b, err := os.ReadFile(m.box("ctr", id, "note")); err == nil {
		_ = json.Unmarshal(b, &n) // half written: nothing was made yet
	}
	return n
}

// CtrCreate makes a container up to the point where its process waits to be
// started. On an error the caller removes what there is.
func (m *Machine) CtrCreate(in helper.CtrIn) (out helper.CtrOut, err error) {
	p, dir := in.Plan, m.box("ctr", in.ID)
	out.Cgroup = path.Join(in.PodOut.Cgroup, in.ID)
	if m.Ceiling.Systemd {
		out.Cgroup = path.Join(in.PodOut.Cgroup, spec.ScopePrefix+"-"+in.ID+".scope")
	}
	for _, d := range []string{dir, dir + "/m", dir + "/rootfs", m.state("ctr", in.ID)} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return out, fmt.Errorf("making a container: %w", err)
		}
	}
	stdio, err := m.openStdio(p)
	if err != nil {
		return out, err
	}
	defer stdio.close()
	n := note{Cgroup: out.Cgroup, Log: stdio.index("log")}
	for _, r := range in.Records {
		n.Layers = union(n.Layers, layersOf(r))
	}
	b, err := json.Marshal(n)
	if err == nil {
		err = os.WriteFile(dir+"/note", b, 0o600)
	}
	if err != nil {
		return out, err
	}
	out.Layers = n.Layers
	if err := m.holdLayers(n.Layers); err != nil {
		// What was not counted must not be given back at removal.
		return out, errors.Join(err, os.Remove(dir+"/note"))
	}
	if in.Pod.UserNS {
		if err := m.letIn(in); err != nil {
			return out, err
		}
	}
	l := &spec.Launch{Op: spec.Create, ID: in.ID, Plan: p, Rootfs: dir + "/rootfs", CgroupPath: out.Cgroup, Hostname: in.Pod.Hostname, PIDsLimit: m.Ceiling.MaxPIDs,
		UIDs: in.Pod.UIDs, GIDs: in.Pod.GIDs}
	if l.Process, l.Files, err = labels(in.Pod, p.SELinux, in.Level, p.Privileged); err != nil {
		return out, err
	}
	if h := m.Ceiling.Runtime(in.Pod.Handler); h != nil {
		l.Runtime = &spec.Runtime{Path: h.Path, Args: h.Args}
	}
	if err := m.rootfs(in, l.Rootfs, l.Files); err != nil {
		return out, err
	}
	if l.Mounts, err = m.stage(in); err != nil {
		return out, err
	}
	if l.Devices, err = m.devices(p); err != nil {
		return out, err
	}
	if l.Namespaces, err = m.namespaces(in); err != nil {
		return out, err
	}
	if err := m.openLog(stdio, in.Pod, p); err != nil {
		return out, err
	}
	res, since, err := m.runTTY(l, stdio, p.TTY)
	out.Notes = res.Notes
	if err != nil {
		return out, err
	}
	if out.Proc, err = procOf(res.PID); err != nil {
		return out, err
	}
	if err := m.Keeper.Watch(in.ID, res.PID, since); err != nil {
		return out, err
	}
	if err := m.unstage(in.ID); err != nil {
		return out, err
	}
	return out, m.announce(in.ID, p, stdio)
}

// runTTY runs a launch with the container's ends of stdio; with a terminal, its
// master comes back by the console socket and joins ours as "pty".
func (m *Machine) runTTY(l *spec.Launch, s *stdio, tty bool) (res spec.Result, since int64, err error) {
	if !tty {
		return m.run(l, s.child, nil)
	}
	a, b, err := seqpacket.Pair()
	if err != nil {
		return res, 0, err
	}
	console := os.NewFile(uintptr(b), "console")
	defer console.Close()
	conn, err := seqpacket.NewConn(a)
	if err != nil {
		return res, 0, err
	}
	defer conn.Close()
	if res, since, err = m.run(l, [3]*os.File{}, console); err != nil {
		return res, since, err
	}
	console.Close() // so that a launch that sent nothing is an end of file
	_, fds, err := conn.Recv(make([]byte, 4096))
	if err == nil && len(fds) != 1 {
		seqpacket.CloseAll(fds)
		err = fmt.Errorf("%d fds for a terminal", len(fds))
	}
	if err != nil {
		return res, since, fmt.Errorf("receiving a terminal: %w", err)
	}
	s.ours = append([]kept{{"pty", os.NewFile(uintptr(fds[0]), "pty")}}, s.ours...)
	return res, since, nil
}

// letIn lets the root of a pod with a user namespace walk to the container's
// rootfs, and nobody else: the directories above it can be passed through, not
// listed, and the container's own belongs to that root's group.
func (m *Machine) letIn(in helper.CtrIn) error {
	dir := m.box("ctr", in.ID)
	return errors.Join(os.Chmod(m.box(), 0o711), os.Chmod(m.box("ctr"), 0o711), os.Chown(dir, 0, int(in.Pod.GIDs[0].Host)), os.Chmod(dir, 0o710))
}

// namespaces says which namespaces a container joins.
func (m *Machine) namespaces(in helper.CtrIn) (n spec.Namespaces, err error) {
	dir := m.box("pod", in.PodID)
	if n.HostNet = in.Pod.Network == plan.NamespaceNode; !n.HostNet {
		n.Net, n.UTS = dir+"/"+netns.Net, dir+"/"+netns.UTS
	}
	n.HostUTS = n.HostNet
	if n.HostIPC = in.Pod.IPC == plan.NamespaceNode; !n.HostIPC {
		n.IPC = dir + "/" + netns.IPC
	}
	if in.Pod.UserNS {
		n.User = dir + "/user"
	}
	switch in.Plan.PID {
	case plan.NamespaceNode:
		n.HostPID = true
	case plan.NamespacePod:
		if in.Pod.PID != plan.NamespacePod {
			return n, errors.New("the pod has no PID namespace of its own to share")
		}
		n.PID = dir + "/pid"
	case plan.NamespaceTarget:
		n.PID = m.box("ctr", in.ID, "pid")
		if err := bindNS(in.Target.PID, "pid", n.PID); err != nil {
			return n, err
		}
		if !m.Alive(in.Target) { // asked after pinning: it is this process's namespace
			return n, errors.New("the target has exited")
		}
		if err := m.mayJoin(in.Plan, n.PID); err != nil {
			return n, err
		}
	}
	return n, nil
}

// mayJoin refuses the host's PID namespace by way of a target that is in it, where
// the ceiling does not give it to the plan's own class.
func (m *Machine) mayJoin(p *plan.Plan, pinned string) error {
	var own, target unix.Stat_t
	if err := errors.Join(unix.Stat("/proc/self/ns/pid", &own), unix.Stat(pinned, &target)); err != nil {
		return fmt.Errorf("looking at the target's PID namespace: %w", err)
	}
	if row := m.Ceiling.Classes[p.Class]; own.Dev == target.Dev && own.Ino == target.Ino && (row == nil || !row.HostPID) {
		return helper.Invalid("target: it is in the host's PID namespace, which ceiling.toml does not allow to this class (host_pid)")
	}
	return nil
}

// CtrStart lets a created process run: it waits for a reader of its fifo.
//
// Expected syscalls: pidfd_open, openat(O_NONBLOCK), poll, read, unlinkat.
func (m *Machine) CtrStart(id string, p helper.Proc) error {
	if m.external(id) {
		_, _, err := m.run(&spec.Launch{Op: spec.Start, ID: id}, [3]*os.File{}, nil)
		return err
	}
	// The process is got hold of before the fifo lets it go: it may have done all
	// that it has to do, and be gone, by the time that we look again.
	pidfd, err := unix.PidfdOpen(p.PID, 0)
	if err == nil {
		defer unix.Close(pidfd)
	}
	alive := err == nil && m.Alive(p) // asked after opening: the fd is of this very process
	fifo := m.box("launch", id, "exec.fifo")
	fd, err := unix.Open(fifo, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err == unix.ENOENT && alive {
		return nil // started before, by a helper that was killed before it could say so
	}
	if err != nil {
		return fmt.Errorf("starting a container: %w", err)
	}
	defer unix.Close(fd)
	if !alive {
		return errors.New("starting a container: its process has exited")
	}
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(poll, 10_000)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("starting a container: %w", err)
		}
		if n == 0 {
			return errors.New("starting a container: its process does not answer")
		}
		break
	}
	// A process that has started may have exited already: its byte says so.
	if n, err := unix.Read(fd, make([]byte, 1)); n != 1 {
		return fmt.Errorf("starting a container: its process has exited (%v)", err)
	}
	if err := os.Remove(fifo); err != nil {
		return fmt.Errorf("starting a container: %w", err)
	}
	return nil
}

// external tells whether an OCI runtime made the container, and not ours.
func (m *Machine) external(id string) bool {
	_, err := os.Lstat(m.box("launch", id, spec.RuntimeFile))
	return err == nil
}

// CtrUpdate changes limits.
func (m *Machine) CtrUpdate(id string, r *plan.Resources) error {
	_, _, err := m.run(&spec.Launch{Op: spec.Update, ID: id, Resources: r}, [3]*os.File{}, nil)
	return err
}

// CtrDelete removes what there is of a container, however far it got.
func (m *Machine) CtrDelete(id string, out helper.CtrOut) error {
	n := m.readNote(id)
	if n.Cgroup == "" {
		n.Cgroup = out.Cgroup
	}
	_, lerr := os.Lstat(m.box("launch", id))
	if n.Cgroup != "" || lerr == nil {
		if _, _, err := m.run(&spec.Launch{Op: spec.Delete, ID: id, CgroupPath: n.Cgroup}, [3]*os.File{}, nil); err != nil {
			return err // a process may be left: its file systems stay
		}
	}
	if err := m.forgetLog(id); err != nil {
		return err
	}
	if err := mount.Unmount(m.box("ctr", id, "rootfs")); err != nil {
		return err
	}
	if err := removeTree(m.state("ctr", id)); err != nil {
		return fmt.Errorf("removing the writable layer: %w", err)
	}
	if err := mount.UnmountBeneath(m.box("ctr", id)); err != nil {
		return err
	}
	err := m.dropLayers(n.Layers, m.box("ctr", id, "note"))
	parent := path.Dir(n.Cgroup)
	if _, perr := os.Lstat(m.box("pod", strings.TrimPrefix(path.Base(parent), ownCgroup))); perr != nil && n.Cgroup != "" {
		err = errors.Join(err, m.dropCgroup(parent)) // the pod went before its container
	}
	return errors.Join(err, removeTree(m.box("ctr", id)))
}

// Exec starts a process in a container, with the client's ends of its stdio.
func (m *Machine) Exec(ctrID, execID string, p *plan.ExecPlan) (proc helper.Proc, fds []int, err error) {
	s := &stdio{}
	defer s.close()
	if !p.TTY {
		if err := s.pipes(p.Stdin, p.Stdout, p.Stderr); err != nil {
			return proc, nil, err
		}
	}
	res, since, err := m.runTTY(&spec.Launch{Op: spec.Exec, ID: ctrID, ExecID: execID, Exec: p}, s, p.TTY)
	if err != nil {
		return proc, nil, err
	}
	if proc, err = procOf(res.PID); err != nil || !member(res.PID, m.readNote(ctrID).Cgroup) {
		proc, err = helper.Proc{}, nil // it is done already: its exit says how
	}
	if err := m.Keeper.Watch(execID, res.PID, since); err != nil {
		return proc, nil, errors.Join(err, m.Signal("", proc, uint8(unix.SIGKILL)))
	}
	for _, k := range s.ours {
		fd, err := unix.FcntlInt(k.file.Fd(), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			seqpacket.CloseAll(fds)
			return proc, nil, fmt.Errorf("duplicating an fd: %w", err)
		}
		fds = append(fds, fd)
	}
	return proc, fds, nil
}
