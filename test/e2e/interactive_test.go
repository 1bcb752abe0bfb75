package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// shell is a shell command in which $crictl is crictl and $c the container, on a
// terminal of its own if it is to be interactive, and where its input is typed.
func (tr *tree) shell(ctr, script string, terminal bool) (cmd *exec.Cmd, typed *os.File) {
	tr.t.Helper()
	config := filepath.Join(filepath.Dir(tr.root), "crictl.yaml")
	tr.write(config, "timeout: 60\n")
	script = fmt.Sprintf("crictl='%s -c %s -r unix://%s/run/postern.sock' c=%s; ", filepath.Join(bin, "tools/crictl"), config, tr.root, ctr) + script
	args := []string{"timeout", "-s", "KILL", "120", "bash", "-c", script}
	if terminal {
		args = []string{"timeout", "-s", "KILL", "120", "script", "-qec", "bash -c '" + strings.ReplaceAll(script, "'", `'"'"'`) + "'", "/dev/null"}
	}
	cmd = exec.Command(args[0], args[1:]...)
	// The input never ends by itself: an end would be typed as ^D, which is a NUL
	// where the terminal turns raw between that and its being read.
	r, w, err := os.Pipe()
	if err != nil {
		tr.t.Fatal(err)
	}
	tr.t.Cleanup(func() {
		r.Close()
		w.Close()
	})
	cmd.Stdin = r
	cmd.WaitDelay = 5 * time.Second // what it leaves behind may hold the pipe
	return cmd, w
}

// crictl runs such a command and returns what it says.
func (tr *tree) crictl(ctr, script string, terminal bool) (string, error) {
	tr.t.Helper()
	cmd, _ := tr.shell(ctr, script, terminal)
	out, err := cmd.CombinedOutput()
	return strings.ReplaceAll(string(out), "\r", ""), err
}

// typist starts such a command. seen is what it has said so far, leave kills it.
func (tr *tree) typist(ctr, script string, terminal bool) (typed *os.File, seen func() string, leave func()) {
	tr.t.Helper()
	cmd, typed := tr.shell(ctr, script, terminal)
	path := filepath.Join(tr.t.TempDir(), "seen")
	f, err := os.Create(path)
	if err != nil {
		tr.t.Fatal(err)
	}
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		tr.t.Fatal(err)
	}
	leave = sync.OnceFunc(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
	})
	tr.t.Cleanup(leave)
	return typed, func() string {
		b, err := os.ReadFile(path)
		if err != nil {
			tr.t.Fatal(err)
		}
		return string(b)
	}, leave
}

// TestInteractive is what a person does: a shell on a terminal, a pipe into a
// command, and looking at a container that runs already.
func TestInteractive(t *testing.T) {
	tr := startTree(t, "baseline", "")
	tr.pull()
	_, ctr := tr.run("shell", "exec sleep 1000")
	for _, tt := range []struct {
		name, script string
		terminal     bool
		want         string
		fails        bool
	}{
		{"terminal", `echo 'tty; exit 0' | $crictl exec -i $c sh`, false, "not a tty", false},
		{"shell on a terminal", `stty cols 100 rows 30; $crictl exec -it $c sh -c 'tty; until stty size 2>&1 | grep 30; do sleep 0.1; done'`, true, "/dev/pts/0\n30 100", false},
		{"input from a pipe", `seq 10000 | $crictl exec -i $c sh -c 'wc -l'`, false, "10000", false},
		{"output is whole", `$crictl exec $c seq 20000 | tail -n 1`, false, "20000", false},
		{"stderr is apart", `$crictl exec $c sh -c 'echo out; echo err >&2' 2>/dev/null`, false, "out", false},
		{"exit status", `$crictl exec $c sh -c 'exit 7'`, false, "exit code 7", true},
	} {
		out, err := tr.crictl(ctr, tt.script, tt.terminal)
		if (err != nil) != tt.fails || !strings.Contains(out, tt.want) {
			t.Errorf("%s: %v, want %q: %s", tt.name, err, tt.want, out)
		}
	}
	if n := processesOf(ctr); n != 1 {
		t.Errorf("%d processes in the container after the sessions, want 1", n)
	}
}

// TestAttach: what is typed arrives, what is said is seen and logged, and the
// container lives on when the client leaves.
func TestAttach(t *testing.T) {
	tr := startTree(t, "baseline", "")
	tr.pull()
	for _, tty := range []bool{false, true} {
		name := fmt.Sprintf("attach-%v", tty)
		p := tr.podConfig(name)
		pod := tr.runPod(p)
		c := tr.ctrConfig("c", "while read -r l; do echo \"got $l\"; done; exec sleep 1000")
		c.Stdin, c.Tty = true, tty
		ctr := tr.create(pod, p, c)
		tr.start(ctr)
		script := `exec $crictl attach -i $c`
		if tty {
			script = `exec $crictl attach -it $c`
		}
		typed, seen, leave := tr.typist(ctr, script, tty)
		for _, word := range []string{"one", "two"} {
			fmt.Fprintln(typed, word)
			tr.eventually(30*time.Second, "the client sees what was typed as "+word, func() error {
				if s := seen(); !strings.Contains(s, "got "+word) {
					return fmt.Errorf("tty %v: seen %q", tty, s)
				}
				return nil
			})
		}
		leave() // without a word
		tr.eventually(30*time.Second, "the log has it", func() error {
			if l := strings.Join(tr.logLines(name, "c"), ","); !strings.Contains(l, "got two") {
				return fmt.Errorf("log: %q", l)
			}
			return nil
		})
		if s := tr.status(ctr); s.State != cri.ContainerState_CONTAINER_RUNNING {
			t.Errorf("tty %v: the container is %v after the client left", tty, s.State)
		}
	}
}
