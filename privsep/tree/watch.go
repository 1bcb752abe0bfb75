package tree

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/keeper/message"
)

// Bounds on what is remembered.
const (
	maxUnclaimed = 1024             // exits that nobody asked for yet
	maxExits     = 512              // of processes without a kept set: exec. What a posternd that is away for a moment misses
	exitAge      = 10 * time.Minute // of the same
	maxKept      = 8192             // sets
)

// watch is a process whose exit is to be reported.
type watch struct {
	Key    string
	PIDFD  int
	Zombie bool // it has ended, and if it is not ours its parent has yet to reap it
}

// reaped is an exit that nobody has claimed: it may have come before its WATCH.
type reaped struct {
	PID    int
	Status unix.WaitStatus
	Boot   int64
}

func bootTime() int64 {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return ts.Nano()
}

// reap takes every dead child: daemons, containers, and orphans of containers.
func (t *Tree) reap() {
next:
	for {
		var ws unix.WaitStatus
		pid, _ := unix.Wait4(-1, &ws, unix.WNOHANG, nil) // never interrupted: it does not wait
		if pid <= 0 {
			return
		}
		for _, s := range t.slots {
			if _, ok := s.PIDs[pid]; ok {
				t.ended(s, pid, ws)
				continue next
			}
		}
		if w := t.watches[pid]; w != nil {
			t.report(pid, w, ws)
			continue
		}
		t.unclaimed = append(t.unclaimed, reaped{pid, ws, bootTime()})
		if len(t.unclaimed) > maxUnclaimed {
			t.unclaimed = t.unclaimed[1:]
		}
	}
}

// watch starts to watch pid for key, or reports what is known already.
func (t *Tree) watch(key string, pid int, since int64) {
	t.reap()
	if _, done := t.exits[key]; done {
		return
	}
	for i := len(t.unclaimed) - 1; i >= 0; i-- {
		if u := t.unclaimed[i]; u.PID == pid && u.Boot >= since {
			t.unclaimed = append(t.unclaimed[:i], t.unclaimed[i+1:]...)
			t.record(key, u.Status)
			return
		}
	}
	// The process may be the child of a launcher that is about to end, or of
	// nobody we know when containers outlived an init: the pidfd serves for both.
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.record(key, unknownStatus)
		return
	}
	if old := t.watches[pid]; old != nil {
		unix.Close(old.PIDFD)
	}
	t.watches[pid] = &watch{Key: key, PIDFD: fd}
}

// unknownStatus is exit code 255: the process is gone and nobody can say how.
const unknownStatus = unix.WaitStatus(255 << 8)

// orphan looks after a process that ended and was not reaped here.
func (t *Tree) orphan(pid int, w *watch) {
	// From Linux 6.15 the kernel tells the exit status to any holder of a pidfd.
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	err := unix.IoctlPidfdInfo(w.PIDFD, &info)
	ws := unix.WaitStatus(info.Exit_code)
	if err != nil || info.Mask&unix.PIDFD_INFO_EXIT == 0 {
		if unix.Kill(pid, 0) != unix.ESRCH { // it may be one whose AppArmor profile takes no signals
			return // still to be reaped, here or by its parent
		}
		ws = unknownStatus
	}
	t.report(pid, w, ws)
}

func (t *Tree) report(pid int, w *watch, ws unix.WaitStatus) {
	unix.Close(w.PIDFD)
	delete(t.watches, pid)
	t.record(w.Key, ws)
}

// record retains an exit and sends it to posternd.
func (t *Tree) record(key string, ws unix.WaitStatus) {
	e := message.Exit{Key: key, Code: int32(ws.ExitStatus()), Time: time.Now().UnixNano()}
	if ws.Signaled() {
		e.Signal = int32(ws.Signal())
		e.Code = 128 + e.Signal
	}
	t.exits[key] = e
	var oldest message.Exit
	n := 0
	for k, x := range t.exits {
		if t.kept[k] != nil || k == key {
			continue
		}
		if n++; e.Time-x.Time > int64(exitAge) {
			delete(t.exits, k)
		} else if oldest.Key == "" || x.Time < oldest.Time {
			oldest = x
		}
	}
	if n > maxExits {
		delete(t.exits, oldest.Key)
	}
	for _, s := range t.slots {
		if s.Chan >= 0 && s.has("exits") {
			t.send(s, packet{b: e.Encode()})
		}
	}
}
