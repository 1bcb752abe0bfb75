package logd

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestPartialLines: an unfinished line waits; its end or the container's brings it.
func TestPartialLines(t *testing.T) {
	k := newKeep(t)
	b := k.add(1, false, false, false, filepath.Join(t.TempDir(), "log"))
	for _, c := range "waiting" {
		b.stdout.WriteString(string(c))
		time.Sleep(time.Millisecond)
	}
	time.Sleep(50 * time.Millisecond)
	if data, _ := os.ReadFile(b.logPath); len(data) > 0 {
		t.Fatalf("logged already: %q", data)
	}
	b.stdout.WriteString("\nend")
	b.stdout.Close()
	b.stderr.Close()
	k.remove(b)
	data, _ := os.ReadFile(b.logPath)
	lines := strings.Split(string(data), "\n")
	if len(lines) != 3 || !strings.HasSuffix(lines[0], " stdout F waiting") || !strings.HasSuffix(lines[1], " stdout P end") {
		t.Errorf("%q", lines)
	}
}

// TestTinyBuffers: a container that fills its pipe's buffers with single bytes,
// or makes its pipe small, waits for nobody.
func TestTinyBuffers(t *testing.T) {
	k := newKeep(t)
	dir := t.TempDir()
	for i, prepare := range []func(fd int){
		func(fd int) { unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_DIRECT) }, // one packet each
		func(fd int) { unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, 4096) },
	} {
		b := k.add(i+1, false, false, false, filepath.Join(dir, fmt.Sprint(i)))
		fd := int(b.stdout.Fd())
		prepare(fd)
		want := strings.Repeat("z", 10000)
		done := make(chan bool)
		go func() {
			for j := range want {
				b.stdout.WriteString(want[j : j+1])
			}
			b.stdout.Close()
			close(done)
		}()
		select {
		case <-done:
		case <-time.After(time.Minute):
			t.Fatalf("case %d: the container stands still", i)
		}
		b.stderr.Close()
		k.remove(b)
		if got := logged(t, b.logPath)[0]; len(got) != 1 || got[0] != want {
			t.Errorf("case %d: %d lines", i, len(got))
		}
	}
}

// TestFullDisk: nothing is lost and the container waits until there is room.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Skip("needs to mount a tmpfs: " + err.Error())
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	k := newKeep(t)
	b := k.add(1, false, false, false, filepath.Join(dir, "log"))
	const lines = 20000
	done := make(chan bool)
	go func() {
		for i := range lines {
			fmt.Fprintf(b.stdout, "%d %s\n", i, strings.Repeat("x", i%80))
		}
		b.stdout.Close()
		b.stderr.Close()
		close(done)
	}()
	select {
	case <-done:
		t.Fatal("a full disk took everything")
	case <-time.After(300 * time.Millisecond):
	}
	before := cpu(t, k.cmd.Process.Pid)
	time.Sleep(1500 * time.Millisecond)
	if used := cpu(t, k.cmd.Process.Pid) - before; used > 20 {
		t.Errorf("%d ticks used while waiting for room", used)
	}
	k.kill() // in the middle of a short write
	k.start()
	// A rotation while the disk is full must not cut or repeat a line either.
	rotated := filepath.Join(t.TempDir(), "rotated")
	if ans, _ := k.call(map[string]string{"op": "reopen", "id": b.id}, openLog(t, rotated)); !ans.OK {
		t.Fatal(ans.Error)
	}
	<-done
	k.remove(b)
	checkNumbers(t, "both files", logged(t, b.logPath, rotated)[0], lines)
}

// cpu returns the ticks that pid has used.
func cpu(t *testing.T, pid int) int {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+2:]))
	var user, sys int
	fmt.Sscan(f[11], &user)
	fmt.Sscan(f[12], &sys)
	return user + sys
}

// TestRotation: lines are in the old file or in the new one.
func TestRotation(t *testing.T) {
	k := newKeep(t)
	dir := t.TempDir()
	path := func(i int) string { return filepath.Join(dir, fmt.Sprint(i)) }
	b := k.add(1, false, false, false, path(0))
	stop, count := make(chan struct{}), make(chan int)
	go func() { count <- numbered(b.stdout, stop, 7) }()
	const rotations = 30
	files := []string{path(0)}
	for i := 1; i <= rotations; i++ {
		time.Sleep(time.Duration(rand.IntN(10000)) * time.Microsecond)
		files = append(files, path(i))
		fd := openLog(t, path(i))
		if ans, _ := k.call(map[string]string{"op": "reopen", "id": b.id}, fd); !ans.OK {
			t.Fatal(ans.Error)
		}
		k.mu.Lock() // as the helper: init's duplicate follows
		unix.Dup3(fd, k.sets[b.id].fds[2], unix.O_CLOEXEC)
		k.mu.Unlock()
		unix.Close(fd)
	}
	close(stop)
	n := <-count
	b.stderr.Close()
	k.remove(b)
	checkNumbers(t, "all files", logged(t, files...)[0], n)
}

// TestMisuse: what is not for a peer, or makes no sense, changes nothing.
func TestMisuse(t *testing.T) {
	k := newKeep(t)
	r, w := pipe(t)
	defer unix.Close(r)
	defer unix.Close(w)
	for _, tc := range []struct {
		req any
		fds []int
	}{
		{map[string]any{"op": "add", "id": "x", "names": []string{"stdout"}}, nil},
		{map[string]any{"op": "add", "id": "x", "names": []string{"stdout", "stdout"}}, []int{r, r}},
		{map[string]any{"op": "add", "id": "x", "names": []string{"passwd"}}, []int{r}},
		{map[string]any{"op": "add", "id": "x", "names": []string{"stdout", "log"}}, []int{r, w}},
		{map[string]any{"op": "add", "id": "x", "tty": true, "names": []string{}}, nil},
		{map[string]any{"op": "attach", "id": "x"}, nil},
		{map[string]any{"op": "reopen", "id": "x"}, []int{w}},
		{map[string]any{"op": "dance", "id": "x"}, nil},
	} {
		if ans, _ := k.call(tc.req, tc.fds...); ans.OK {
			t.Errorf("%v was accepted", tc.req)
		}
	}
	if n := openFDs(t, k.cmd.Process.Pid); n > 20 {
		t.Errorf("%d fds are open: refused ones were kept", n)
	}
}

func openFDs(t *testing.T, pid int) int {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// TestRemoveClosesAll: a container leaves no fd behind.
func TestRemoveClosesAll(t *testing.T) {
	k := newKeep(t)
	dir := t.TempDir()
	k.call(map[string]string{"op": "remove", "id": "nobody"}) // it is up
	before := openFDs(t, k.cmd.Process.Pid)
	for i := range 5 {
		b := k.add(10+i, i%2 == 0, true, false, filepath.Join(dir, fmt.Sprint(i)))
		a := k.attach(b, true)
		if b.pty != nil {
			b.pty.Close()
		} else {
			b.stdout.Close()
			b.stderr.Close()
			b.stdin.Close()
		}
		k.remove(b)
		a.close()
		eventually(t, "all fds to be closed", func() bool { return openFDs(t, k.cmd.Process.Pid) <= before })
	}
}
