package engine

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"
)

// Event is what became of a policy directory.
type Event struct {
	Kind     string // "policy.activate" or "policy.reject"
	Revision string // of the policy that is now in force
	Previous string
	Err      error // of policy.reject
}

// Load compiles dir and puts it in force. A policy that does not compile is
// refused as a whole, and the one in force stays: a typo must neither open the
// node nor stop it.
func (e *Engine) Load(ctx context.Context, dir string) Event {
	old := ""
	if p := e.Policy(); p != nil {
		old = p.Revision
	}
	files, err := ReadDir(dir)
	if err == nil {
		var p *Policy
		if p, err = Compile(ctx, files); err == nil {
			e.Use(p)
			return Event{Kind: "policy.activate", Revision: p.Revision, Previous: old}
		}
	}
	if e.Policy() == nil {
		e.Broken(fmt.Errorf("no policy could be loaded: %w", err))
	}
	return Event{Kind: "policy.reject", Revision: old, Previous: old, Err: err}
}

// Watch loads dir now and whenever it has changed, looking every interval, until
// ctx ends. A directory is taken only when it looked the same twice, so that
// files which are being copied are not taken for a policy.
func (e *Engine) Watch(ctx context.Context, dir string, interval time.Duration, report func(Event)) {
	loaded := stamp(dir)
	report(e.Load(ctx, dir))
	seen := loaded
	t := time.NewTicker(interval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		now := stamp(dir)
		if now != loaded && now == seen {
			loaded = now
			report(e.Load(ctx, dir))
		}
		seen = now
	}
}

// stamp describes a directory without reading its files.
func stamp(dir string) string {
	ents, err := os.ReadDir(dir)
	if err != nil {
		return err.Error()
	}
	var lines []string
	for _, ent := range ents {
		if !strings.HasSuffix(ent.Name(), ".rego") && ent.Name() != dataFile {
			continue
		}
		st, err := os.Lstat(filepath.Join(dir, ent.Name()))
		if err != nil {
			lines = append(lines, err.Error())
			continue
		}
		ino := uint64(0)
		if s, ok := st.Sys().(*syscall.Stat_t); ok {
			ino = s.Ino
		}
		lines = append(lines, fmt.Sprintf("%s %d %d %d %s", ent.Name(), ino, st.Size(), st.ModTime().UnixNano(), st.Mode()))
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}
