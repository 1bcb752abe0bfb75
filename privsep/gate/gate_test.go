package gate

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/fuzz/fill"
	"github.com/postern-cri/postern/privsep/seqpacket"
	"github.com/postern-cri/postern/privsep/wire"
)

func TestMain(m *testing.M) {
	log.SetOutput(io.Discard)
	os.Exit(m.Run())
}

func me(c *unix.Ucred) (string, bool) { return "test", c.Uid == uint32(os.Getuid()) }

// socket returns a path for a socket and a function that listens there.
func socket(t *testing.T) (string, func() *seqpacket.Listener) {
	path := filepath.Join(t.TempDir(), "s")
	return path, func() *seqpacket.Listener {
		os.Remove(path)
		fd, err := seqpacket.Listen(path)
		if err != nil {
			t.Fatal(err)
		}
		l, err := seqpacket.NewListener(fd)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l
	}
}

func TestDecide(t *testing.T) {
	var want Decision
	fill.Fill(&want, nil)
	if z := fill.Zero(&want); len(z) > 0 {
		t.Fatal(z)
	}
	path, listen := socket(t)
	var got Question
	var mu sync.Mutex
	go ServePolicy(listen(), me, func(role string, q Question) Decision {
		mu.Lock()
		defer mu.Unlock()
		got = q
		if role != "test" {
			t.Errorf("role %q", role)
		}
		return want
	})
	p := NewPolicy(path)
	var all []Section
	for k := SectionPodPlan; k <= SectionFacts; k++ {
		all = append(all, Section{k, bytes.Repeat([]byte{byte(k)}, 1000*int(k))})
	}
	for _, sections := range [][]Section{nil, {{SectionFacts, []byte("{}")}}, {{Kind: SectionRecord}}, all} {
		q := Question{"CreateContainer", ClassCreate, sections}
		d, err := p.Decide(context.Background(), q)
		if err != nil {
			t.Fatal(err)
		}
		if d != want {
			t.Errorf("decision %+v, want %+v", d, want)
		}
		mu.Lock()
		if !reflect.DeepEqual(got, q) {
			t.Errorf("question %+v, want %+v", got, q)
		}
		mu.Unlock()
	}
	if len(p.pool.idle) != 1 {
		t.Errorf("%d idle connections after questions one by one", len(p.pool.idle))
	}
}

func TestQuestionsThatCannotBeAsked(t *testing.T) {
	path, listen := socket(t)
	go ServePolicy(listen(), me, func(string, Question) Decision { return Decision{Allow: true} })
	p := NewPolicy(path)
	for name, q := range map[string]Question{
		"class 0":            {"X", 0, nil},
		"class 8":            {"X", ClassRead + 1, nil},
		"method too long":    {strings.Repeat("x", 65), ClassCreate, nil},
		"section 0":          {"X", ClassCreate, []Section{{0, nil}}},
		"section 8":          {"X", ClassCreate, []Section{{SectionFacts + 1, nil}}},
		"same section twice": {"X", ClassCreate, []Section{{SectionPlan, nil}, {SectionPlan, nil}}},
		"too many sections":  {"X", ClassCreate, make([]Section, maxSections+1)},
		"sections too large": {"X", ClassCreate, []Section{{SectionFacts, make([]byte, wire.MaxMemfd)}}},
	} {
		if d, err := p.Decide(context.Background(), q); err == nil || d.Allow {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
	}
}

func TestCommit(t *testing.T) {
	path, listen := socket(t)
	type call struct {
		stage   Stage
		payload string
		async   bool
	}
	var calls []call
	var mu sync.Mutex
	go ServeAudit(listen(), me, func(role string, stage Stage, payload []byte, async bool) (uint64, error) {
		mu.Lock()
		defer mu.Unlock()
		calls = append(calls, call{stage, string(payload), async})
		if bytes.Contains(payload, []byte("full")) {
			// A message of two-byte letters: the cut must not fall into one.
			return 0, errors.New("x" + strings.Repeat("ü", maxText))
		}
		return uint64(len(calls)), nil
	})
	a := NewAudit(path)
	large := strings.Repeat("x", MaxPayload)
	want := []call{{StageDecision, "{}", false}, {StageComplete, "{}", true}, {StageEvent, large, false}, {StageInput, "", true}}
	for i, c := range want {
		seq, err := a.Commit(context.Background(), c.stage, []byte(c.payload), c.async)
		if err != nil || seq != uint64(i+1) {
			t.Errorf("commit %d: %d, %v", i, seq, err)
		}
	}
	mu.Lock()
	if !reflect.DeepEqual(calls, want) {
		t.Error("the records came otherwise than they were sent")
	}
	mu.Unlock()
	if _, err := a.Commit(context.Background(), StageDecision, []byte(large+"x"), false); err == nil {
		t.Error("a record that is too large was committed")
	}
	if _, err := a.Commit(context.Background(), StageInput+1, []byte("{}"), false); err == nil {
		t.Error("a record of an unknown stage was committed")
	}
	_, err := a.Commit(context.Background(), StageDecision, []byte("full"), false)
	if err == nil || !strings.Contains(err.Error(), "auditd refused the record: \"xü") || !utf8.ValidString(err.Error()) {
		t.Errorf("a refused record: %v", err)
	}
}

// A decision that policy wrote without measure arrives cut, and a yes that
// cannot be carried never arrives as one.
func TestClip(t *testing.T) {
	for _, s := range []string{
		"", "short", strings.Repeat("x", maxText), strings.Repeat("x", maxText+1), strings.Repeat("ü", maxText),
		"x" + strings.Repeat("ü", maxText), strings.Repeat("€", maxText), "x" + strings.Repeat("€", maxText), "xx" + strings.Repeat("€", maxText),
		strings.Repeat("𝛑", maxText), "x" + strings.Repeat("𝛑", maxText), "xx" + strings.Repeat("𝛑", maxText), "xxx" + strings.Repeat("𝛑", maxText),
	} {
		d := Decision{Message: s}
		d.clip()
		switch m := d.Message; {
		case len(s) <= maxText && m != s:
			t.Errorf("a text of %d bytes was cut", len(s))
		case len(m) > maxText || !utf8.ValidString(m):
			t.Errorf("%d bytes became %d bytes, valid: %v", len(s), len(m), utf8.ValidString(m))
		case len(s) > maxText && (!strings.HasSuffix(m, "...") || len(m) < maxText-10):
			t.Errorf("%d bytes became %q", len(s), m[max(0, len(m)-20):])
		}
	}
	path, listen := socket(t)
	text := strings.Repeat("€", 2000)
	go ServePolicy(listen(), me, func(_ string, q Question) Decision {
		if q.Method == "bad" {
			return Decision{Allow: true, Message: "not \xff text"}
		}
		return Decision{ID: text, Revision: text, InputSHA256: text, Rule: text, Message: text, Field: text, Remedy: text}
	})
	p := NewPolicy(path)
	d, err := p.Decide(context.Background(), Question{Method: "X", Class: ClassRead})
	if err != nil || d.Allow || !strings.HasSuffix(d.Remedy, "...") {
		t.Errorf("%+v, %v", d, err)
	}
	if d, err := p.Decide(context.Background(), Question{Method: "bad", Class: ClassRead}); err == nil || d.Allow {
		t.Errorf("a decision with broken text: %+v, %v", d, err)
	}
}

func TestRefusedPeer(t *testing.T) {
	path, listen := socket(t)
	go ServePolicy(listen(), func(*unix.Ucred) (string, bool) { return "", false }, func(string, Question) Decision {
		t.Error("a refused peer was answered")
		return Decision{Allow: true}
	})
	if d, err := NewPolicy(path).Decide(context.Background(), Question{Method: "X", Class: ClassCreate}); err == nil || d.Allow {
		t.Errorf("%+v, %v", d, err)
	}
}

func TestNobodyListens(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	if d, err := NewPolicy(path).Decide(context.Background(), Question{Method: "X", Class: ClassCreate}); err == nil || d.Allow {
		t.Errorf("%+v, %v", d, err)
	}
	if _, err := NewAudit(path).Commit(context.Background(), StageEvent, nil, true); err == nil {
		t.Error("committed to nobody")
	}
}

// After a restart of the service every idle connection is stale, and the next
// question is answered all the same.
func TestRestart(t *testing.T) {
	path, listen := socket(t)
	serving := make(chan *seqpacket.Conn, 64)
	serve := func(l *seqpacket.Listener, id string) {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving <- c
			go serveConn(c, &admission{peers: map[uint32]int{}}, me, func(string, wire.Header, []byte, []int) (func(*wire.Coder), error) {
				time.Sleep(5 * time.Millisecond) // so that the questions need connections of their own
				return (&Decision{Allow: true, ID: id}).code, nil
			})
		}
	}
	l := listen()
	go serve(l, "old")
	p := NewPolicy(path)
	ask := func(want string) {
		t.Helper()
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				d, err := p.Decide(context.Background(), Question{Method: "X", Class: ClassCreate})
				if err != nil || d.ID != want {
					t.Errorf("%+v, %v", d, err)
				}
			})
		}
		wg.Wait()
	}
	ask("old")
	if n := len(p.pool.idle); n == 0 || n > maxIdle {
		t.Errorf("%d idle connections", n)
	}
	l.Close()
	for len(serving) > 0 {
		(<-serving).Close()
	}
	go serve(listen(), "new")
	ask("new")
}

func TestTimeout(t *testing.T) {
	path, listen := socket(t)
	release := make(chan bool)
	defer close(release)
	go ServePolicy(listen(), me, func(_ string, q Question) Decision {
		if q.Method == "slow" {
			<-release
		}
		return Decision{Allow: true, ID: q.Method}
	})
	p := NewPolicy(path)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if d, err := p.Decide(ctx, Question{Method: "slow", Class: ClassCreate}); !errors.Is(err, os.ErrDeadlineExceeded) || d.Allow {
		t.Errorf("%+v, %v", d, err)
	}
	// The late answer to the slow question is nobody's: its connection is gone.
	d, err := p.Decide(context.Background(), Question{Method: "quick", Class: ClassCreate})
	if err != nil || d.ID != "quick" {
		t.Errorf("%+v, %v", d, err)
	}
}
