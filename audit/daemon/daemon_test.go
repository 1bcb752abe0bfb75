package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/audit/record"
	"github.com/postern-cri/postern/audit/wal"
	"github.com/postern-cri/postern/privsep/gate"
	"github.com/postern-cri/postern/privsep/layout"
	"github.com/postern-cri/postern/privsep/seqpacket"
)

var users = layout.Users{
	Front: layout.ID{UID: 64101, GID: 64101}, Stream: layout.ID{UID: 64102, GID: 64102}, Log: layout.ID{UID: 64103, GID: 64103},
	Policy: layout.ID{UID: 64104, GID: 64104}, Fetch: layout.ID{UID: 64105, GID: 64105}, Verify: layout.ID{UID: 64106, GID: 64106},
	Convert: layout.ID{UID: 64107, GID: 64107}, Audit: layout.ID{UID: 64108, GID: 64108},
}

func read(t *testing.T, dir string) (out []record.Record, raw []byte) {
	t.Helper()
	w := wal.NewFollower(wal.Dir(dir))
	defer w.Close()
	err := w.Next(func(f wal.Frame) error {
		r, err := record.Decode(f.Payload)
		if r.Seq != f.Seq || r.Prev != f.Prev.String() {
			t.Errorf("record %d says that it is %d after %s", f.Seq, r.Seq, r.Prev)
		}
		out, raw = append(out, r), append(append(raw, f.Payload...), '\n')
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out, raw
}

// start serves a log in dir on a socket and returns the socket.
func start(t *testing.T, dir string) (string, *Server) {
	t.Helper()
	sock := filepath.Join(t.TempDir(), "audit")
	fd, err := seqpacket.Listen(sock)
	if err != nil {
		t.Fatal(err)
	}
	l, err := seqpacket.NewListener(fd)
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(wal.Dir(dir), wal.Options{Ballast: -1})
	if err != nil {
		t.Fatal(err)
	}
	go gate.ServeAudit(l, Peers(users), s.Commit)
	t.Cleanup(func() { l.Close(); s.Stop() })
	return sock, s
}

func TestCommit(t *testing.T) {
	dir := t.TempDir()
	sock, s := start(t, dir)
	c := gate.NewAudit(sock)
	seq, err := c.Commit(context.Background(), gate.StageDecision, []byte(`{"kind":"cri","method":"Exec","writer":"forged","seq":99,
		"exec":{"argv":["app","--password","opensesame"]},"decision":{"allow":true,"id":"01J8ZQ3T5XK2M9N4P6R7S8V0WY"}}`), false)
	if err != nil || seq != 2 {
		t.Fatalf("%d %v", seq, err)
	}
	// It is on disk now, before anything is closed.
	recs, raw := read(t, dir)
	if len(recs) != 2 || recs[0].Kind != "audit.start" || recs[1].Writer != "root" || recs[1].Stage != "decision" || recs[1].BootID == "" {
		t.Fatalf("%s", raw)
	}
	if bytes.Contains(raw, []byte("opensesame")) || len(recs[1].Redactions) != 1 {
		t.Errorf("not redacted: %s", raw)
	}
	in := `{"b":"<a>","a":1.0}`
	if _, err := c.Commit(context.Background(), gate.StageInput, []byte(`{"kind":"policy","input_sha256":"x","input":`+in+`}`), true); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{`[]`, `{"a":1,"a":2}`, `{"kind":"audit.stop"}`, `x`} {
		if _, err := c.Commit(context.Background(), gate.StageEvent, []byte(bad), false); err == nil {
			t.Errorf("%s was committed", bad)
		}
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	recs, raw = read(t, dir)
	if len(recs) != 4 || recs[3].Kind != "audit.stop" || string(recs[2].Input) != in {
		t.Errorf("%s", raw)
	}
	if _, err := c.Commit(context.Background(), gate.StageEvent, []byte(`{}`), false); err == nil {
		t.Error("a stopped log took a record")
	}
}

// TestLongest: a payload of the full size, which grows by its stamp and by
// redaction, is a record all the same.
func TestLongest(t *testing.T) {
	dir := t.TempDir()
	s, err := New(wal.Dir(dir), wal.Options{Ballast: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	for _, fill := range []string{"password=x ", "<", "\\u0001"} {
		n := (gate.MaxPayload - 40) / len(fill)
		p := `{"kind":"cri","ext":"` + strings.Repeat(fill, n) + `"}`
		if _, err := s.Commit("root", gate.StageDecision, []byte(p), false); err != nil {
			t.Errorf("%q: %v", fill, err)
		}
		list := `{"kind":"cri","ext":["` + strings.Repeat(`p=1","token=x","`, 3500) + `"]}`
		if _, err := s.Commit("root", gate.StageDecision, []byte(list), false); err != nil {
			t.Errorf("list: %v", err)
		}
	}
}

func TestPeers(t *testing.T) {
	p := Peers(users)
	for uid, want := range map[uint32]string{0: "root", 64101: "postern", 64104: "postern-policy", 1000: ""} {
		if role, ok := p(&unix.Ucred{Uid: uid}); role != want || ok != (want != "") {
			t.Errorf("uid %d is %q %v", uid, role, ok)
		}
	}
}

// TestProgram runs the real binary as its own user, kills it with -9 and looks
// for every record that was acknowledged.
func TestProgram(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("root: the program drops to a user of its own")
	}
	root, err := os.MkdirTemp("", "auditd-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	l := layout.New(root)
	for _, d := range []string{root, l.Run, l.Lib, l.AuditLog()} {
		os.MkdirAll(d, 0o755)
		os.Chmod(d, 0o755)
	}
	os.Chmod(l.AuditLog(), 0o700)
	os.Chown(l.AuditLog(), int(users.Audit.UID), int(users.Audit.GID))
	if err := layout.WriteUsers(l.UsersFile(), users); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(t.TempDir(), "postern-auditd")
	build := exec.Command("go", "build", "-trimpath", "-o", bin, "../../cmd/postern-auditd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	sock := filepath.Join(root, "run", "audit")
	fd, err := seqpacket.Listen(sock)
	if err != nil {
		t.Fatal(err)
	}
	lf := os.NewFile(uintptr(fd), "l")
	defer lf.Close()
	run := func() (*exec.Cmd, *bytes.Buffer) {
		var errs bytes.Buffer
		c := exec.Command(bin, "--root", root)
		c.ExtraFiles, c.Stderr, c.Env = []*os.File{lf}, &errs, []string{}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		return c, &errs
	}
	c, errs := run()
	a := gate.NewAudit(sock)
	acked := map[uint64]bool{}
	commit := func() {
		t.Helper()
		for range 50 {
			seq, err := a.Commit(context.Background(), gate.StageDecision, []byte(`{"kind":"cri","method":"Exec"}`), false)
			if err != nil {
				t.Fatalf("%v\n%s", err, errs.String())
			}
			acked[seq] = true
		}
	}
	commit()
	time.Sleep(300 * time.Millisecond)
	t.Logf("PSS at rest: %s KiB", pss(t, c.Process.Pid))
	c.Process.Kill()
	c.Wait()
	c, errs = run()
	commit()
	c.Process.Signal(unix.SIGTERM)
	if err := c.Wait(); err != nil {
		t.Errorf("stopped with %v\n%s", err, errs.String())
	}
	recs, raw := read(t, l.AuditLog())
	for _, r := range recs {
		delete(acked, r.Seq)
	}
	if len(acked) > 0 || recs[len(recs)-1].Kind != "audit.stop" {
		t.Errorf("%d acknowledged records are missing; the end is %s", len(acked), raw[max(0, len(raw)-500):])
	}
	if _, err := wal.Verify(wal.Dir(l.AuditLog())); err != nil {
		var d *wal.Damage
		t.Errorf("%v %v", err, errors.As(err, &d))
	}
	if _, err := json.Marshal(recs); err != nil {
		t.Error(err)
	}
}

func pss(t *testing.T, pid int) string {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/smaps_rollup")
	if err != nil {
		t.Log(err)
	}
	for _, line := range strings.Split(string(b), "\n") {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "Pss:" {
			return f[1]
		}
	}
	return "?"
}
