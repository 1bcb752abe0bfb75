package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// crictl runs a shell command in which $crictl is crictl and $c the container, on
// a terminal of its own if it is to be interactive.
func (tr *tree) crictl(ctr, script string, terminal bool) (string, error) {
	tr.t.Helper()
	config := filepath.Join(filepath.Dir(tr.root), "crictl.yaml")
	tr.write(config, "timeout: 30\n")
	script = fmt.Sprintf("crictl='%s -c %s -r unix://%s/run/postern.sock' c=%s; ", filepath.Join(bin, "tools/crictl"), config, tr.root, ctr) + script
	args := []string{"timeout", "-s", "KILL", "30", "bash", "-c", script}
	if terminal {
		args = []string{"timeout", "-s", "KILL", "30", "script", "-qec", "bash -c '" + strings.ReplaceAll(script, "'", `'"'"'`) + "'", "/dev/null"}
	}
	cmd := exec.Command(args[0], args[1:]...)
	if terminal {
		// An end of input would be typed as ^D, which is a NUL where the terminal
		// turns raw between that and its being read.
		r, w, err := os.Pipe()
		if err != nil {
			tr.t.Fatal(err)
		}
		defer r.Close()
		defer w.Close()
		cmd.Stdin = r
	}
	cmd.WaitDelay = 5 * time.Second // what it leaves behind may hold the pipe
	out, err := cmd.CombinedOutput()
	return strings.ReplaceAll(string(out), "\r", ""), err
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
		{"terminal", `(sleep 1; echo 'tty; stty size; exit 0'; sleep 1) | $crictl exec -i $c sh`, false, "not a tty", false},
		{"shell on a terminal", `stty cols 100 rows 30; $crictl exec -it $c sh -c 'tty; sleep 0.5; stty size'`, true, "/dev/pts/0\n30 100", false},
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
		flags := "-i"
		if tty {
			flags = "-it"
		}
		out, err := tr.crictl(ctr, `(sleep 1; echo one; echo two; sleep 1) | timeout -s KILL 3 $crictl attach `+flags+` $c`, false)
		if tty {
			out, err = tr.crictl(ctr, `(sleep 1; echo one; echo two; sleep 1) | script -qec "timeout -s KILL 3 $crictl attach -it $c" /dev/null`, false)
		}
		if !strings.Contains(out, "got one") || !strings.Contains(out, "got two") {
			t.Errorf("tty %v: %v: %q", tty, err, out)
		}
		tr.eventually(5*time.Second, "the log has it", func() error {
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
