package tree

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/keeper/message"
)

// Times.
const (
	steady   = 10 * time.Second      // who ran this long did not crash in a loop
	maxDelay = 5 * time.Second       // longest wait before a restart
	stopTime = 5 * time.Second       // between SIGTERM and SIGKILL
	tick     = 20 * time.Millisecond // between two looks at a zombie of another parent
	quiet    = 5 * time.Second       // after the last event, until memory is given back
)

// slot is one Process with what runs of it. Its exported fields survive a
// re-execution.
type slot struct {
	Process
	PIDs    map[int]time.Time // running, with the time of their start
	Chan    int               // our end of its channel, -1 for none
	fails   int
	next    time.Time // not before
	outbox  []packet
	stopped time.Time // when SIGTERM was sent
}

// packet waits for its receiver to have room. With Set it is that kept set, as
// it is when sent.
type packet struct {
	b   []byte
	set string
}

// Tree is the state of init.
type Tree struct {
	config    string
	cfg       Config
	slots     []*slot
	listeners map[string]int // by path
	watches   map[int]*watch // by pid
	exits     map[string]message.Exit
	unclaimed []reaped
	kept      map[string]*set
	signals   chan os.Signal
	wake      [2]int // pipe from the signal handler to poll
	stopping  bool
	parked    bool
}

// Run runs the tree until it is stopped. state is the fd that a former version
// left, or -1. The caller must have locked its thread: children are told of the
// death of the thread that started them.
func Run(config string, state int, args []string) error {
	os.Clearenv()
	unix.Umask(0o077)
	unix.CloseOnExec(lockFD)
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("becoming the parent of orphans: %w", err)
	}
	t := &Tree{config: config, listeners: map[string]int{}, watches: map[int]*watch{},
		exits: map[string]message.Exit{}, kept: map[string]*set{}, signals: make(chan os.Signal, 16)}
	if err := unix.Pipe2(t.wake[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return err
	}
	got := make(chan os.Signal, 16)
	signal.Notify(got, unix.SIGCHLD, unix.SIGTERM, unix.SIGINT, unix.SIGUSR2)
	// Caught and dropped, not ignored: containers would inherit that.
	signal.Notify(make(chan os.Signal, 1), unix.SIGHUP)
	go func() {
		for s := range got {
			if s != unix.SIGCHLD { // the loop looks for the dead in every turn
				t.signals <- s
			}
			unix.Write(t.wake[1], []byte{0})
		}
	}()
	cfg, err := Load(config)
	if err != nil {
		return err
	}
	old, err := t.resume(state)
	if err != nil {
		return err
	}
	if err := t.configure(cfg, old); err != nil {
		return err
	}
	rest := time.AfterFunc(quiet, debug.FreeOSMemory) // Go alone keeps what the busiest moment took
	for t.turn(args) {
		rest.Reset(quiet)
	}
	return nil
}

// configure makes the slots, with what old ones of the same name have running.
func (t *Tree) configure(cfg Config, old map[string]*slot) error {
	t.cfg = cfg
	os.Remove(cfg.Parked)
	used := map[string]int{}
	for _, p := range cfg.Processes {
		s := &slot{Process: p, PIDs: map[int]time.Time{}, Chan: -1}
		if o := old[p.Name]; o != nil {
			s.PIDs, s.Chan, s.outbox = o.PIDs, o.Chan, o.outbox
			delete(old, p.Name)
		}
		for _, f := range p.FDs {
			if !f.listens() {
				continue
			}
			fd, ok := t.listeners[f.Path]
			if !ok {
				var err error
				if fd, err = listen(f); err != nil {
					return err
				}
			}
			used[f.Path] = fd
		}
		t.slots = append(t.slots, s)
	}
	for path, fd := range t.listeners {
		if _, ok := used[path]; !ok {
			unix.Close(fd)
		}
	}
	t.listeners = used
	return nil
}

// turn does all that is to be done and waits. It returns false at the end.
func (t *Tree) turn(args []string) bool {
	t.reap()
	select {
	case s := <-t.signals:
		switch {
		case s == unix.SIGUSR2:
			t.logf("replacing this process: %v", t.reexec(args))
		case t.parked:
			return false
		case !t.stopping:
			t.stopping = true
			if t.cfg.KillAll {
				for pid := range t.watches {
					end(pid)
				}
			}
		}
		return true
	default:
	}
	wait := time.Duration(-1)
	sooner := func(d time.Duration) {
		if d = max(d, 0); wait < 0 || d < wait {
			wait = d
		}
	}
	poll := []unix.PollFd{{Fd: int32(t.wake[0]), Events: unix.POLLIN}}
	do := []func(){func() { unix.Read(t.wake[0], make([]byte, 64)) }}
	on := func(fd int, events int16, f func()) {
		poll, do = append(poll, unix.PollFd{Fd: int32(fd), Events: events}), append(do, f)
	}
	if t.stopping && !t.stop(sooner) {
		return false
	}
	for _, s := range t.slots {
		if s.Chan >= 0 {
			on(s.Chan, s.events(), func() { t.serve(s) })
		}
		due := time.Until(s.next)
		switch {
		case t.stopping, s.Kind != PerConnection && len(s.PIDs) > 0, s.Kind == PerConnection && len(s.PIDs) >= s.Max:
		case due > 0:
			sooner(due)
		case s.Kind == Always:
			t.start(s, -1)
			sooner(0)
		default:
			for _, f := range s.FDs {
				if f.listens() {
					on(t.listeners[f.Path], unix.POLLIN, func() { t.demand(s, t.listeners[f.Path]) })
				}
			}
		}
	}
	for pid, w := range t.watches {
		if w.Zombie {
			t.orphan(pid, w)
			sooner(tick)
		} else {
			on(w.PIDFD, unix.POLLIN, func() { w.Zombie = true })
		}
	}
	ms := -1
	if wait >= 0 {
		ms = int((wait + time.Millisecond - 1) / time.Millisecond)
	}
	if _, err := unix.Poll(poll, ms); err != nil {
		return true // interrupted by a signal
	}
	for i := range poll {
		if poll[i].Revents != 0 {
			do[i]()
		}
	}
	return true
}

// demand starts what its listener fd is readable for.
func (t *Tree) demand(s *slot, fd int) {
	if s.Kind == OnDemand {
		if len(s.PIDs) == 0 {
			t.start(s, -1)
		}
		return
	}
	conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
	if err == nil {
		t.start(s, conn)
		unix.Close(conn)
	}
}

// start starts one process of s, with conn in the place of its listener if there
// is one.
func (t *Tree) start(s *slot, conn int) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.logf("%v", err)
		return
	}
	defer null.Close()
	errs, err := os.OpenFile(s.Log, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		errs = os.Stderr // a full disk must not keep the node down
	} else {
		defer errs.Close()
	}
	files := []uintptr{null.Fd(), null.Fd(), errs.Fd()}
	theirs, channel := -1, ""
	for _, f := range s.FDs {
		fd := t.listeners[f.Path]
		switch {
		case conn >= 0:
			fd = conn
		case !f.listens():
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
			if err != nil {
				t.logf("%v", err)
				return
			}
			unix.Close(s.Chan)
			s.Chan, theirs, s.outbox, channel = pair[0], pair[1], nil, f.Type
			fd = theirs
		}
		files = append(files, uintptr(fd))
	}
	pid, err := syscall.ForkExec(s.Path, append([]string{s.Path}, s.Args...), &syscall.ProcAttr{
		Dir: "/", Env: []string{}, Files: files, Sys: &syscall.SysProcAttr{Setsid: true}})
	unix.Close(theirs)
	if err != nil {
		t.logf("starting %s: %v", s.Name, err)
		s.fails++
		s.next = time.Now().Add(maxDelay)
		return
	}
	s.PIDs[pid] = time.Now()
	t.greet(s, channel)
}

// ended notes that a daemon is gone, and when it may start again: at once the
// first time, later and later when it dies young.
func (t *Tree) ended(s *slot, pid int, ws unix.WaitStatus) {
	lived := time.Since(s.PIDs[pid])
	delete(s.PIDs, pid)
	if len(s.PIDs) == 0 && s.Chan >= 0 {
		unix.Close(s.Chan)
		s.Chan = -1
	}
	s.next = time.Time{}
	if clean := ws.Exited() && ws.ExitStatus() == 0; clean && s.Kind != Always || s.Kind == PerConnection || t.stopping {
		return // it left because it was idle or done
	}
	if s.fails++; lived > steady {
		s.fails = 1
	}
	if s.fails > 1 {
		s.next = time.Now().Add(min(maxDelay, 50*time.Millisecond<<min(s.fails, 10)))
	}
	t.logf("%s (pid %d) ended after %s: exit %d, signal %d", s.Name, pid, lived.Round(time.Millisecond), ws.ExitStatus(), ws.Signal())
}

// end kills a container. Its AppArmor profile may take no signals from here: the
// kernel asks none where it kills a cgroup.
func end(pid int) {
	if unix.Kill(pid, unix.SIGKILL) != nil {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if dir, ok := strings.CutPrefix(string(b), "0::/"); ok { // with v1, containers choose what is before that
			_ = os.WriteFile("/sys/fs/cgroup/"+strings.TrimSpace(dir)+"/cgroup.kill", []byte("1"), 0)
		}
	}
}

// stop ends the daemons one after another, the last one first: nobody loses the
// one it reports to. It returns false when none is left to wait for.
func (t *Tree) stop(sooner func(time.Duration)) bool {
	for i := len(t.slots) - 1; i >= 0; i-- {
		s := t.slots[i]
		if len(s.PIDs) == 0 {
			continue
		}
		sig, left := unix.SIGTERM, stopTime
		if !s.stopped.IsZero() {
			sig, left = 0, stopTime-time.Since(s.stopped)
		} else {
			s.stopped = time.Now()
		}
		if left <= 0 {
			sig, left = unix.SIGKILL, tick
		}
		for pid := range s.PIDs {
			unix.Kill(pid, sig)
		}
		sooner(left)
		return true
	}
	if t.cfg.KillAll || len(t.watches) == 0 {
		return false
	}
	if !t.parked {
		// Containers are left. Whoever waits in the foreground may go; the next
		// `postern up` finds this process and asks it to go on with SIGUSR2.
		t.parked = os.WriteFile(t.cfg.Parked, fmt.Append(nil, os.Getpid()), 0o600) == nil
		t.letGo()
	} else if _, err := os.Stat(t.cfg.Parked); err != nil {
		return false // the whole installation was removed
	}
	return t.parked
}

// letGo gives up the terminal or pipe of whoever started us: he is done with us,
// and waits until nobody holds it.
func (t *Tree) letGo() {
	log := os.DevNull
	if len(t.cfg.Processes) > 0 {
		log = filepath.Join(filepath.Dir(t.cfg.Processes[0].Log), "postern-init.log")
	}
	for fd, path := range []string{os.DevNull, os.DevNull, log} {
		if f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600); err == nil {
			unix.Dup3(int(f.Fd()), fd, 0)
			f.Close()
		}
	}
}

func (t *Tree) logf(format string, a ...any) {
	fmt.Fprintf(os.Stderr, "%s postern-init: %s\n", time.Now().UTC().Format(time.RFC3339), fmt.Sprintf(format, a...))
}
