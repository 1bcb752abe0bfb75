package wal

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func says(s string) Build {
	return func(uint64, Hash) ([]byte, error) { return []byte(s), nil }
}

func event(ev Event) Build {
	b, _ := json.Marshal(ev)
	return says(string(b))
}

func options() Options {
	return Options{BootID: "boot", Event: event, Segment: 4096, Ballast: -1, Retry: -1, Delay: 5 * time.Millisecond}
}

func open(t testing.TB, fs FS, o Options) *Log {
	t.Helper()
	l, err := Open(fs, o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// contents reads every record that verifies, by number.
func contents(t testing.TB, fs FS) map[uint64]string {
	t.Helper()
	out := map[uint64]string{}
	segs, err := segments(fs)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range segs {
		h, size, err := segmentHeader(fs, i)
		if err != nil {
			continue
		}
		f, _ := fs.Open(segmentName(i), false)
		walk(f, "", cursor{h.FirstSeq, h.PrevHash, HeaderSize}, size, func(fr Frame) error {
			out[fr.Seq] = string(fr.Payload) // a later segment supersedes
			return nil
		})
		f.Close()
	}
	return out
}

func TestCommitReopenVerify(t *testing.T) {
	dir := Dir(t.TempDir())
	want := map[uint64]string{}
	for range 3 {
		l := open(t, dir, options())
		for i := range 40 {
			s := fmt.Sprintf("record %d %s", i, strings.Repeat("x", 100))
			seq, err := l.Commit(says(s), false)
			if err != nil {
				t.Fatal(err)
			}
			want[seq] = s
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	got := contents(t, dir)
	for seq, s := range want {
		if got[seq] != s {
			t.Errorf("record %d is %.40q, want %.40q", seq, got[seq], s)
		}
	}
	rep, err := Verify(dir)
	if err != nil || rep.Records != 120 || rep.First != 1 || rep.Last != 120 || rep.Segments < 4 {
		t.Errorf("%+v %v", rep, err)
	}
	names, _ := dir.List()
	for _, n := range names {
		if st, _ := os.Stat(dir.path(n)); st.Mode()&0o077 != 0 {
			t.Errorf("%s has mode %v", n, st.Mode())
		}
	}
}

func TestGroupCommit(t *testing.T) {
	fs := newMemFS()
	fs.slow = time.Millisecond
	l := open(t, fs, Options{Event: event, Ballast: -1})
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for range 20 {
				if _, err := l.Commit(says("x"), false); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	l.Close()
	if fs.syncs >= 1280/2 {
		t.Errorf("%d syncs for 1280 records", fs.syncs)
	}
	if rep, err := Verify(fs); err != nil || rep.Records != 1280 {
		t.Errorf("%+v %v", rep, err)
	}
}

func TestAsync(t *testing.T) {
	fs := newMemFS()
	l := open(t, fs, options())
	for i := range 10 {
		if _, err := l.Commit(says(fmt.Sprint("async ", i)), true); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(time.Minute); len(contents(t, fs.crash(false))) < 10; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("async records are not on disk after their delay")
		}
	}
	l.Commit(says("last"), true)
	l.Close()
	if got := contents(t, fs.crash(false)); got[11] != "last" || got[1] != "async 0" {
		t.Errorf("after close: %v", got)
	}
}

// work commits until the end or the first refusal and a few records more.
func work(t testing.TB, fs FS, n int) map[uint64]string {
	acked := map[uint64]string{}
	l, err := Open(fs, options())
	if err != nil {
		return acked
	}
	for i := range n {
		s := fmt.Sprintf("record %d %s", i, strings.Repeat("x", 200))
		if seq, err := l.Commit(says(s), false); err == nil {
			acked[seq] = s
		}
	}
	l.Close()
	return acked
}

func holds(t *testing.T, what string, fs FS, acked map[uint64]string) {
	t.Helper()
	if _, err := Verify(fs); err != nil {
		t.Fatalf("%s: before reopening: %v", what, err)
	}
	l, err := Open(fs, options())
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if _, err := l.Commit(says("after"), false); err != nil {
		t.Fatalf("%s: a sound disk refuses: %v", what, err)
	}
	l.Close()
	got := contents(t, fs)
	for seq, s := range acked {
		if got[seq] != s {
			t.Fatalf("%s: acknowledged record %d is %.30q, want %.30q", what, seq, got[seq], s)
		}
	}
	if _, err := Verify(fs); err != nil {
		t.Fatalf("%s: after reopening: %v", what, err)
	}
}

// TestPromiseDecisionOnDiskUnderFaults fails every operation, alone and in pairs,
// with and without its effect, and then takes the power away: every acknowledged
// record must be there and the log must verify.
func TestPromiseDecisionOnDiskUnderFaults(t *testing.T) {
	const records = 24
	probe := newMemFS()
	work(t, probe, records)
	total := probe.ops + 8
	for _, persisted := range []bool{false, true} {
		for a := 1; a <= total; a++ {
			for b := a; b <= total; b++ {
				if b > a+12 && b%5 != 0 { // neighbours all, far pairs sampled
					continue
				}
				fs := newMemFS()
				fs.failAt[a], fs.failAt[b], fs.persisted = true, true, persisted
				acked := work(t, fs, records)
				what := fmt.Sprintf("ops %d and %d fail, persisted %v", a, b, persisted)
				if len(acked) < records-4 {
					t.Fatalf("%s: only %d acknowledged", what, len(acked))
				}
				holds(t, what+", power lost", fs.crash(false), acked)
				holds(t, what+", killed", fs.crash(true), acked)
			}
		}
	}
}

func TestDeadDiskRefuses(t *testing.T) {
	fs := newMemFS()
	l := open(t, fs, options())
	if _, err := l.Commit(says("good"), false); err != nil {
		t.Fatal(err)
	}
	fs.mu.Lock()
	for i := range 10000 {
		fs.failAt[fs.ops+1+i] = true
	}
	fs.mu.Unlock()
	for range 5 {
		if _, err := l.Commit(says("bad"), false); !errors.Is(err, ErrFailed) {
			t.Fatalf("a dead disk gave %v", err)
		}
	}
	fs.mu.Lock()
	fs.failAt = map[int]bool{}
	fs.mu.Unlock()
	if _, err := l.Commit(says("back"), false); err != nil {
		t.Fatalf("the disk is back: %v", err)
	}
	l.Close()
	if _, err := Verify(fs); err != nil {
		t.Fatal(err)
	}
}

func TestFullDisk(t *testing.T) {
	fs := newMemFS()
	fs.capacity = 40 << 10
	o := options()
	o.Ballast = 8 << 10
	l := open(t, fs, o)
	acked := map[uint64]string{}
	fill := func() (err error) {
		for i := 0; err == nil && i < 1000; i++ {
			var seq uint64
			s := fmt.Sprintf("record %d %s", i, strings.Repeat("x", 200))
			if seq, err = l.Commit(says(s), false); err == nil {
				acked[seq] = s
			}
		}
		return err
	}
	if err := fill(); !errors.Is(err, ErrFull) {
		t.Fatalf("a full disk gave %v", err)
	}
	if _, err := l.Commit(says("x"), false); !errors.Is(err, ErrFull) {
		t.Fatalf("a full disk gave %v the second time", err)
	}
	full := func(kind string) bool {
		return slices.ContainsFunc(slices.Collect(func(yield func(string) bool) {
			for _, v := range contents(t, fs) {
				if !yield(v) {
					return
				}
			}
		}), func(s string) bool { return strings.Contains(s, kind) })
	}
	if !full("audit.full") {
		t.Error("the log does not say that it is full")
	}
	fs.mu.Lock()
	fs.capacity = 100 << 10
	fs.mu.Unlock()
	if seq, err := l.Commit(says("room"), false); err != nil {
		t.Fatalf("space is back: %v", err)
	} else {
		acked[seq] = "room"
	}
	if !full("audit.space") {
		t.Error("the log does not say that space is back")
	}
	if err := fill(); !errors.Is(err, ErrFull) { // and once more, with the ballast made anew
		t.Fatalf("full again gave %v", err)
	}
	l.Close()
	fs.capacity = 0
	holds(t, "full", fs.crash(false), acked)
}

// TestRealFullDisk is TestFullDisk on a real small filesystem.
func TestRealFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("root: mounts a tmpfs")
	}
	d := t.TempDir()
	if err := unix.Mount("tmpfs", d, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("mount: %v", err)
	}
	defer unix.Unmount(d, unix.MNT_DETACH)
	o := options()
	o.Ballast, o.Segment = 256<<10, SegmentSize
	l := open(t, Dir(d), o)
	big := says(strings.Repeat("x", 10000))
	var err error
	n := 0
	for ; err == nil && n < 1000; n++ {
		_, err = l.Commit(big, false)
	}
	if !errors.Is(err, ErrFull) || n < 50 {
		t.Fatalf("after %d: %v", n, err)
	}
	if err := unix.Mount("", d, "", unix.MS_REMOUNT, "size=4m"); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Commit(big, false); err != nil {
		t.Fatalf("space is back: %v", err)
	}
	l.Close()
	if _, err := Verify(Dir(d)); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkCommit(b *testing.B) {
	for _, writers := range []int{1, 16, 64} {
		b.Run(fmt.Sprint(writers), func(b *testing.B) {
			l := open(b, Dir(b.TempDir()), Options{})
			defer l.Close()
			p := says(strings.Repeat("x", 1500))
			var mu sync.Mutex
			var took []time.Duration
			var wg sync.WaitGroup
			each := b.N/writers + 1
			b.ResetTimer()
			for range writers {
				wg.Go(func() {
					mine := make([]time.Duration, 0, each)
					for range each {
						at := time.Now()
						if _, err := l.Commit(p, false); err != nil {
							b.Error(err)
							return
						}
						mine = append(mine, time.Since(at))
					}
					mu.Lock()
					took = append(took, mine...)
					mu.Unlock()
				})
			}
			wg.Wait()
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
		})
	}
}
