package machine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/helper"
	"github.com/postern-cri/postern/privsep/mount"
	"github.com/postern-cri/postern/privsep/plan"
)

// A shared PID namespace needs a process that is its init. It is visible to the
// pod's containers, so it has nothing: a copy of our program in memory (the file
// on disk could be written to through /proc/1/exe), an empty root, no
// capability, no uid, and nobody may trace it. The same process makes the
// namespaces of a pod that has a user namespace, and is killed after they are
// pinned where it is not needed for the first reason.

// PauseArg is the argument that makes our program a pause process.
const PauseArg = "pause"

const nobody = 65534

// startPause starts a pause process in a new PID namespace. It exits by itself
// where we die before it is written down. label is the SELinux label of the pod's
// files, "" where there are none: containers of the pod see what is mounted there.
func (m *Machine) startPause(dir, label string, p *plan.PodPlan) (helper.Proc, error) {
	var none helper.Proc
	self, err := m.copySelf()
	if err != nil {
		return none, err
	}
	theirs, ours, err := pipe()
	if err != nil {
		return none, err
	}
	defer theirs.Close()
	defer ours.Close()
	answer, ready, err := pipe()
	if err != nil {
		return none, err
	}
	defer answer.Close()
	defer ready.Close()
	attr := &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS, Setsid: true}
	if p.UserNS {
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.UidMappings, attr.GidMappings, attr.GidMappingsEnableSetgroups = idMap(p.UIDs), idMap(p.GIDs), true
		attr.Credential = &syscall.Credential{} // its root
	}
	cmd := &exec.Cmd{
		Path: fmt.Sprintf("/proc/self/fd/%d", self.Fd()), Args: []string{"pause", PauseArg, label}, Env: []string{}, Dir: "/",
		ExtraFiles: []*os.File{theirs, ready}, SysProcAttr: attr,
	}
	if err := cmd.Start(); err != nil {
		return none, fmt.Errorf("starting a pause process: %w", err)
	}
	go cmd.Wait()
	ready.Close()
	if _, err := io.ReadFull(answer, make([]byte, 1)); err != nil { // it has dropped everything
		return none, fmt.Errorf("a pause process did not get ready: %w", err)
	}
	proc, err := procOf(cmd.Process.Pid)
	if err != nil {
		return none, err
	}
	b, err := json.Marshal(proc)
	if err == nil {
		err = os.WriteFile(dir+"/pause", b, 0o600)
	}
	if err == nil {
		_, err = ours.Write([]byte{1})
	}
	if err == nil && p.PID == plan.NamespacePod {
		err = bindNS(proc.PID, "pid", dir+"/pid")
	}
	if err == nil && p.UserNS {
		err = bindNS(proc.PID, "user", dir+"/user")
	}
	return proc, err
}

func idMap(in []plan.IDMap) []syscall.SysProcIDMap {
	var out []syscall.SysProcIDMap
	for _, m := range in {
		out = append(out, syscall.SysProcIDMap{ContainerID: int(m.Container), HostID: int(m.Host), Size: int(m.Length)})
	}
	return out
}

// checkUserNS refuses what cannot be made: more than one range (a file's owner is
// computed here with one), a range without nobody, and namespaces of the host's,
// that no uid of the pod's is root of. Which host ids are allowed says the ceiling.
func checkUserNS(p *plan.PodPlan) error {
	for _, maps := range [][]plan.IDMap{p.UIDs, p.GIDs} {
		if len(maps) != 1 || maps[0].Container != 0 || maps[0].Length <= nobody {
			return errors.New("a user namespace needs one mapping each of uids and gids, from container id 0 on, of at least 65535 ids")
		}
	}
	if p.Network != plan.NamespacePod || p.IPC != plan.NamespacePod || p.PID == plan.NamespaceNode {
		return errors.New("a pod with a user namespace cannot share the host's other namespaces")
	}
	return nil
}

// bindNS pins a namespace of pid at target.
func bindNS(pid int, kind, target string) error {
	f, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o400)
	if err != nil {
		return fmt.Errorf("pinning a namespace: %w", err)
	}
	f.Close()
	if err := unix.Mount(fmt.Sprintf("/proc/%d/ns/%s", pid, kind), target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("pinning a namespace: %w", err)
	}
	return nil
}

func (m *Machine) stopPause(dir string, p helper.Proc) error {
	if b, err := os.ReadFile(dir + "/pause"); err == nil {
		if err := json.Unmarshal(b, &p); err != nil {
			return fmt.Errorf("reading the pause process's note: %w", err)
		}
	}
	if err := m.Signal("", p, uint8(unix.SIGKILL)); err != nil {
		return err
	}
	err := unix.Unmount(dir+"/pid", unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err == unix.EINVAL || err == unix.ENOENT {
		err = nil
	}
	if uerr := mount.Unmount(dir + "/user"); uerr != nil {
		err = errors.Join(err, uerr)
	}
	for _, name := range []string{"pid", "user", "pause"} {
		if rerr := os.Remove(dir + "/" + name); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	return err
}

// copySelf returns a sealed copy of our program, made once.
func (m *Machine) copySelf() (*os.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.self != nil {
		return m.self, nil
	}
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	defer from.Close()
	fd, err := unix.MemfdCreate("pause", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if err == unix.EINVAL { // MFD_EXEC is Linux 6.3
		fd, err = unix.MemfdCreate("pause", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fmt.Errorf("copying our program: %w", err)
	}
	f := os.NewFile(uintptr(fd), "pause")
	_, err = io.Copy(f, from)
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("copying our program: %w", err)
	}
	m.self, err = high(f)
	return m.self, err
}

// Pause is the pause process: PID 1 of a pod. It drops everything, says so on
// fd 4, waits for a byte on fd 3 and then reaps until it is killed. It does not
// return.
func Pause() {
	if err := pause(); err != nil {
		fmt.Fprintln(os.Stderr, "pause:", err)
	}
	os.Exit(1)
}

func pause() error {
	// The empty root is mounted over /proc because that is always there and
	// everybody may enter it.
	const empty = "/proc"
	options := "size=4k"
	if label := os.Args[2]; label != "" {
		options += `,context="` + label + `"`
	}
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
	for _, step := range []func() error{
		func() error { return unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, "") },
		func() error {
			return unix.Mount("pause", empty, "tmpfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NOEXEC|unix.MS_NODEV, options)
		},
		func() error { return unix.Chdir(empty) },
		func() error { return unix.PivotRoot(".", ".") },
		func() error { return unix.Unmount(".", unix.MNT_DETACH) },
		func() error { return syscall.Setgroups(nil) },
		func() error { return syscall.Setresgid(nobody, nobody, nobody) },
		func() error { return syscall.Setresuid(nobody, nobody, nobody) },
		func() error { return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) },
		func() error { return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	begin, ready := os.NewFile(3, "go"), os.NewFile(4, "ready")
	if _, err := ready.Write([]byte{1}); err != nil {
		return err
	}
	ready.Close()
	if _, err := io.ReadFull(begin, make([]byte, 1)); err != nil {
		return err
	}
	begin.Close()
	for fd := range 3 { // nothing of the helper's stays open here
		unix.Close(fd)
	}
	child := make(chan os.Signal, 1)
	signal.Notify(child, unix.SIGCHLD)
	for range child {
		for {
			if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); pid <= 0 && err != unix.EINTR {
				break
			}
		}
	}
	return nil
}
