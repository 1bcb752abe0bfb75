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

	"golang.org/x/sys/unix"
)

// attached is a client's ends by name.
type attached map[string]*os.File

func (k *keep) attach(b *box, stdin bool) attached {
	k.t.Helper()
	ans, fds := k.call(AttachRequest{Op: "attach", ID: b.id, Stdin: stdin, Stdout: true, Stderr: b.pty == nil, TTY: b.pty != nil})
	if !ans.OK || len(fds) != len(ans.Names) {
		k.t.Fatalf("attach: %+v, %d fds", ans, len(fds))
	}
	a := attached{}
	for i, name := range ans.Names {
		unix.SetNonblock(fds[i], true)
		a[name] = os.NewFile(uintptr(fds[i]), name)
		k.t.Cleanup(func() { a[name].Close() })
	}
	return a
}

func (a attached) close() {
	for _, f := range a {
		f.Close()
	}
}

// expect reads want from f.
func expect(t *testing.T, f *os.File, want string) {
	t.Helper()
	f.SetReadDeadline(time.Now().Add(time.Minute))
	got := make([]byte, len(want))
	n, err := io.ReadFull(f, got)
	if err != nil || string(got) != want {
		t.Fatalf("read %q, %v; want %q", got[:n], err, want)
	}
}

func TestAttach(t *testing.T) {
	k := newKeep(t)
	b := k.add(1, false, true, false, filepath.Join(t.TempDir(), "log"))
	b.stdout.WriteString("before\n")
	eventually(t, "the first line", func() bool { return len(logged(t, b.logPath)[0]) == 1 })
	one, two := k.attach(b, true), k.attach(b, true)
	// An unfinished line is shown at once, and only once.
	b.stdout.WriteString("promp")
	expect(t, one["stdout"], "promp")
	b.stdout.WriteString("t> \nnext\n")
	b.stderr.WriteString("error\n")
	expect(t, one["stdout"], "t> \nnext\n")
	expect(t, two["stdout"], "prompt> \nnext\n")
	expect(t, one["stderr"], "error\n")
	// Both may type; one leaving does not close stdin.
	one["stdin"].WriteString("one\n")
	expect(t, b.stdin, "one\n")
	one.close()
	two["stdin"].WriteString("two\n")
	expect(t, b.stdin, "two\n")
	b.stdout.Close()
	b.stderr.Close()
	if rest, err := io.ReadAll(two["stdout"]); err != nil || len(rest) > 0 {
		t.Fatalf("after the end: %q, %v", rest, err)
	}
	k.remove(b)
	lines := logged(t, b.logPath)
	if got := strings.Join(lines[0], "|"); got != "before|prompt> |next" {
		t.Errorf("logged %q", got)
	}
}

func TestStdinOnce(t *testing.T) {
	k := newKeep(t)
	b := k.add(1, false, true, true, "")
	big := bytes.Repeat([]byte("0123456789abcdef"), 64<<10) // far more than the pipes hold
	a := k.attach(b, true)
	go func() {
		a["stdin"].Write(big)
		a.close()
	}()
	// The end must be seen though init holds a duplicate: it is told to drop it.
	b.stdin.SetReadDeadline(time.Now().Add(time.Minute))
	got, err := io.ReadAll(b.stdin)
	if err != nil || !bytes.Equal(got, big) {
		t.Fatalf("%d bytes of %d, %v", len(got), len(big), err)
	}
	if ans, fds := k.call(AttachRequest{Op: "attach", ID: b.id, Stdin: true}); ans.OK || len(fds) > 0 {
		t.Fatal("stdin could be attached a second time")
	}
	k.kill()
	k.start()
	if ans, _ := k.call(AttachRequest{Op: "attach", ID: b.id, Stdin: true}); ans.OK {
		t.Fatal("stdin came back")
	}
}

// TestSlowClient: a client that does not read costs the log nothing.
func TestSlowClient(t *testing.T) {
	k := newKeep(t)
	b := k.add(1, false, false, false, filepath.Join(t.TempDir(), "log"))
	slow, fast := k.attach(b, false), k.attach(b, false)
	read := make(chan int64)
	go func() {
		n, _ := io.Copy(io.Discard, fast["stdout"])
		read <- n
	}()
	line := strings.Repeat("y", 99) + "\n"
	const lines = 40000
	start := time.Now()
	for i := range lines {
		b.stdout.WriteString(line)
		if i%2000 == 0 {
			time.Sleep(5 * time.Millisecond) // the fast one is a test under load, too
		}
	}
	b.stdout.Close()
	eventually(t, "the log", func() bool { return len(logged(t, b.logPath)[0]) == lines })
	if d := time.Since(start); d > clientPatience {
		t.Errorf("took %v", d)
	}
	if n := <-read; n != lines*100 {
		t.Errorf("the client that reads got %d bytes of %d", n, lines*100)
	}
	slow["control"].SetReadDeadline(time.Now().Add(time.Minute))
	if n, err := slow["control"].Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("the slow one was not dropped: %d, %v", n, err)
	}
	k.remove(b)
}

// TestIdleClientDropped: little unread output is patience's limit, not a limit of
// space.
func TestIdleClientDropped(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as patience does")
	}
	k := newKeep(t)
	b := k.add(1, false, false, false, "")
	a := k.attach(b, false)
	go b.stdout.Write(make([]byte, clientBuffer*2+clientBacklog/2))
	a["control"].SetReadDeadline(time.Now().Add(3 * clientPatience))
	if n, err := a["control"].Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Fatalf("not dropped: %d, %v", n, err)
	}
}

func TestTerminal(t *testing.T) {
	k := newKeep(t)
	b := k.add(1, true, true, false, filepath.Join(t.TempDir(), "log"))
	a := k.attach(b, true)
	b.pty.WriteString("$ ")
	expect(t, a["stdout"], "$ ")
	for _, c := range "ls -l" {
		a["stdin"].WriteString(string(c))
		expect(t, a["stdout"], string(c)) // the terminal's echo
	}
	a["stdin"].WriteString("\n")
	line := make([]byte, 100)
	if n, err := b.pty.Read(line); err != nil || string(line[:n]) != "ls -l\n" {
		t.Fatalf("the container read %q, %v", line[:n], err)
	}
	fmt.Fprint(a["control"], `{"resize":{"w":132,"h":43}}`)
	eventually(t, "the new size", func() bool {
		ws, err := unix.IoctlGetWinsize(int(b.pty.Fd()), unix.TIOCGWINSZ)
		return err == nil && ws.Col == 132 && ws.Row == 43
	})
	k.kill()
	k.start()
	b.pty.WriteString("after\n")
	b.pty.Close()
	k.remove(b)
	if got := strings.Join(logged(t, b.logPath)[0], "|"); got != "$ ls -l\r|after\r" {
		t.Errorf("logged %q", got)
	}
}

// TestTerminalWithoutLog: nothing but the terminal is handed over.
func TestTerminalWithoutLog(t *testing.T) {
	k := newKeep(t)
	b := k.add(1, true, true, false, "")
	b.pty.Write(bytes.Repeat([]byte("unseen"), 50000)) // a container does not wait for a client
	time.Sleep(50 * time.Millisecond)
	a := k.attach(b, true)
	b.pty.WriteString("$ ")
	expect(t, a["stdout"], "$ ")
	b.pty.Close()
	if rest, err := io.ReadAll(a["stdout"]); err != nil || len(rest) > 0 {
		t.Fatalf("%q, %v", rest, err)
	}
	k.remove(b)
}
