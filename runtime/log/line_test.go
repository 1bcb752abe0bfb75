package logd

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

var stamp = time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)

// formatAll formats raw as the daemon would, with any number of batches.
func formatAll(raw []byte, max int) []byte {
	var all []byte
	for len(raw) > 0 {
		out, n := format(nil, max, raw[:min(len(raw), maxRaw)], stamp, Stdout, true)
		if n == 0 {
			panic("no progress")
		}
		// A successor that sees only the batch must make the same bytes of it.
		again, m := format(nil, max, raw[:n], stamp, Stdout, true)
		if m != n || !bytes.Equal(out, again) {
			panic("not the same the second time")
		}
		all, raw = append(all, out...), raw[n:]
	}
	return all
}

// unformat returns the content of a log.
func unformat(t *testing.T, log []byte) []byte {
	t.Helper()
	var content []byte
	for _, line := range bytes.SplitAfter(log, []byte("\n")) {
		if len(line) == 0 {
			continue
		}
		r, err := Parse(line)
		if err != nil {
			t.Fatalf("%v: %.80q", err, line)
		}
		if len(r.Content) > MaxLine {
			t.Fatalf("a record of %d bytes", len(r.Content))
		}
		if !r.Time.Equal(stamp) || r.Stream != Stdout {
			t.Fatalf("header: %.80q", line)
		}
		content = append(content, r.Content...)
		if !r.Partial {
			content = append(content, '\n')
		}
	}
	return content
}

func TestFormat(t *testing.T) {
	long := strings.Repeat("x", MaxLine)
	head := "2026-01-02T03:04:05.000006000Z stdout "
	for _, tc := range []struct {
		raw   string
		force bool
		want  string
		taken int
	}{
		{"", true, "", 0},
		{"a\n", false, head + "F a\n", 2},
		{"\n", false, head + "F \n", 1},
		{"a\nb", false, head + "F a\n", 2},
		{"a\nb", true, head + "F a\n" + head + "P b\n", 3},
		{"a", false, "", 0},
		{long, false, "", 0},
		{long + "\n", false, head + "F " + long + "\n", MaxLine + 1},
		{long + "y", false, head + "P " + long + "\n", MaxLine},
		{long + "y\n", false, head + "P " + long + "\n" + head + "F y\n", MaxLine + 2},
		{"\x00\r\xff\n", false, head + "F \x00\r\xff\n", 4},
	} {
		out, n := format(nil, maxOut, []byte(tc.raw), stamp, Stdout, tc.force)
		if string(out) != tc.want || n != tc.taken {
			t.Errorf("format(%.20q, %v) = %.80q, %d", tc.raw, tc.force, out, n)
		}
	}
}

func TestParseRejects(t *testing.T) {
	for _, line := range []string{"", "x", "2026-01-02T03:04:05Z stdout F", "2026-01-02T03:04:05Z stdin F x",
		"2026-01-02T03:04:05Z stdout X x", "yesterday stdout F x", "2026-01-02T03:04:05Z stdout F a\nb"} {
		if _, err := Parse([]byte(line)); err == nil {
			t.Errorf("%q was taken", line)
		}
	}
}

func FuzzFormat(f *testing.F) {
	f.Add([]byte("hello\nworld"), uint16(0))
	f.Add([]byte("\n\n2026-01-02T03:04:05Z stderr F forged\n"), uint16(200))
	f.Add(bytes.Repeat([]byte("x"), MaxLine+1), uint16(17))
	f.Fuzz(func(t *testing.T, raw []byte, max uint16) {
		limit := min(MaxLine+headerLen+1+int(max), maxOut)
		log := formatAll(raw, limit)
		got := unformat(t, log)
		if !bytes.Equal(got, raw) {
			t.Fatalf("%d bytes in, %d out", len(raw), len(got))
		}
		// Waiting for newlines and not waiting must end in the same content.
		out, n := format(nil, limit, raw, stamp, Stdout, false)
		if !bytes.Equal(unformat(t, out), raw[:n]) {
			t.Fatal("unforced records hold something else than was taken")
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("2026-01-02T03:04:05.000006Z stdout F hello\n"))
	f.Add([]byte("2026-01-02T03:04:05.000006Z stderr P:x hello"))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := Parse(line)
		if err == nil && bytes.IndexByte(r.Content, '\n') >= 0 {
			t.Fatal("a record of two lines")
		}
	})
}

func FuzzState(f *testing.F) {
	s := state{phase: writing, stream: Stderr, raw: 7, size: 50, stamp: 1, base: -3, inode: 9}
	b := s.encode()
	f.Add(b[:])
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeState(b)
		if err != nil {
			return
		}
		again, err := decodeState(func() []byte { e := s.encode(); return e[:] }())
		if err != nil || again != s {
			t.Fatalf("%+v became %+v, %v", s, again, err)
		}
	})
}

func BenchmarkFormat(b *testing.B) {
	raw := bytes.Repeat([]byte("a line of a usual length, about one hundred bytes long, with nothing special in it at all, no.......\n"), 300)
	out := make([]byte, 0, maxOut)
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		_, n := format(out, maxOut, raw, stamp, Stdout, false)
		if n != len(raw) {
			b.Fatal(n)
		}
	}
}
