package gate

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/seqpacket"
)

// TestCrowd: a role that was taken over opens what it can, and the others are
// still answered. The crowd is a process of its own: its fds and its uid are.
func TestCrowd(t *testing.T) {
	if path := os.Getenv("POSTERN_TEST_CROWD"); path != "" {
		crowd(path)
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be another uid")
	}
	path, listen := socket(t)
	go ServePolicy(listen(), func(*unix.Ucred) (string, bool) { return "test", true }, func(string, Question) Decision { return Decision{Allow: true} })
	for _, step := range []func() error{func() error { return os.Chmod(path, 0o666) }, func() error { return os.Chmod(dirOf(path), 0o755) }, func() error { return os.Chmod(dirOf(dirOf(path)), 0o755) }} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	exe, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	cmd := exec.Command("/proc/self/fd/3", "-test.run=^TestCrowd$")
	cmd.ExtraFiles = []*os.File{exe}
	cmd.Env = []string{"POSTERN_TEST_CROWD=" + path}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 64500, Gid: 64500}, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	// The limit is lowered for the server alone: the crowd has its own already.
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 256, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
	if _, err := out.Read(make([]byte, 1)); err != nil { // all of it is there
		t.Fatal("no crowd:", err)
	}
	if d, err := NewPolicy(path).Decide(context.Background(), Question{Method: "Version", Class: ClassRead}); err != nil || !d.Allow {
		t.Errorf("beside a crowd: %+v, %v", d, err)
	}
}

func dirOf(p string) string {
	for p[len(p)-1] != '/' {
		p = p[:len(p)-1]
	}
	return p[:len(p)-1]
}

func crowd(path string) {
	var all []*seqpacket.Conn
	for range 600 {
		c, err := seqpacket.Dial(path)
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		if err == nil {
			all = append(all, c)
		}
	}
	os.Stdout.WriteString("x")
	time.Sleep(20 * time.Second)
	for _, c := range all {
		c.Close()
	}
}
