package tree

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/keeper/message"
)

// lockFD is the lock of the installation: held as long as this process lives, so
// that a second tree cannot be started on the same directories.
const lockFD = 3

// saved is what a version of init leaves to the next one, in a memfd.
type saved struct {
	Slots     []*slot
	Listeners map[string]int
	Watches   map[int]*watch
	Exits     map[string]message.Exit
	Unclaimed []reaped
	Kept      map[string]*set
	Answers   map[string][][]byte // not sent yet
}

// reexec executes init's file again, in place: same pid, same children, same
// fds. It returns only if that fails, and everything goes on as before.
func (t *Tree) reexec(args []string) error {
	s := saved{t.slots, t.listeners, t.watches, t.exits, t.unclaimed, t.kept, map[string][][]byte{}}
	for _, sl := range t.slots {
		for _, p := range sl.outbox {
			if p.set == "" {
				s.Answers[sl.Name] = append(s.Answers[sl.Name], p.b)
			}
		}
	}
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	fd, err := unix.MemfdCreate("postern-init", 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, err := unix.Pwrite(fd, b, 0); err != nil {
		return err
	}
	s.inherit(0)
	err = syscall.Exec(args[0], append(args, "--state", strconv.Itoa(fd)), []string{})
	s.inherit(unix.FD_CLOEXEC)
	return fmt.Errorf("executing %s: %w", args[0], err)
}

// inherit sets or clears close-on-exec on everything that is handed over.
func (s *saved) inherit(flag int) {
	each := func(fds ...int) {
		for _, fd := range fds {
			if fd >= 0 {
				unix.FcntlInt(uintptr(fd), unix.F_SETFD, flag)
			}
		}
	}
	each(lockFD)
	for _, sl := range s.Slots {
		each(sl.Chan)
	}
	for _, fd := range s.Listeners {
		each(fd)
	}
	for _, w := range s.Watches {
		each(w.PIDFD)
	}
	for _, k := range s.Kept {
		each(k.FDs...)
	}
}

// resume takes over what a former version left on fd state.
func (t *Tree) resume(state int) (map[string]*slot, error) {
	slots := map[string]*slot{}
	if state < 0 {
		return slots, nil
	}
	f := os.NewFile(uintptr(state), "state")
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		return nil, err
	}
	var s saved
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("state of the former init: %w", err)
	}
	s.inherit(unix.FD_CLOEXEC)
	t.listeners, t.watches, t.exits, t.unclaimed, t.kept = s.Listeners, s.Watches, s.Exits, s.Unclaimed, s.Kept
	for _, sl := range s.Slots {
		for _, b := range s.Answers[sl.Name] {
			sl.outbox = append(sl.outbox, packet{b: b})
		}
		slots[sl.Name] = sl
	}
	return slots, nil
}
