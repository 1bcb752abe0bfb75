package store

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// moment is what the disk may be found with: the files as they were after one
// thing was done to them, how much of the state was certain to be there, and
// which of the states known by then it may show.
type moment struct {
	files    map[string][]byte
	certain  int
	from, to int
}

// said is everything that a store would tell.
func said(t *testing.T, s *Store) string {
	t.Helper()
	b, err := json.Marshal(s.live())
	if err != nil {
		t.Fatal(err)
	}
	keys := slices.Sorted(maps.Keys(s.name))
	return string(b) + strings.Join(keys, " ")
}

// TestPowerLoss changes a store at random, and opens what a power cut could leave
// at every moment: always a state that there was, never one from before the last
// that reached the disk, and one that goes on.
func TestPowerLoss(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 11))
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	s, err := open(filepath.Join(dir, "state"), log)
	if err != nil {
		t.Fatal(err)
	}
	s.j.room, s.j.next = 8<<10, 8<<10
	states := []string{said(t, s)}
	var moments []moment
	certain, from, rewritten, header := 0, 0, 0, ""
	s.j.step = func() {
		m := moment{files: map[string][]byte{}, certain: certain, from: from, to: len(states)}
		files, _ := os.ReadDir(dir)
		for _, f := range files {
			b, err := os.ReadFile(filepath.Join(dir, f.Name()))
			if err != nil {
				t.Fatal(err)
			}
			m.files[f.Name()] = b
		}
		if line, _, _ := strings.Cut(string(m.files["state"]), "\n"); line != header { // another file, synced before it got the name
			header, certain, m.certain = line, len(m.files["state"]), len(m.files["state"])
		}
		moments = append(moments, m)
	}
	var live []string
	pick := func() string { return live[r.IntN(len(live))] }
	for i := range 300 {
		id := fmt.Sprintf("%064d", i)
		before := s.j.f
		switch k := r.IntN(10); {
		case k < 3 || len(live) == 0:
			err = s.AddPod(&Pod{ID: id, UID: id, Name: strings.Repeat("n", 1+r.IntN(900)), State: Running})
			live = append(live, id)
		case k < 5:
			err = s.AddContainer(&Container{ID: id, Pod: pick(), Name: "c" + id, State: Created})
			live = append(live, id)
		case k < 7:
			s.UpdatePod(pick(), func(p *Pod) bool { p.State = Exited; p.IPs = append(p.IPs, "10.0.0.1"); return true })
		case k < 9:
			id = pick()
			live = slices.DeleteFunc(live, func(s string) bool { return s == id })
			s.Remove(id)
		default:
			s.settle()
			certain, from = int(s.j.size), len(states)-1
		}
		if err != nil {
			t.Fatal(err)
		}
		states = append(states, said(t, s))
		if s.j.f != before {
			rewritten++
		}
	}
	if rewritten < 3 || len(moments) < 250 {
		t.Fatalf("%d moments, written anew %d times: too few", len(moments), rewritten)
	}
	s.j.step = func() {}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	lost := 0
	for i, m := range moments {
		for range 2 {
			if reopen(t, m, states, r) < min(m.to, len(states)-1)-1 {
				lost++
			}
		}
		if t.Failed() {
			t.Fatalf("moment %d of %d", i, len(moments))
		}
	}
	if lost < len(moments)/5 {
		t.Errorf("%d power cuts of %d cost a change: too few were tried", lost, 2*len(moments))
	}
}

// reopen opens what a moment may have left and returns which state it shows.
func reopen(t *testing.T, m moment, states []string, r *rand.Rand) int {
	t.Helper()
	dir := t.TempDir()
	for name, b := range m.files {
		b = slices.Clone(b)
		if sure := min(m.certain, len(b)); name == "state" && len(b) > sure {
			switch rest := b[sure:]; r.IntN(4) {
			case 0: // the file had not grown yet
				b = b[:sure+r.IntN(len(rest))]
			case 1: // sectors that were never written
				for k := 0; k < len(rest); k += 512 {
					if r.IntN(2) == 0 {
						clear(rest[k:min(k+512, len(rest))])
					}
				}
			case 2: // sectors of something else
				k := r.IntN(len(rest))
				copy(rest[k:], b[:min(512, len(b))])
			}
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	log := slog.New(slog.DiscardHandler)
	s, err := open(filepath.Join(dir, "state"), log)
	if err != nil {
		t.Fatal(err)
	}
	got, shown := -1, said(t, s)
	for k := min(m.to, len(states)-1); k >= m.from && got < 0; k-- {
		if states[k] == shown {
			got = k
		}
	}
	if got < 0 {
		t.Errorf("a state that there never was, or one from before %d: %.300s", m.from, shown)
	}
	// No name is taken that nothing has, and what is added now is kept.
	if n := len(s.Pods()) + len(s.Containers("")); n != len(s.name) {
		t.Errorf("%d names for %d things", len(s.name), n)
	}
	if err := s.AddPod(&Pod{ID: "after", UID: "after", State: Running}); err != nil {
		t.Error(err)
	}
	s.j.close() // killed
	if s, err = open(filepath.Join(dir, "state"), log); err != nil {
		t.Fatal(err)
	}
	defer s.j.close()
	if _, err := s.Pod("after"); err != nil {
		t.Errorf("what was added after the power cut: %v", err)
	}
	return got
}

// TestFullDisk: nothing new begins, what ends has ended, and it is written down
// when that is possible again.
func TestFullDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	log := slog.New(slog.DiscardHandler)
	s, err := open(path, log)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"stays", "stops", "goes"} {
		if err := s.AddPod(&Pod{ID: id, UID: id, State: Running}); err != nil {
			t.Fatal(err)
		}
	}
	good := s.j.f
	if s.j.f, err = os.Open(path); err != nil { // no write to this one works
		t.Fatal(err)
	}
	if err := s.AddPod(&Pod{ID: "new", UID: "new"}); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("an error that names the file: %v", err)
	}
	if _, err := s.UpdatePod("stops", func(p *Pod) bool { p.State = Exited; return true }); err != nil {
		t.Error(err)
	}
	s.Remove("goes")
	s.settle()
	want := said(t, s)
	s.j.f.Close()
	s.j.f = good
	s.settle()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, path)
	defer s.Close()
	if got := said(t, s); got != want || len(s.Pods()) != 2 {
		t.Errorf("written: %s, want %s", got, want)
	}
}
