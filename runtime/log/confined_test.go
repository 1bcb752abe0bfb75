package logd

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-cri/postern/privsep/layout"
)

// buildConfined builds the real program and a root for it.
func buildConfined(t *testing.T) []string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: the daemon starts as root to drop it")
	}
	root := t.TempDir()
	binary := filepath.Join(root, "postern-logd")
	cmd := exec.Command("go", "build", "-trimpath", "-o", binary, "../../cmd/postern-logd")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	l := layout.New(root)
	if err := os.MkdirAll(l.Run, 0o755); err != nil {
		t.Fatal(err)
	}
	var users layout.Users
	for i, r := range users.Roles() {
		*r.ID = layout.ID{UID: uint32(61000 + i), GID: uint32(61000 + i)}
	}
	if err := layout.WriteUsers(l.UsersFile(), users); err != nil {
		t.Fatal(err)
	}
	return []string{binary, "--root", root}
}

// TestConfined does everything with the real program, without its rights: what
// the filter forbids would end it.
func TestConfined(t *testing.T) {
	k := newKeep(t, buildConfined(t)...)
	dir := t.TempDir()
	b := k.add(1, false, true, true, filepath.Join(dir, "pipes"))
	term := k.add(2, true, true, false, filepath.Join(dir, "terminal"))
	for i := range 3 {
		a, ta := k.attach(b, i == 2), k.attach(term, true)
		fmt.Fprintf(b.stdout, "line %d\n", i)
		expect(t, a["stdout"], fmt.Sprintf("line %d\n", i))
		if i == 2 {
			a["stdin"].WriteString("typed")
			a.close()
			buf := make([]byte, 100)
			if n, err := b.stdin.Read(buf); string(buf[:n]) != "typed" {
				t.Fatal(n, err)
			}
			if n, _ := b.stdin.Read(buf); n != 0 {
				t.Fatal("stdin did not end")
			}
		}
		fmt.Fprint(ta["control"], `{"resize":{"w":10,"h":20}}`)
		term.pty.WriteString("shown\n")
		expect(t, ta["stdout"], "shown\r\n")
		rotated := openLog(t, filepath.Join(dir, fmt.Sprint("rotated", i)))
		if i == 1 {
			if ans, _ := k.call(map[string]string{"op": "reopen", "id": term.id}, rotated); !ans.OK {
				t.Fatal(ans.Error)
			}
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", k.cmd.Process.Pid))
		if err != nil || !strings.Contains(string(status), "CapEff:\t0000000000000000") || !strings.Contains(string(status), "Seccomp:\t2") {
			t.Fatalf("not confined: %v\n%s", err, status)
		}
		k.kill()
		k.start()
	}
	b.stdout.WriteString("end")
	b.stdout.Close()
	b.stderr.Close()
	k.remove(b)
	if got := strings.Join(logged(t, b.logPath)[0], "|"); got != "line 0|line 1|line 2|end" {
		t.Errorf("%q", got)
	}
	time.Sleep(300 * time.Millisecond)
	t.Logf("confined: PSS %d KiB", pss(t, k.cmd.Process.Pid))
}
