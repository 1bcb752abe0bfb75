package wal

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestFollow reads a log while it is written, over several segments and a failed sync.
func TestFollow(t *testing.T) {
	fs := newMemFS()
	l := open(t, fs, options())
	defer l.Close()
	w := NewFollower(fs)
	defer w.Close()
	var got []string
	read := func() {
		t.Helper()
		if err := w.Next(func(f Frame) error { got = append(got, string(f.Payload)); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	read()
	for i := range 60 {
		if i == 30 {
			fs.mu.Lock()
			fs.failAt[fs.ops+2] = true // the sync of the next commit
			fs.mu.Unlock()
		}
		if _, err := l.Commit(says(fmt.Sprintf("record %d %s", i, strings.Repeat("x", 200))), false); err != nil {
			t.Fatal(err)
		}
		if i%7 == 0 {
			read()
		}
	}
	read()
	n := 0
	for _, s := range got {
		if strings.Contains(s, "audit.failed") {
			continue
		}
		if !strings.HasPrefix(s, fmt.Sprintf("record %d ", n)) {
			t.Fatalf("record %d is %.20s", n, s)
		}
		n++
	}
	if n != 60 || len(got) != 61 {
		t.Errorf("%d records, %d of them committed", len(got), n)
	}
}

// TestAsyncOutlivesFailure: nobody waits for an async record, so it stays queued
// until the disk takes it.
func TestAsyncOutlivesFailure(t *testing.T) {
	fs := newMemFS()
	l := open(t, fs, options())
	fs.mu.Lock()
	for i := range 100 {
		fs.failAt[fs.ops+1+i] = true
	}
	fs.mu.Unlock()
	if _, err := l.Commit(says("kept"), true); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); contents(t, fs.crash(false))[1] != "kept"; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the record is not there after the disk came back")
		}
	}
	l.Close()
	if _, err := Verify(fs); err != nil {
		t.Fatal(err)
	}
}
