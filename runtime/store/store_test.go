package store

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/postern-cri/postern/privsep/plan"
)

func mustOpen(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	s := mustOpen(t, path)
	p := &Pod{ID: "aaaa1", Name: "web", UID: "u", Namespace: "n", State: Running, Labels: map[string]string{"a": "b"}, Network: plan.NamespacePod}
	c := &Container{ID: "cccc1", Pod: "aaaa1", Name: "c", State: Created, Mounts: []Mount{{To: "/x"}}, Resources: &plan.Resources{Memory: 5}}
	if err := errors.Join(s.AddPod(p), s.AddContainer(c)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.UpdateContainer("cccc1", func(c *Container) bool { c.State, c.ExitCode = Exited, 3; return true }); err != nil {
		t.Fatal(err)
	}
	if c.State != Created {
		t.Error("a snapshot changed under its reader")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, path)
	defer s.Close()
	got, err := s.Pod("aaaa")
	if err != nil || cmp.Diff(p, got) != "" {
		t.Error(err, cmp.Diff(p, got))
	}
	if c, err := s.Container("cccc1"); err != nil || c.State != Exited || c.ExitCode != 3 || c.Resources.Memory != 5 {
		t.Error(err, c)
	}
	s.Remove("cccc1")
	if _, err := s.Container("cccc1"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

// TestKilled runs a writer that is killed with SIGKILL in the middle: what it
// was told to be stored must be there.
func TestKilled(t *testing.T) {
	if path := os.Getenv("STORE_TEST_WRITER"); path != "" {
		s, err := Open(path, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		for i := range 50 {
			if err := s.AddPod(&Pod{ID: string(rune('a'+i%26)) + string(rune('a'+i/26)), Name: "x", UID: string(rune(i + 65)), State: Running}); err != nil {
				t.Fatal(err)
			}
		}
		p, _ := os.FindProcess(os.Getpid())
		p.Kill()
		select {}
	}
	path := filepath.Join(t.TempDir(), "state")
	cmd := exec.Command(os.Args[0], "-test.run", "TestKilled")
	cmd.Env = append(os.Environ(), "STORE_TEST_WRITER="+path)
	if err := cmd.Run(); err == nil {
		t.Fatal("the writer was not killed")
	}
	s := mustOpen(t, path)
	defer s.Close()
	if n := len(s.Pods()); n != 50 {
		t.Errorf("%d pods after the kill, want 50", n)
	}
}

func TestDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(path, make([]byte, 64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	for want := range 2 {
		s := mustOpen(t, path)
		if n := len(s.Pods()); n != want {
			t.Errorf("%d pods, want %d", n, want)
		}
		if err := errors.Join(s.AddPod(&Pod{ID: "a", UID: "u", State: Running}), s.Close()); err != nil {
			t.Error(err)
		}
	}
}

func TestOnce(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "state"))
	defer s.Close()
	key := PodKey("u", "n", "web", 0)
	var made atomic.Int32
	release := make(chan struct{})
	create := func(ctx context.Context) (string, error) {
		made.Add(1)
		<-release
		if ctx.Err() != nil {
			t.Error("the caller's end ended the creation")
		}
		return "p1", s.AddPod(&Pod{ID: "p1", UID: "u", Namespace: "n", Name: "web", State: Running})
	}
	existing := func(id string) (string, error) { return id, nil }
	conflict := func() error { return errors.New("another request") }

	gone, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := s.Once(gone, key, "r", existing, conflict, create); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	for made.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	wg.Wait()
	for range 8 {
		wg.Go(func() {
			if id, err := s.Once(context.Background(), key, "r", existing, conflict, create); id != "p1" || err != nil {
				t.Error(id, err)
			}
		})
	}
	if _, err := s.Once(context.Background(), key, "other", existing, conflict, create); err == nil {
		t.Error("another request of that name got an answer")
	}
	close(release)
	wg.Wait()
	if id, err := s.Once(context.Background(), key, "r", existing, conflict, create); id != "p1" || err != nil {
		t.Error(id, err)
	}
	if made.Load() != 1 {
		t.Errorf("made %d times", made.Load())
	}
}
