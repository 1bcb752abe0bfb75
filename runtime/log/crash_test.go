package logd

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// numbered writes numbered lines of random lengths until stop, and returns how
// many. Some are longer than a record, some writes are many lines, and some are
// half of one.
func numbered(w io.WriteCloser, stop <-chan struct{}, seed uint64) int {
	defer w.Close()
	r := rand.New(rand.NewPCG(seed, 1))
	out := bufio.NewWriterSize(w, 1+r.IntN(5000))
	for n := 0; ; n++ {
		select {
		case <-stop:
			out.Flush()
			return n
		default:
		}
		size := r.IntN(200)
		if r.IntN(500) == 0 {
			size = r.IntN(3 * MaxLine)
		}
		fmt.Fprintf(out, "%d %s\n", n, strings.Repeat("x", size))
		if r.IntN(100) == 0 {
			out.Flush()
		}
		if r.IntN(3000) == 0 {
			time.Sleep(time.Millisecond)
		}
	}
}

// checkNumbers fails unless lines are 0 … n-1, each once and in order.
func checkNumbers(t *testing.T, what string, lines []string, n int) {
	t.Helper()
	if len(lines) != n {
		t.Errorf("%s: %d lines logged, %d written", what, len(lines), n)
	}
	for i, line := range lines {
		var got int
		var fill string
		fmt.Sscanf(line, "%d %s", &got, &fill)
		if got != i {
			t.Fatalf("%s: line %d is number %d", what, i, got)
		}
		if strings.Trim(fill, "x") != "" {
			t.Fatalf("%s: line %d is mixed up: %.80q", what, i, line)
		}
	}
}

// TestKilledAtAnyMoment is promise 7 for logs: no daemon's crash loses a line or
// repeats one.
func TestKilledAtAnyMoment(t *testing.T) {
	k := newKeep(t)
	dir := t.TempDir()
	const containers = 3
	var boxes []*box
	var counts [containers][2]int
	stop := make(chan struct{})
	var writers sync.WaitGroup
	for i := range containers {
		b := k.add(i+1, false, false, false, filepath.Join(dir, fmt.Sprint(i)))
		boxes = append(boxes, b)
		writers.Go(func() { counts[i][0] = numbered(b.stdout, stop, uint64(i)) })
		writers.Go(func() { counts[i][1] = numbered(b.stderr, stop, uint64(100+i)) })
	}
	kills := 60
	if testing.Short() {
		kills = 15
	}
	for range kills {
		time.Sleep(time.Duration(rand.IntN(40000)) * time.Microsecond)
		k.kill()
		k.start()
	}
	close(stop)
	writers.Wait()
	for i, b := range boxes {
		k.remove(b)
		lines := logged(t, b.logPath)
		checkNumbers(t, "stdout", lines[0], counts[i][0])
		checkNumbers(t, "stderr", lines[1], counts[i][1])
	}
	t.Logf("%d kills, lines: %v", kills, counts)
}
