package wire

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/fuzz/fill"
)

func hexOf(n int) any { return fmt.Sprintf("%064x", n) }

var valid = fill.Rules{
	"Pod": hexOf, "Container": hexOf, "Exec": hexOf, "Target": hexOf, "After": hexOf, "Handle": hexOf,
	"Code": Denied, "CtrUpdateRequest.Resources": []byte("resources"),
}

// messages are all of them; TestMessagesIsComplete looks for one that is missing.
var messages = []Message{
	&HelloRequest{}, &HelloAnswer{}, &PodCreateRequest{}, &PodCreateAnswer{}, &PodDeleteRequest{}, &PodDeleteAnswer{},
	&PodSocketRequest{}, &PodSocketAnswer{}, &CtrCreateRequest{}, &CtrCreateAnswer{}, &CtrStartRequest{}, &CtrStartAnswer{},
	&CtrSignalRequest{}, &CtrSignalAnswer{}, &CtrExecRequest{}, &CtrExecAnswer{}, &CtrUpdateRequest{}, &CtrUpdateAnswer{},
	&CtrDeleteRequest{}, &CtrDeleteAnswer{}, &CtrUsageRequest{}, &CtrUsageAnswer{}, &LogReopenRequest{}, &LogReopenAnswer{},
	&ListRequest{}, &ListAnswer{},
}

func fresh(m Message) Message { return reflect.New(reflect.TypeOf(m).Elem()).Interface().(Message) }

func filled(t testing.TB, m Message) (Message, []byte) {
	t.Helper()
	m = fresh(m)
	fill.Fill(m, valid)
	if z := fill.Zero(m); len(z) > 0 {
		t.Fatalf("fields that fill left zero: %v", z)
	}
	b, err := Encode(7, 9, m)
	if err != nil {
		t.Fatalf("encoding a filled %T: %v", m, err)
	}
	return m, b[HeaderSize:]
}

func TestMessagesIsComplete(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "message.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, m := range messages {
		have[reflect.TypeOf(m).Elem().Name()] = true
	}
	ast.Inspect(f, func(n ast.Node) bool {
		if s, ok := n.(*ast.TypeSpec); ok && s.Name.Name != "Answer" && (strings.HasSuffix(s.Name.Name, "Request") || strings.HasSuffix(s.Name.Name, "Answer")) && !have[s.Name.Name] {
			t.Errorf("%s is not in the list of messages", s.Name.Name)
		}
		return true
	})
	if last := List; last != 26 || len(messages) != 2*13 {
		t.Errorf("the last verb is %d with %d messages: thirteen verbs are what docs/BUDGETS.md allows", last, len(messages))
	}
}

// A field that the codec forgets comes back zero and fails here.
func TestRoundTripOfEveryField(t *testing.T) {
	for _, m := range messages {
		v, b := filled(t, m)
		got := fresh(m)
		if err := Decode(b, got); err != nil {
			t.Errorf("%T: %v", m, err)
		} else if !reflect.DeepEqual(got, v) {
			t.Errorf("%T came back as\n%+v\nwas\n%+v", m, got, v)
		}
		for n := range b {
			if err := Decode(b[:n], fresh(m)); !errors.Is(err, ErrViolation) {
				t.Errorf("%T cut to %d of %d bytes: %v", m, n, len(b), err)
			}
		}
		if err := Decode(append(bytes.Clone(b), 0), fresh(m)); !errors.Is(err, ErrViolation) {
			t.Errorf("%T with a byte left over: %v", m, err)
		}
	}
}

func TestHeader(t *testing.T) {
	b, err := Encode(PodDelete, 1<<63+5, &PodDeleteRequest{Pod: strings.Repeat("ab", 32)})
	if err != nil {
		t.Fatal(err)
	}
	h, body, err := DecodeHeader(b)
	if err != nil || h != (Header{PodDelete, Version, 1<<63 + 5}) || len(body) != 66 {
		t.Errorf("%+v, %d bytes, %v", h, len(body), err)
	}
	b[2]++
	if _, _, err := DecodeHeader(b); !errors.Is(err, ErrViolation) {
		t.Errorf("another version: %v", err)
	}
	for n := range HeaderSize {
		if _, _, err := DecodeHeader(b[:n]); !errors.Is(err, ErrViolation) {
			t.Errorf("a header of %d bytes: %v", n, err)
		}
	}
}

func TestViolations(t *testing.T) {
	id := strings.Repeat("ab", 32)
	body := func(m Message) []byte {
		b, err := Encode(2, 1, m)
		if err != nil {
			t.Fatal(err)
		}
		return b[HeaderSize:]
	}
	edit := func(m Message, at int, v byte) []byte { // negative: from the end
		b := body(m)
		if at < 0 {
			at += len(b)
		}
		b[at] = v
		return b
	}
	entry := Entry{EntryPod, id, "", StateReady, ""}
	for name, err := range map[string]error{
		"upper-case handle":  Decode(edit(&CtrStartRequest{id}, 2, 'A'), &CtrStartRequest{}),
		"handle with slash":  Decode(edit(&CtrStartRequest{id}, 9, '/'), &CtrStartRequest{}),
		"handle with NUL":    Decode(edit(&CtrStartRequest{id}, 9, 0), &CtrStartRequest{}),
		"empty handle":       Decode([]byte{0, 0}, &CtrStartRequest{}),
		"short handle":       Decode([]byte{2, 0, 'a', 'b'}, &CtrStartRequest{}),
		"short after":        Decode([]byte{2, 0, 'a', 'b'}, &ListRequest{}),
		"long handle":        Decode(append([]byte{65, 0}, bytes.Repeat([]byte{'a'}, 65)...), &CtrStartRequest{}),
		"socket kind 0":      Decode(edit(&PodSocketRequest{id, SocketTCP4}, -1, 0), &PodSocketRequest{}),
		"socket kind 4":      Decode(edit(&PodSocketRequest{id, SocketTCP4}, -1, 4), &PodSocketRequest{}),
		"signal 0":           Decode(edit(&CtrSignalRequest{id, 9, false}, -2, 0), &CtrSignalRequest{}),
		"signal 65":          Decode(edit(&CtrSignalRequest{id, 9, false}, -2, 65), &CtrSignalRequest{}),
		"bool 2":             Decode(edit(&CtrSignalRequest{id, 9, false}, -1, 2), &CtrSignalRequest{}),
		"answer code 8":      Decode(edit(&CtrStartAnswer{}, 0, 8), &CtrStartAnswer{}),
		"invalid UTF-8":      Decode(edit(&CtrStartAnswer{Answer{Code: Failed, Message: "ab"}}, 4, 0xff), &CtrStartAnswer{}),
		"entry kind 4":       Decode(edit(&ListAnswer{Entries: []Entry{entry}}, len(body(&ListAnswer{}))-1, 4), &ListAnswer{}),
		"entry state 5":      Decode(edit(&ListAnswer{Entries: []Entry{entry}}, -4, 5), &ListAnswer{}),
		"too many entries":   Decode(edit(&ListAnswer{Entries: []Entry{entry}}, len(body(&ListAnswer{}))-2, 0xff), &ListAnswer{}),
		"resources too long": Decode(append(append([]byte{64, 0}, id...), 1, 16, 0, 0), &CtrUpdateRequest{}),
		"resources 4 GiB":    Decode(append(append([]byte{64, 0}, id...), 0xff, 0xff, 0xff, 0xff), &CtrUpdateRequest{}),
	} {
		if !errors.Is(err, ErrViolation) {
			t.Errorf("%s: %v, want a violation", name, err)
		}
	}
	for name, m := range map[string]Message{
		"text too long": &CtrStartAnswer{Answer{Message: strings.Repeat("x", maxText+1)}},
		"many ips":      &PodCreateAnswer{IPs: make([]string, 17)},
		"many notes":    &CtrCreateAnswer{Notes: make([]string, 65)},
		"bad handle":    &CtrStartRequest{"x"},
		"code 8":        &CtrStartAnswer{Answer{Code: 8}},
	} {
		if _, err := Encode(2, 1, m); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
}

func TestHostileCountsDoNotAllocate(t *testing.T) {
	for _, m := range messages {
		_, b := filled(t, m)
		limit := uint64(32<<10 + 32*len(b))
		for at := range max(0, len(b)-1) {
			h := bytes.Clone(b)
			h[at], h[at+1] = 0xff, 0xff
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			Decode(h, fresh(m))
			runtime.ReadMemStats(&after)
			if n := after.TotalAlloc - before.TotalAlloc; n > limit {
				t.Errorf("%T with 0xffff at byte %d: %d bytes allocated for %d", m, at, n, len(b))
			}
		}
	}
}

func TestUnique(t *testing.T) {
	for _, v := range [][]string{nil, {"a"}, {"a", "b"}} {
		c := NewEncoder()
		Unique(c, "things", v, func(s string) string { return s })
		if _, err := c.Encoded(); err != nil {
			t.Errorf("%v: %v", v, err)
		}
	}
	c := NewEncoder()
	Unique(c, "things", []string{"a", "b", "a"}, func(s string) string { return s })
	if _, err := c.Encoded(); !errors.Is(err, ErrViolation) || !strings.Contains(err.Error(), `things: duplicate "a"`) {
		t.Errorf("%v", err)
	}
}

// The first error stays, and nothing is read after it.
func TestFirstErrorStays(t *testing.T) {
	c := NewDecoder([]byte{9, 1, 2, 3, 4})
	var b bool
	var u uint32
	c.Bool(&b)
	first := c.err
	c.U32(&u)
	c.Fail("another")
	if c.Finish() != first || u != 0 {
		t.Errorf("%v became %v, read %d", first, c.err, u)
	}
	if !NewDecoder(nil).Decoding() || NewEncoder().Decoding() {
		t.Error("the direction is wrong")
	}
}

// memfd makes one with these seals and content.
func memfd(t *testing.T, b []byte, size int64, seals int) int {
	t.Helper()
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if _, err := unix.Pwrite(fd, b, 0); err != nil {
		t.Fatal(err)
	}
	if size > 0 {
		if err := unix.Ftruncate(fd, size); err != nil {
			t.Fatal(err)
		}
	}
	if seals != 0 {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
			t.Fatal(err)
		}
	}
	return fd
}

func TestMemfd(t *testing.T) {
	want := []byte("judged and used")
	fd, err := MakeMemfd(want)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := unix.Pwrite(fd, []byte("x"), 0); err == nil {
		t.Error("a sealed memfd was written")
	}
	if unix.Ftruncate(fd, 1) == nil || unix.Ftruncate(fd, 100) == nil {
		t.Error("a sealed memfd changed its size")
	}
	unix.Seek(fd, 5, unix.SEEK_SET) // the shared offset does not matter
	for range 2 {
		if b, err := ReadMemfd(fd); err != nil || !bytes.Equal(b, want) {
			t.Errorf("%q, %v", b, err)
		}
	}
	for _, n := range []int{0, MaxMemfd + 1} {
		if fd, err := MakeMemfd(make([]byte, n)); err == nil {
			unix.Close(fd)
			t.Errorf("a memfd of %d bytes was made", n)
		}
	}
	if fd, err := MakeMemfd(make([]byte, MaxMemfd)); err != nil {
		t.Error(err)
	} else {
		if b, err := ReadMemfd(fd); err != nil || len(b) != MaxMemfd {
			t.Errorf("the largest memfd: %d bytes, %v", len(b), err)
		}
		unix.Close(fd)
	}
}

// What is not a fully sealed memfd of a sane size is refused: its bytes could
// change between the judgement and the use.
func TestMemfdRefused(t *testing.T) {
	all := []int{unix.F_SEAL_SEAL, unix.F_SEAL_SHRINK, unix.F_SEAL_GROW, unix.F_SEAL_WRITE}
	bad := map[string]int{
		"unsealed": memfd(t, []byte("x"), 0, 0),
		"empty":    memfd(t, nil, 0, allSeals),
		"large":    memfd(t, []byte("x"), MaxMemfd+1, allSeals),
		"huge":     memfd(t, []byte("x"), 1<<40, allSeals),
	}
	for _, missing := range all {
		bad[fmt.Sprintf("without seal %#x", missing)] = memfd(t, []byte("x"), 0, allSeals&^missing)
	}
	// F_SEAL_FUTURE_WRITE leaves a mapping that was made before writable.
	bad["future write"] = memfd(t, []byte("x"), 0, allSeals&^unix.F_SEAL_WRITE|unix.F_SEAL_FUTURE_WRITE)
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.WriteString("x")
	bad["a regular file"] = int(f.Fd())
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	bad["a pipe"] = int(r.Fd())
	d, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	bad["a directory"] = int(d.Fd())
	n, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	bad["a device"] = int(n.Fd())
	for name, fd := range bad {
		if b, err := ReadMemfd(fd); !errors.Is(err, ErrViolation) {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
}

func TestSections(t *testing.T) {
	for _, s := range [][2][]byte{{[]byte("plan"), []byte("claims")}, {nil, nil}, {[]byte{0}, nil}, {nil, []byte{0}}} {
		b := JoinSections(s[0], s[1])
		p, c, err := SplitSections(b)
		if err != nil || !bytes.Equal(p, s[0]) || !bytes.Equal(c, s[1]) {
			t.Errorf("%q became %q, %q, %v", s, p, c, err)
		}
		if _, _, err := SplitSections(append(b, 0)); !errors.Is(err, ErrViolation) {
			t.Errorf("a left-over byte: %v", err)
		}
		for n := range b {
			if _, _, err := SplitSections(b[:n]); !errors.Is(err, ErrViolation) {
				t.Errorf("cut to %d bytes: %v", n, err)
			}
		}
	}
	if n := testing.AllocsPerRun(10, func() { SplitSections([]byte{0xff, 0xff, 0xff, 0xff, 1}) }); n > 20 {
		t.Errorf("%v allocations for a hostile length", n)
	}
}

// What decodes encodes to the very same bytes, for every message.
func FuzzMessages(f *testing.F) {
	for i, m := range messages {
		_, b := filled(f, m)
		f.Add(uint8(i), b)
		f.Add(uint8(i), []byte{})
	}
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		m := fresh(messages[int(which)%len(messages)])
		if Decode(b, m) != nil {
			return
		}
		again, err := Encode(1, 1, m)
		if err != nil {
			t.Fatalf("decoded, but does not encode: %v\n%+v", err, m)
		}
		if !bytes.Equal(again[HeaderSize:], b) {
			t.Fatalf("two encodings of one %T:\n%x\n%x", m, b, again[HeaderSize:])
		}
	})
}

func FuzzSections(f *testing.F) {
	f.Add(JoinSections([]byte("plan"), []byte("claims")))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, c, err := SplitSections(b)
		if err == nil && !bytes.Equal(JoinSections(p, c), b) {
			t.Fatalf("two encodings of %q, %q", p, c)
		}
	})
}
