// Package image tests the three image roles as the processes that they are, with
// their uids and everything that they drop, started by a small stand-in for
// postern-init, against a registry on loopback that logs what it is asked for.
package image

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/gate"
	"github.com/postern-cri/postern/privsep/layout"
	"github.com/postern-cri/postern/privsep/seqpacket"
	img "github.com/postern-cri/postern/runtime/image"
	"github.com/postern-cri/postern/runtime/image/client"
	"github.com/postern-cri/postern/test/fixtures"
)

var imaged string // the binary under test

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "postern-imaged-")
	if err != nil {
		panic(err)
	}
	os.Chmod(dir, 0o755)
	imaged = filepath.Join(dir, "postern-imaged")
	if os.Getuid() == 0 {
		cmd := exec.Command("go", "build", "-trimpath", "-tags", "containers_image_openpgp", "-o", imaged, "github.com/postern-cri/postern/cmd/postern-imaged")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%s\n", out)
			os.Exit(1)
		}
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// commit is an audit record as it came.
type commit struct {
	role    string
	stage   gate.Stage
	payload map[string]any
	asked   int // how many requests the registry had logged by then
}

// node is what one pull needs: directories, sockets, policy, audit, a registry.
type node struct {
	t      testing.TB
	l      layout.Layout
	users  layout.Users
	reg    *fixtures.Registry
	key    *fixtures.Key
	client *client.Client

	mu        sync.Mutex
	decide    func(q gate.Question) gate.Decision
	questions []gate.Question
	commits   []commit
	procs     []*exec.Cmd
	fetch     *exec.Cmd
	spawned   map[string]int
}

func newNode(t testing.TB) *node {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: the roles drop to uids of their own")
	}
	dir, err := os.MkdirTemp("", "postern-image-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	n := &node{t: t, l: layout.New(dir), key: fixtures.NewKey(), spawned: map[string]int{}}
	for i, r := range n.users.Roles() {
		*r.ID = layout.ID{UID: uint32(64500 + i), GID: uint32(64500 + i)}
	}
	n.mkdir(dir, 0o755, layout.ID{})
	for _, d := range []string{n.l.Etc, n.l.TrustDir(), n.l.Run, filepath.Join(n.l.Run, "sock"), n.l.Lib, n.l.Log} {
		n.mkdir(d, 0o755, layout.ID{})
	}
	n.mkdir(n.l.FetchState(), 0o700, n.users.Fetch)
	shared := layout.ID{UID: n.users.Verify.UID, GID: n.users.Front.GID}
	n.mkdir(n.l.Records(), 0o750, shared)
	n.mkdir(n.l.Layers(), 0o750, shared)
	must(t, layout.WriteUsers(n.l.UsersFile(), n.users))
	if n.reg, err = fixtures.StartRegistry("127.0.0.1:0", nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.reg.Close)
	n.registries(fmt.Sprintf("[[registry]]\nlocation = %q\ninsecure = true\n", n.reg.Addr))
	n.image("")
	n.write(filepath.Join(n.l.TrustDir(), "demo.pub"), string(n.key.Public()))
	n.trust("")
	n.client = client.New(n.l)

	policy, audit := n.listen(n.l.PolicySocket()), n.listen(n.l.AuditSocket())
	peer := func(c *unix.Ucred) (string, bool) { return fmt.Sprint(c.Uid), c.Uid == n.users.Fetch.UID }
	go gate.ServePolicy(policy, peer, func(role string, q gate.Question) gate.Decision {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.questions = append(n.questions, q)
		if n.decide != nil {
			return n.decide(q)
		}
		return gate.Decision{Allow: true, ID: "1", Revision: "test"}
	})
	go gate.ServeAudit(audit, peer, func(role string, stage gate.Stage, payload []byte, async bool) (uint64, error) {
		c := commit{role: role, stage: stage, asked: n.reg.Asked("/blobs/")}
		json.Unmarshal(payload, &c.payload)
		n.mu.Lock()
		defer n.mu.Unlock()
		n.commits = append(n.commits, c)
		return uint64(len(n.commits)), nil
	})
	for role, fd := range map[string]int{"verify": n.listenFD(n.l.VerifySocket(), 0o600, n.users.Fetch), "convert": n.listenFD(n.l.ConvertSocket(), 0o600, n.users.Verify)} {
		go n.each(role, fd)
		// Shutdown wakes accept, which close would not.
		t.Cleanup(func() { unix.Shutdown(fd, unix.SHUT_RDWR); unix.Close(fd) })
	}
	n.start()
	t.Cleanup(n.stop)
	return n
}

// start starts the fetching process.
func (n *node) start() {
	n.t.Helper()
	os.Remove(n.l.FetchSocket())
	fd := n.listenFD(n.l.FetchSocket(), 0o600, n.users.Front)
	n.spawn("fetch", fd)
	unix.Close(fd)
}

// kill ends it.
func (n *node) kill() {
	n.mu.Lock()
	f := n.fetch
	n.mu.Unlock()
	f.Process.Kill()
	f.Wait()
}

func (n *node) restart() {
	n.t.Helper()
	n.kill()
	n.start()
}

// registries writes registries.conf. The fetching process reads it once.
func (n *node) registries(text string) {
	n.t.Helper()
	n.write(filepath.Join(n.l.Etc, "registries.conf"), text)
}

// image writes postern.toml with more lines for [image].
func (n *node) image(more string) {
	n.t.Helper()
	n.write(n.l.Config(), fmt.Sprintf("[image]\nregistries_conf = %q\n%s", filepath.Join(n.l.Etc, "registries.conf"), more))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (n *node) mkdir(path string, mode os.FileMode, id layout.ID) {
	n.t.Helper()
	if err := os.Mkdir(path, mode); err != nil && !os.IsExist(err) {
		n.t.Fatal(err)
	}
	must(n.t, os.Chmod(path, mode))
	must(n.t, os.Chown(path, int(id.UID), int(id.GID)))
}

func (n *node) write(path, text string) {
	n.t.Helper()
	must(n.t, os.WriteFile(path, []byte(text), 0o644))
}

// trust writes trust.toml: one authority for the whole registry, and more.
func (n *node) trust(more string) {
	n.write(n.l.Trust(), fmt.Sprintf("default = \"reject\"\n[authorities.demo]\nkeys = [\"trust.d/demo.pub\"]\n[[rules]]\nscope = [\"%s/**\"]\nthreshold = { of = [\"demo\"], need = 1 }\n%s", n.reg.Addr, more))
}

func (n *node) listenFD(path string, mode os.FileMode, id layout.ID) int {
	n.t.Helper()
	fd, err := seqpacket.Listen(path)
	must(n.t, err)
	must(n.t, os.Chmod(path, mode))
	must(n.t, os.Chown(path, int(id.UID), int(id.GID)))
	return fd
}

func (n *node) listen(path string) *seqpacket.Listener {
	n.t.Helper()
	l, err := seqpacket.NewListener(n.listenFD(path, 0o666, layout.ID{}))
	must(n.t, err)
	n.t.Cleanup(func() { l.Close() })
	return l
}

// each starts one process for every connection, as init does.
func (n *node) each(role string, l int) {
	for {
		fd, _, err := unix.Accept4(l, unix.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		n.spawn(role, fd)
		unix.Close(fd)
	}
}

func (n *node) spawn(role string, fd int) {
	cmd := exec.Command(imaged, "--role", role, "--root", filepath.Dir(n.l.Etc))
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return
	}
	f := os.NewFile(uintptr(dup), role)
	defer f.Close()
	cmd.ExtraFiles = []*os.File{f}
	cmd.Env = []string{}
	log, err := os.OpenFile(filepath.Join(n.l.Log, role+".log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return
	}
	defer log.Close()
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		return
	}
	n.mu.Lock()
	n.procs = append(n.procs, cmd)
	if role == "fetch" {
		n.fetch = cmd
	}
	n.spawned[role]++
	n.mu.Unlock()
	if role != "fetch" {
		go cmd.Wait()
	}
}

func (n *node) stop() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.procs {
		p.Process.Kill()
	}
	n.fetch.Wait()
	if n.t.Failed() {
		for _, role := range []string{"fetch", "verify", "convert"} {
			b, _ := os.ReadFile(filepath.Join(n.l.Log, role+".log"))
			n.t.Logf("--- %s.log\n%s", role, bytes.TrimSpace(b))
		}
	}
}

func (n *node) pull(ref string) (img.ImageInfo, error) { return n.pullAs(n.reg.Addr+"/"+ref, nil) }

// pullAs pulls by the whole name, with credentials.
func (n *node) pullAs(ref string, auth *img.Auth) (img.ImageInfo, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return n.client.Pull(ctx, "req-1", ref, auth, &img.Pod{Namespace: "ns", Name: "pod", UID: "u"}, nil)
}

// refused pulls what must be refused: with this code, these words, and without
// one layer of i having been asked for.
func (n *node) refused(ref string, i fixtures.Image, code img.Code, words string) {
	n.t.Helper()
	_, err := n.pull(ref)
	e, ok := err.(*img.Error)
	if !ok || e.Code != code || !strings.Contains(e.Message, words) {
		n.t.Errorf("%s: got %v, want %s with %q", ref, err, code, words)
	}
	if code == img.Signature && !strings.HasPrefix(fmt.Sprint(err), "SignatureValidationFailed: ") {
		n.t.Errorf("%s: the kubelet does not know %q", ref, err)
	}
	for _, l := range i.Layers {
		if k := n.reg.Asked(fixtures.Digest(l.Blob)); k > 0 {
			n.t.Errorf("%s: layer %s was asked for %d times", ref, fixtures.Digest(l.Blob), k)
		}
	}
	if ents, _ := os.ReadDir(n.l.Layers()); len(ents) > 0 {
		n.t.Errorf("%s: left in the layers: %v", ref, ents)
	}
}
