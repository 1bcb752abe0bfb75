package engine

import (
	"sync/atomic"
	"testing"
	"time"
)

// TestAlarm: a thread that gets no processor is not blamed for it, and one that
// never ends is stopped.
func TestAlarm(t *testing.T) {
	var rung atomic.Bool
	begin := time.Now()
	a := setAlarm(20*time.Millisecond, func() { rung.Store(true) })
	defer a.stop()
	time.Sleep(200 * time.Millisecond)
	if early := rung.Load(); early && time.Since(begin) < wallLimit {
		t.Error("an alarm rang for a thread that slept")
	}
	for end := time.Now().Add(time.Minute); !rung.Load(); {
		if time.Now().After(end) {
			t.Fatal("no alarm for a thread that never ends")
		}
	}
	var late atomic.Bool
	b := setAlarm(time.Hour, func() { late.Store(true) })
	b.stop()
	if b.look(); late.Load() {
		t.Error("an alarm rang after it was stopped")
	}
}
