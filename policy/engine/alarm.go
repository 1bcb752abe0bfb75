package engine

import (
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Deadline is the most processor time that one evaluation may take, some 700 times
// what one takes. It is no time of the clock, which goes on while a starved node
// gives us no processor. wallLimit is, and is there for whoever waits.
const (
	Deadline  = 200 * time.Millisecond
	wallLimit = time.Second
)

// alarm rings once the thread that it was set on has used its time.
type alarm struct {
	ring    func()
	limit   time.Duration
	clock   int32         // of the thread
	before  time.Duration // what it had used by then
	started time.Time

	mu      sync.Mutex
	timer   *time.Timer
	stopped bool
}

// setAlarm sets an alarm on the calling goroutine, which is tied to its thread
// until it calls stop.
func setAlarm(limit time.Duration, ring func()) *alarm {
	runtime.LockOSThread()
	a := &alarm{ring: ring, limit: limit, clock: threadClock(unix.Gettid()), started: time.Now()}
	a.before = a.now()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.timer = time.AfterFunc(limit, a.look)
	return a
}

// threadClock is the number of the clock of a thread's processor time: the kernel's
// CPUCLOCK_SCHED | CPUCLOCK_PERTHREAD_MASK beside the complement of its id.
func threadClock(tid int) int32 { return int32(^tid)<<3 | 2 | 4 }

func (a *alarm) now() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(a.clock, &t); err != nil {
		return time.Since(a.started) // an evaluation that cannot be measured is held to the clock
	}
	return time.Duration(t.Nano())
}

func (a *alarm) look() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stopped {
		return
	}
	left := a.limit - (a.now() - a.before)
	if left <= 0 || time.Since(a.started) >= max(wallLimit, a.limit) {
		a.ring()
		return
	}
	a.timer.Reset(max(left, 5*time.Millisecond))
}

func (a *alarm) stop() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stopped = true
	a.timer.Stop()
	runtime.UnlockOSThread()
}
