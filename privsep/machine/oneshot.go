package machine

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/confine"
	"github.com/postern-cri/postern/privsep/helper"
	"github.com/postern-cri/postern/privsep/keeper"
	"github.com/postern-cri/postern/privsep/netns"
	"github.com/postern-cri/postern/privsep/spec"
)

const (
	launchTime = 30 * time.Second
	cniTime    = 70 * time.Second
	maxResult  = 64 << 10
)

// memFile returns an anonymous file that holds b, at its start.
func memFile(b []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("postern", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("making a memfd: %w", err)
	}
	f := os.NewFile(uintptr(fd), "request")
	if _, err := f.WriteAt(b, 0); err != nil {
		f.Close()
		return nil, fmt.Errorf("writing a memfd: %w", err)
	}
	return f, nil
}

// pipe returns a pipe in blocking mode, close-on-exec: its ends are for other
// processes.
func pipe() (r, w *os.File, err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("making a pipe: %w", err)
	}
	return os.NewFile(uintptr(p[0]), "pipe"), os.NewFile(uintptr(p[1]), "pipe"), nil
}

// oneShot runs a program of ours: the request on its fd 3, its answer from its
// fd 4, which parse reads, extra at fd 5. It dies with us, and at the deadline.
func oneShot(path string, request any, deadline time.Duration, stdio [3]*os.File, extra *os.File, parse func(io.Reader) error) error {
	b, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("encoding a request: %w", err)
	}
	in, err := memFile(b)
	if err != nil {
		return err
	}
	defer in.Close()
	r, w, err := os.Pipe() // not pipe: the reading end has a deadline
	if err != nil {
		return err
	}
	defer r.Close()
	defer w.Close()
	cmd := &exec.Cmd{Path: path, Args: []string{path}, Env: []string{}, Dir: "/", ExtraFiles: []*os.File{in, w}}
	if stdio[0] != nil {
		cmd.Stdin = stdio[0]
	}
	for i, to := range []*io.Writer{&cmd.Stdout, &cmd.Stderr} {
		if stdio[i+1] != nil {
			*to = stdio[i+1]
		}
	}
	if extra != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, extra)
	}
	// The death signal goes with the thread that started the process: it must not
	// end before the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting a program: %w", err)
	}
	w.Close()
	kill := time.AfterFunc(deadline, func() { cmd.Process.Kill() })
	err = r.SetReadDeadline(time.Now().Add(deadline))
	if err == nil {
		err = parse(io.LimitReader(r, maxResult))
	}
	werr := cmd.Wait()
	if !kill.Stop() {
		return fmt.Errorf("no result within %v", deadline)
	}
	if err != nil {
		return fmt.Errorf("reading the result: %w", errors.Join(err, werr))
	}
	return nil
}

// run does one operation of postern-launch. since is a time before the process
// that it makes can exist.
func (m *Machine) run(l *spec.Launch, stdio [3]*os.File, console *os.File) (res spec.Result, since int64, err error) {
	l.StateDir, l.Seccomp = m.box("launch"), m.Layout.Seccomp()
	if m.Ceiling.SeccompDir != "" {
		l.Seccomp = m.Ceiling.SeccompDir
	}
	since = keeper.Now()
	path := fmt.Sprintf("/proc/self/fd/%d", m.launch.Fd())
	err = oneShot(path, l, launchTime, stdio, console, func(r io.Reader) error {
		return json.NewDecoder(r).Decode(&res) // not to its end: a container may hold the pipe a while
	})
	switch {
	case err == nil && res.Field != "":
		return res, since, helper.Invalid("%s: %s. Fix: %s", res.Field, res.Error, res.Remedy)
	case err == nil && res.Exited:
		return res, since, helper.Exists("%s", res.Error)
	case err == nil && res.Error != "":
		err = errors.New(res.Error)
	}
	if err != nil {
		return res, since, fmt.Errorf("postern-launch %s: %w", l.Op, err)
	}
	return res, since, nil
}

// attach runs the network plugins and returns the pod's addresses.
func (m *Machine) attach(n spec.Network) (ips []string, err error) {
	n.ConfDir, n.BinDirs, n.CacheDir = m.Ceiling.Network.ConfDir, m.Ceiling.Network.BinDirs, m.state("cni")
	read := func(r io.Reader) error {
		for s := bufio.NewScanner(r); s.Scan(); {
			word, rest, _ := strings.Cut(s.Text(), " ")
			switch word {
			case "ip":
				ips = append(ips, rest)
			case "ok":
				return nil
			case "error":
				return errors.New(rest)
			default:
				return fmt.Errorf("unexpected line %q", s.Text())
			}
		}
		return io.ErrUnexpectedEOF
	}
	err = netns.OnThread(func() error {
		if err := confine.Thread(confine.CNI); err != nil {
			return err
		}
		return oneShot(m.cni, n, cniTime, [3]*os.File{}, nil, read)
	})
	if err != nil {
		return nil, fmt.Errorf("network %s: %w", n.Op, err)
	}
	return ips, nil
}
