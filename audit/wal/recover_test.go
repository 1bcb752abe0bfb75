package wal

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
)

// built is a log of several segments with its acknowledged records.
func built(t testing.TB) (*memFS, map[uint64]string) {
	fs := newMemFS()
	acked := map[uint64]string{}
	l := open(t, fs, Options{BootID: "b", Event: event, Segment: 2048, Ballast: -1, Retry: -1})
	for i := range 24 {
		s := fmt.Sprintf(`{"n":%d,"pad":%q}`, i, strings.Repeat("y", 40*(i%5)))
		seq, err := l.Commit(says(s), false)
		if err != nil {
			t.Fatal(err)
		}
		acked[seq] = s
	}
	l.Close()
	return fs.crash(true), acked
}

// FuzzRecover damages a log and opens it: no acknowledged record may be gone, or
// be another, without the log saying so, and Verify must notice every change.
func FuzzRecover(f *testing.F) {
	f.Add([]byte{0, 0, 100, 0, 1})
	f.Add([]byte{1, 2, 0, 1, 0, 2, 1, 50, 0, 9})
	f.Add([]byte{3, 0, 1, 2, 0, 4, 0, 0, 0, 0, 5, 3, 7, 7, 7})
	f.Fuzz(func(t *testing.T, ops []byte) {
		fs, acked := built(t)
		before := fs.crash(true)
		segs, _ := segments(fs)
		for ; len(ops) >= 5; ops = ops[5:] {
			fl := fs.files[segmentName(segs[int(ops[1])%len(segs)])]
			if fl == nil || len(fl.data) == 0 {
				continue
			}
			at := int(binary.LittleEndian.Uint16(ops[2:])) % len(fl.data)
			switch ops[0] % 6 {
			case 0: // flip
				fl.data[at] ^= ops[4] | 1
			case 1: // cut
				fl.data = fl.data[:at]
			case 2: // take a piece out
				n := min(int(ops[4]), len(fl.data)-at)
				fl.data = append(fl.data[:at:at], fl.data[at+n:]...)
			case 3: // swap two segments
				other := fs.files[segmentName(segs[int(ops[4])%len(segs)])]
				if other != nil {
					fl.data, other.data = other.data, fl.data
				}
			case 4: // remove
				delete(fs.files, segmentName(segs[int(ops[1])%len(segs)]))
			case 5: // repeat a piece
				n := min(int(ops[4]), len(fl.data)-at)
				fl.data = append(fl.data[:at+n:at+n], fl.data[at:]...)
			}
		}
		changed := false
		for _, i := range segs {
			a, b := before.files[segmentName(i)], fs.files[segmentName(i)]
			changed = changed || b == nil || string(a.data) != string(b.data)
		}
		rep, verr := Verify(fs)
		// What is left when whole segments are missing from the front is a log that was pruned.
		pruned := verr == nil && rep.First > 1
		if changed && verr == nil && !pruned && rep.Torn == 0 {
			t.Fatalf("a change was not noticed: %+v", rep)
		}
		if !changed && verr != nil {
			t.Fatalf("nothing was changed: %v", verr)
		}
		l, err := Open(fs, Options{BootID: "b", Event: event, Segment: 2048, Ballast: -1, Retry: -1})
		if err != nil {
			return // refused: loud
		}
		seq, err := l.Commit(says("after"), false)
		if err != nil {
			t.Fatalf("after recovery: %v", err)
		}
		if _, used := acked[seq]; used {
			t.Fatalf("number %d was given out twice", seq)
		}
		l.Close()
		if _, again := Verify(fs); verr != nil && again == nil {
			t.Fatalf("opening hid the damage: %v", verr)
		}
		if verr != nil || pruned {
			return
		}
		got := contents(t, fs)
		for seq, s := range acked {
			if got[seq] != s {
				t.Fatalf("record %d is %q, want %q", seq, got[seq], s)
			}
		}
	})
}

// TestTornTail: a crash inside a write that nobody was told about leaves no damage.
func TestTornTail(t *testing.T) {
	for cut := 1; cut < FrameSize+20; cut += 7 {
		fs, acked := built(t)
		segs, _ := segments(fs)
		last := fs.files[segmentName(segs[len(segs)-1])]
		frame, _ := appendFrame(nil, 25, Hash{}, []byte(strings.Repeat("z", 30)))
		last.data = append(last.data, frame[:cut]...)
		if rep, err := Verify(fs); err != nil || rep.Torn != int64(cut) {
			t.Fatalf("verify before: %+v %v", rep, err)
		}
		holds(t, fmt.Sprint("torn at ", cut), fs, acked)
		if s := contents(t, fs)[25]; !strings.Contains(s, "audit.recovered") || !strings.Contains(s, fmt.Sprintf(`"bytes_dropped":%d`, cut)) {
			t.Errorf("record 25 is %s", s)
		}
	}
}

// TestDamageIsNotTorn: whatever was acknowledged is never cut off, at the very end
// of the log neither.
func TestDamageIsNotTorn(t *testing.T) {
	for _, what := range []string{"flip last", "cut last", "flip in the middle"} {
		fs, _ := built(t)
		segs, _ := segments(fs)
		name := segmentName(segs[len(segs)-1])
		f := fs.files[name]
		switch what {
		case "flip last":
			f.data[len(f.data)-1] ^= 1
		case "cut last":
			f.data = f.data[:len(f.data)-3]
		case "flip in the middle":
			f.data[HeaderSize+60] ^= 1
		}
		was := string(f.data)
		l := open(t, fs, options())
		seq, err := l.Commit(says("after"), false)
		if err != nil || seq != 26 {
			t.Errorf("%s: %d %v", what, seq, err)
		}
		l.Close()
		if string(fs.files[name].data) != was || !fs.files[name].readonly {
			t.Errorf("%s: the segment was touched", what)
		}
		if s := contents(t, fs)[25]; !strings.Contains(s, "audit.corrupt") || !strings.Contains(s, name) {
			t.Errorf("%s: record 25 is %s", what, s)
		}
		if _, err := Verify(fs); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: verify says %v", what, err)
		}
	}
}
