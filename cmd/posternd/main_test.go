package main

import (
	"bufio"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/postern-cri/postern/privsep/keeper"
	"github.com/postern-cri/postern/privsep/layout"
	"github.com/postern-cri/postern/privsep/seqpacket"
	"github.com/postern-cri/postern/privsep/wire"
)

const testCeiling = `profile = "test"

[[cgroup_root]]
name = "kubepods"
path = "/kubepods"

[class.baseline]
capabilities = ["ALL"]
run_as_root = true
`

// emptyHelper greets and has nothing.
func emptyHelper(t *testing.T, path string, owner int) {
	fd, err := seqpacket.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, owner, owner); err != nil {
		t.Fatal(err)
	}
	l, err := seqpacket.NewListener(fd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, wire.MaxRequest)
				for {
					n, _, err := c.Recv(buf)
					if err != nil {
						return
					}
					h, _, err := wire.DecodeHeader(buf[:n])
					if err != nil {
						return
					}
					var a wire.Message = &wire.ListAnswer{}
					if h.Verb == wire.Hello {
						a = &wire.HelloAnswer{Version: wire.Version, Profile: "test", CgroupVersion: 1}
					}
					b, err := wire.Encode(h.Verb+1, h.Sequence, a)
					if err != nil || c.Send(b) != nil {
						return
					}
				}
			}()
		}
	}()
}

// TestConfined starts the real program with a helper that has nothing and looks
// at what it is.
func TestConfined(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: the program drops from it")
	}
	dir := t.TempDir()
	for d := dir; d != "/" && d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	bin := filepath.Join(dir, "posternd")
	build := exec.Command("go", "build", "-trimpath", "-o", bin, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // with cgo a drop cannot reach every thread
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	l := layout.New(dir)
	for _, d := range []string{l.Etc, filepath.Join(l.Run, "sock"), l.FrontState(), l.Layers()} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var users layout.Users
	for i, r := range users.Roles() {
		*r.ID = layout.ID{UID: uint32(64700 + i), GID: uint32(64700 + i)}
	}
	front := int(users.Front.UID)
	for _, err := range []error{
		layout.WriteUsers(l.UsersFile(), users), os.WriteFile(l.Ceiling(), []byte(testCeiling), 0o644),
		os.Chown(l.FrontState(), front, front),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	emptyHelper(t, l.HelperSocket(), front)

	listener, err := net.Listen("unix", l.CRISocket())
	if err != nil {
		t.Fatal(err)
	}
	lf, err := listener.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs, err := seqpacket.Pair()
	if err != nil {
		t.Fatal(err)
	}
	grant, err := seqpacket.Listen(l.GrantSocket())
	if err != nil {
		t.Fatal(err)
	}
	exits, err := seqpacket.NewConn(ours)
	if err != nil {
		t.Fatal(err)
	}
	defer exits.Close()

	cmd := exec.Command(bin, "--root", dir)
	cmd.ExtraFiles = []*os.File{lf, os.NewFile(uintptr(theirs), "exits"), os.NewFile(uintptr(grant), "grant")}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	go func() {
		s := bufio.NewScanner(stderr)
		for s.Scan() {
			t.Log(s.Text())
		}
	}()
	if err := exits.Send(keeper.Exit{}.Encode()); err != nil {
		t.Fatal(err)
	}
	cc, err := grpc.NewClient("unix://"+l.CRISocket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	rt := cri.NewRuntimeServiceClient(cc)
	v, err := rt.Version(ctx, &cri.VersionRequest{}, grpc.WaitForReady(true))
	if err != nil || v.RuntimeName != "postern" {
		t.Fatal(v, err)
	}
	st, err := rt.Status(ctx, &cri.StatusRequest{Verbose: true})
	if err != nil || !st.Status.Conditions[0].Status || st.Status.Conditions[1].Status {
		t.Error(st, err)
	}
	if a, err := rt.ListContainers(ctx, &cri.ListContainersRequest{}); err != nil || len(a.Containers) != 0 {
		t.Error(a, err)
	}
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "status"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Uid:\t64700\t64700\t64700\t64700", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("the process's status lacks %q", want)
		}
	}
	if rollup, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "smaps_rollup")); err == nil {
		for _, line := range strings.Split(string(rollup), "\n") {
			if strings.HasPrefix(line, "Pss:") || strings.HasPrefix(line, "Pss_Anon:") {
				t.Log(line)
			}
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error("told to stop:", err)
	}
}
