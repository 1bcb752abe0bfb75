package logd

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// BenchmarkThroughput writes lines of 100 bytes through a daemon; the plain
// variant is what a logger without a journal does, read and write, with the same
// formatting.
func BenchmarkThroughput(b *testing.B) {
	chunk := bytes.Repeat([]byte(strings.Repeat("x", 99)+"\n"), 600)
	b.Run("journal", func(b *testing.B) {
		k := newKeep(b)
		c := k.add(1, false, false, false, filepath.Join(b.TempDir(), "log"))
		b.SetBytes(int64(len(chunk)))
		for b.Loop() {
			c.stdout.Write(chunk)
		}
		c.stdout.Close()
		c.stderr.Close()
		k.remove(c)
	})
	b.Run("plain", func(b *testing.B) {
		r, w, err := os.Pipe()
		if err != nil {
			b.Fatal(err)
		}
		log, err := os.OpenFile(filepath.Join(b.TempDir(), "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			b.Fatal(err)
		}
		done := make(chan error)
		go func() {
			buf, out, have := make([]byte, maxRaw), make([]byte, 0, 2*maxOut), 0
			for {
				n, err := r.Read(buf[have:])
				have += n
				records, taken := format(out, 2*maxOut, buf[:have], time.Now(), Stdout, err == io.EOF)
				log.Write(records)
				have = copy(buf, buf[taken:have])
				if err != nil {
					done <- nil
					return
				}
			}
		}()
		b.SetBytes(int64(len(chunk)))
		for b.Loop() {
			w.Write(chunk)
		}
		w.Close()
		<-done
	})
}

// BenchmarkLine is one short line at a time, each waited for.
func BenchmarkLine(b *testing.B) {
	k := newKeep(b)
	c := k.add(1, false, false, false, filepath.Join(b.TempDir(), "log"))
	a := k.attach(c, false)
	buf := make([]byte, 100)
	for b.Loop() {
		c.stdout.WriteString("hello\n")
		if n, err := a["stdout"].Read(buf); n != 6 {
			b.Fatal(n, err)
		}
	}
}

// TestMemory prints what the process and each container cost.
func TestMemory(t *testing.T) {
	k := newKeep(t)
	dir := t.TempDir()
	time.Sleep(200 * time.Millisecond)
	pid := k.cmd.Process.Pid
	idle := pss(t, pid)
	const n = 100
	var boxes []*box
	for i := range n {
		b := k.add(i+1, false, true, false, filepath.Join(dir, fmt.Sprint(i)))
		fmt.Fprintf(b.stdout, "hello %d\n", i)
		boxes = append(boxes, b)
	}
	eventually(t, "the last line", func() bool { return len(logged(t, boxes[n-1].logPath)[0]) == 1 })
	full := pss(t, pid)
	t.Logf("idle PSS %d KiB, with %d containers %d KiB: %d bytes each", idle, n, full, (full-idle)*1024/n)
	if full-idle > 20*n {
		t.Errorf("a container costs %d KiB", (full-idle)/n)
	}
}

func pss(t *testing.T, pid int) int {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Skip("needs smaps_rollup: " + err.Error())
	}
	var kib int
	for _, line := range strings.Split(string(data), "\n") {
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			fmt.Sscan(rest, &kib)
		}
	}
	return kib
}
