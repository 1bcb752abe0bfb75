package stream

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-cri/postern/privsep/layout"
	"github.com/postern-cri/postern/privsep/seqpacket"
)

// TestConfined serves sessions with the real program, without its rights: what
// the filter forbids would end it.
func TestConfined(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: the server starts as root to drop it")
	}
	root, err := os.MkdirTemp("", "stream") // t.TempDir is for its owner alone
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(root)
	os.Chmod(root, 0o755)
	binary := filepath.Join(root, "postern-streamd")
	build := exec.Command("go", "build", "-trimpath", "-o", binary, "../../cmd/postern-streamd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	l := layout.New(root)
	if err := os.MkdirAll(filepath.Dir(l.GrantSocket()), 0o755); err != nil {
		t.Fatal(err)
	}
	var users layout.Users
	for i, r := range users.Roles() {
		*r.ID = layout.ID{UID: uint32(61000 + i), GID: uint32(61000 + i)}
	}
	if err := layout.WriteUsers(l.UsersFile(), users); err != nil {
		t.Fatal(err)
	}
	listen := func(path string, owner uint32) int {
		fd, err := seqpacket.Listen(path)
		if err == nil {
			err = os.Chown(path, int(owner), -1)
		}
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	f := &front{t: t, control: l.StreamSocket(), uid: int(users.Front.UID), gone: map[string]chan struct{}{}}
	control := os.NewFile(uintptr(listen(l.StreamSocket(), users.Front.UID)), "control")
	grants, err := seqpacket.NewListener(listen(l.GrantSocket(), users.Stream.UID))
	if err != nil {
		t.Fatal(err)
	}
	defer grants.Close()
	f.serveGrants(grants)
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	clients, _ := tcp.(*net.TCPListener).File()
	cmd := exec.Command(binary, "--root", root)
	cmd.Env = []string{}
	cmd.ExtraFiles = []*os.File{control, clients}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()

	_, s := f.spdySession(mintRequest{Kind: kindExec, Grant: "cat; exit 5", Stdin: true, Stdout: true, Stderr: true})
	io.WriteString(s["stdin"], "typed")
	s["stdin"].Close()
	out, _ := io.ReadAll(s["stdout"])
	if _, code := status(t, s["error"]); string(out) != "typed" || code != "5" {
		t.Errorf("%q, %q", out, code)
	}
	_, s = f.spdySession(mintRequest{Kind: kindExec, Grant: "tty tty >/dev/null && echo terminal", TTY: true, Stdout: true})
	if out, _ := io.ReadAll(s["stdout"]); !strings.Contains(string(out), "terminal") {
		t.Errorf("%q", out)
	}
	conn := f.ws(f.mint(mintRequest{Kind: kindExec, Grant: "echo socket", Stdout: true}), "v5.channel.k8s.io")
	if got := wsRead(t, conn, func(map[byte]string) bool { return false }); got[1] != "socket\n" {
		t.Errorf("%q", got)
	}
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	f.port.Store(int32(echo.Addr().(*net.TCPAddr).Port))
	go func() {
		if c, err := echo.Accept(); err == nil {
			io.Copy(c, c)
			c.Close()
		}
	}()
	pf := f.spdyConn(f.mint(mintRequest{Kind: kindForward, Grant: "forward"}), "portforward.k8s.io")
	header := map[string][]string{"Port": {"8080"}, "Requestid": {"1"}, "Streamtype": {"error"}}
	if _, err := pf.CreateStream(header); err != nil {
		t.Fatal(err)
	}
	header["Streamtype"] = []string{"data"}
	data, err := pf.CreateStream(header)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(data, "there and back")
	data.Close()
	if got, _ := io.ReadAll(data); string(got) != "there and back" {
		t.Errorf("%q", got)
	}
	state, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	if err != nil || !strings.Contains(string(state), "CapEff:\t0000000000000000") || !strings.Contains(string(state), "Seccomp:\t2") {
		t.Errorf("not confined: %v\n%s", err, state)
	}
}
