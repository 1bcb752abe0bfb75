//go:build linux && cgo && seccomp

package launch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/spec"
	"github.com/postern-cri/postern/runtime/program"
)

// What stands in the directory of a container that an OCI runtime made.
// spec.RuntimeFile is written first: a delete finds by it what a kill left half made.
const (
	documentFile  = "config.json"
	resourcesFile = "resources.json"
	pidFile       = "pid"
	stateDir      = "state"

	maxLog = 64 << 10
)

// external is a container of an OCI runtime. Nothing of the runtime's stays: what
// it leaves is the container's process, for the child subreaper.
type external struct {
	*operation
	dir     string
	runtime made
}

// made is what a container was made with.
type made struct {
	spec.Runtime
	Cgroup string
}

// external finds what made the container; nil is the built-in runtime.
func (o *operation) external() (*external, error) {
	f := &external{operation: o, dir: filepath.Join(o.StateDir, o.ID)}
	err := read(filepath.Join(f.dir, spec.RuntimeFile), &f.runtime)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return f, err
}

// theirs is for what the helper does itself to a container of the built-in runtime.
func (o *operation) theirs() (*external, error) {
	f, err := o.external()
	if err == nil && f == nil {
		err = errors.New("not a container of an OCI runtime")
	}
	return f, err
}

func (f *external) path(name string) string { return filepath.Join(f.dir, name) }

func (f *external) write(name string, v any) error {
	b, err := json.Marshal(v)
	if err == nil {
		err = os.WriteFile(f.path(name), b, 0o600)
	}
	return err
}

// createExternal makes the container with the runtime of the request.
func (o *operation) createExternal(cfg *configs.Config, saved *savedProcess) (err error) {
	f := &external{operation: o, dir: filepath.Join(o.StateDir, o.ID), runtime: made{*o.Runtime, o.CgroupPath}}
	if err := keepFlags(cfg.Mounts); err != nil {
		return err
	}
	d, err := o.document(cfg, saved)
	if err != nil {
		return err
	}
	b, err := encode(d)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.StateDir, 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(f.dir, 0o700); err != nil {
		return err
	}
	defer func() {
		if err == nil {
			return
		}
		if e := o.delete(); e != nil {
			err = fmt.Errorf("%w (and removing what was made: %v)", err, e)
		}
	}()
	if err := f.write(spec.RuntimeFile, f.runtime); err != nil {
		return err
	}
	if err := f.write(resourcesFile, cfg.Cgroups.Resources); err != nil {
		return err
	}
	if err := os.WriteFile(f.path(documentFile), b, 0o600); err != nil {
		return err
	}
	if err := f.begin(o.Plan.TTY, "create", "--bundle", f.dir, "--pid-file", f.path(pidFile), o.ID); err != nil {
		return err
	}
	if !f.alive() {
		return fmt.Errorf("%s made no process in the cgroup %s", f.runtime.Path, o.CgroupPath)
	}
	if err := hold(o.CgroupPath, cfg.Cgroups.Resources); err != nil {
		return err
	}
	o.result.PID, err = f.pid(pidFile)
	return err
}

// keepFlags adds the flags that staged sources have. A user namespace may not take
// them away, and a runtime that mounts without them is refused by the kernel.
func keepFlags(list []*configs.Mount) error {
	const kept = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC // ST_ are the same bits
	for _, m := range list {
		if !m.IsBind() {
			continue
		}
		var st unix.Statfs_t
		if err := unix.Statfs(m.Source, &st); err != nil {
			return fmt.Errorf("source of the mount at %s: %w", m.Destination, err)
		}
		m.Flags |= int(st.Flags) & kept
	}
	return nil
}

// hold sets the cgroup's limits and device rules as the built-in runtime does: a
// runtime adds device rules of its own to those that it is given, or has no word
// for a limit. At create nothing of the image has run yet.
func hold(group string, r *cgroups.Resources) error {
	m, err := manager.New(cgroupAt(group, r))
	if err == nil {
		err = m.Set(r)
	}
	return err
}

// begin runs the command that starts a process, whose terminal comes back over a
// socket that the runtime connects to. Its path is relative, because a socket's
// may not be long.
func (f *external) begin(tty bool, cmd string, args ...string) error {
	if !tty {
		return f.call(nil, cmd, args...)
	}
	if err := os.Chdir(f.dir); err != nil {
		return err
	}
	t, err := listenTerminal("t-" + f.ExecID)
	if err != nil {
		return err
	}
	defer t.close()
	if err := f.call(nil, cmd, append([]string{"--console-socket", t.name}, args...)...); err != nil {
		return err
	}
	return t.forward(consoleFD)
}

// call runs the runtime, which has our standard streams, where it starts a
// process the container's, and no environment. It dies with us.
func (f *external) call(stdout io.Writer, cmd string, args ...string) error {
	exe, err := program.Open(f.runtime.Path)
	if err != nil {
		return err
	}
	defer exe.Close()
	log, err := os.CreateTemp(f.dir, "log-")
	if err != nil {
		return err
	}
	defer os.Remove(log.Name())
	defer log.Close()
	// Ours were inherited, and so they would be: the runtime, and the container with
	// it, would have the helper's side of a socket.
	if err := unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(context.Background(), 2*patience)
	defer stop()
	c := program.Command(ctx, exe, f.runtime.Args...)
	if cgroupAt(f.runtime.Cgroup, nil).Systemd {
		c.Args = append(c.Args, "--systemd-cgroup")
	}
	c.Args = append(c.Args, "--root", f.path(stateDir), "--log", log.Name(), "--log-format", "json", cmd)
	c.Args = append(c.Args, args...)
	c.Dir = f.dir
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	if stdout != nil {
		c.Stdout = stdout
	}
	runtime.LockOSThread() // the death signal goes with the thread
	defer runtime.UnlockOSThread()
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err = c.Run()
	said := f.said(log)
	if ctx.Err() != nil {
		err = errors.New("no end within its time")
	}
	if err != nil && said != "" {
		err = errors.New(said)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", filepath.Base(f.runtime.Path), cmd, err)
	}
	return nil
}

// said reads the runtime's log: warnings become notes, the last error is the
// reason of a failure.
func (f *external) said(log *os.File) (reason string) {
	d := json.NewDecoder(io.LimitReader(log, maxLog))
	for {
		var line struct{ Level, Msg string }
		if d.Decode(&line) != nil {
			return reason
		}
		switch line.Level {
		case "warning":
			f.note("%s", line.Msg)
		case "error", "fatal":
			reason = strings.TrimSpace(line.Msg)
		}
	}
}

func (f *external) pid(name string) (int, error) {
	b, err := os.ReadFile(f.path(name))
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err == nil && pid <= 1 {
		err = fmt.Errorf("%d is no process of a container", pid)
	}
	return pid, err
}

// alive tells whether the container's first process is there, and in a cgroup
// that is named by the container: its number may have become another's.
func (f *external) alive() bool {
	pid, err := f.pid(pidFile)
	if err != nil {
		return false
	}
	groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil || !bytes.Contains(groups, []byte(path.Base(f.runtime.Cgroup))) {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	rest := stat[bytes.LastIndexByte(stat, ')')+1:] // the name before it is the process's own choice
	return err == nil && len(rest) > 1 && rest[1] != 'Z' && rest[1] != 'X'
}

// gone says so where the container has exited: the client does not try again.
func (f *external) gone() error {
	if f.alive() {
		return nil
	}
	f.result.Exited = true
	return errors.New("container has exited")
}

// status is the runtime's word for the container; "" is that there is none.
func (f *external) status() string {
	var out bytes.Buffer
	var s specs.State
	if f.call(&out, "state", f.ID) != nil || json.Unmarshal(out.Bytes(), &s) != nil {
		return ""
	}
	return string(s.Status)
}

// start lets a created container run. One that runs was started by a helper that
// did not live to say so.
func (o *operation) start() error {
	f, err := o.theirs()
	if err != nil {
		return err
	}
	if err := f.call(nil, "start", o.ID); err != nil && f.status() != string(specs.StateRunning) {
		return err
	}
	return nil
}

// kill signals the first process.
func (o *operation) kill() error {
	f, err := o.theirs()
	if err != nil {
		return err
	}
	return f.call(nil, "kill", o.ID, strconv.Itoa(int(o.Signal)))
}

// exec starts a process as what the container's first one was.
func (f *external) exec() error {
	if err := f.gone(); err != nil {
		return err
	}
	var d specs.Spec
	if err := read(f.path(documentFile), &d); err != nil {
		return err
	}
	if d.Process == nil || strings.ContainsAny(f.ExecID, "/\x00") {
		return errors.New("container state does not say what an exec runs as")
	}
	d.Process.Args, d.Process.Terminal = f.Exec.Args, f.Exec.TTY
	if f.Exec.TTY {
		d.Process.Env = withTerm(d.Process.Env)
	}
	process, pid := "x-"+f.ExecID, "p-"+f.ExecID
	defer os.Remove(f.path(process))
	defer os.Remove(f.path(pid))
	if adj := d.Process.OOMScoreAdj; adj != nil { // what crun does not set it inherits
		if err := os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(*adj)), 0); err != nil {
			f.note("oom_score_adj: %v", err)
		}
	}
	b, err := json.Marshal(d.Process)
	if err == nil {
		err = noNUL(b)
	}
	if err == nil {
		err = os.WriteFile(f.path(process), b, 0o600)
	}
	if err != nil {
		return err
	}
	if err := f.begin(f.Exec.TTY, "exec", "--process", f.path(process), "--detach", "--pid-file", f.path(pid), f.ID); err != nil {
		return errors.Join(f.gone(), err)
	}
	f.result.PID, err = f.pid(pid)
	return err
}

// update sets all limits, old and new: some runtimes take what an update does not
// name for what is to be as at first. On an error the old ones are set again.
func (f *external) update() error {
	if err := f.gone(); err != nil {
		return err
	}
	var was, now cgroups.Resources
	for _, r := range []*cgroups.Resources{&was, &now} {
		if err := read(f.path(resourcesFile), r); err != nil {
			return err
		}
	}
	if err := f.merge(&now, f.Resources); err != nil {
		return err
	}
	var d specs.Spec
	if err := read(f.path(documentFile), &d); err != nil {
		return err
	}
	if d.Process == nil {
		return errors.New("container state names no process")
	}
	if err := f.set(&now); err != nil {
		return errors.Join(err, f.set(&was))
	}
	m, err := manager.New(cgroupAt(f.runtime.Cgroup, &cgroups.Resources{}))
	if err != nil {
		return err
	}
	old := d.Process.OOMScoreAdj
	if d.Process.OOMScoreAdj, err = f.rescore(m.GetAllPids, old); err == nil && d.Process.OOMScoreAdj != old {
		err = f.write(documentFile, &d) // an exec gets the score from there, if the runtime lets it
	}
	return errors.Join(err, f.write(resourcesFile, &now))
}

func (f *external) set(r *cgroups.Resources) error {
	r.SkipDevices = true // set once, at create
	w, err := resourceWords(r)
	if err != nil {
		return err
	}
	w.Devices = nil
	if err := f.write("limits", w); err != nil {
		return err
	}
	if err := f.call(nil, "update", "--resources", f.path("limits"), f.ID); err != nil {
		return err
	}
	return hold(f.runtime.Cgroup, r)
}

// delete has the runtime remove what it knows of. Its processes were killed
// before; where it knows of nothing, or is not there any more, there is nothing
// left to do for it.
func (f *external) delete() error {
	exe, err := program.Open(f.runtime.Path)
	if err != nil {
		f.note("removing without the runtime: %v", err)
		return nil
	}
	exe.Close()
	if err = f.call(nil, "delete", "--force", f.ID); err == nil {
		return nil
	}
	switch s := f.status(); s {
	case "", string(specs.StateStopped):
		return nil
	default:
		return fmt.Errorf("%w (it is %s)", err, s)
	}
}
