package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestTranscripts says everything wrong that a user of crictl can say and shows
// the answer: a gRPC code, the field, and what would help. The scripts share one
// node; each has pods of its own.
func TestTranscripts(t *testing.T) {
	tr := startTree(t, "baseline", "")
	if _, err := os.Stat(filepath.Join(bin, "tools/crictl")); err != nil {
		t.Fatalf("crictl is not built: run make tools (%v)", err)
	}
	tr.pull()
	config := filepath.Join(filepath.Dir(tr.root), "crictl.yaml")
	endpoint := "unix://" + tr.root + "/run/postern.sock"
	tr.write(config, "runtime-endpoint: "+endpoint+"\nimage-endpoint: "+endpoint+"\ntimeout: 30\n")
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/refused",
		RequireExplicitExec: true,
		ContinueOnError:     true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", filepath.Join(bin, "tools")+":"+os.Getenv("PATH"))
			e.Setenv("CRI_CONFIG_FILE", config)
			e.Setenv("REG", tr.reg)
			e.Setenv("LOGS", tr.logs)
			files, err := filepath.Glob(filepath.Join(e.WorkDir, "*.json"))
			for _, f := range files {
				b, err := os.ReadFile(f)
				if err != nil {
					return err
				}
				if err := os.WriteFile(f, []byte(os.Expand(string(b), e.Getenv)), 0o644); err != nil {
					return err
				}
			}
			return err
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"edit": edit, "keep": keep, "refused": refused,
		},
	})
}

// edit FROM TO KEY JSON [KEY JSON]... writes the object in FROM to TO with some of
// its members changed; a KEY is a path with dots.
func edit(ts *testscript.TestScript, _ bool, args []string) {
	var object map[string]any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &object))
	for i := 2; i+1 < len(args); i += 2 {
		var value any
		ts.Check(json.Unmarshal([]byte(args[i+1]), &value))
		at, path := object, strings.Split(args[i], ".")
		for _, p := range path[:len(path)-1] {
			inner, ok := at[p].(map[string]any)
			if !ok {
				inner = map[string]any{}
				at[p] = inner
			}
			at = inner
		}
		at[path[len(path)-1]] = value
	}
	b, err := json.Marshal(object)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), b, 0o644))
}

// keep NAME sets a variable to what the last command printed.
func keep(ts *testscript.TestScript, _ bool, args []string) {
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}

// internals are words of the inside, which mean nothing to whoever wrote a request.
var internals = []string{"postern-launch", "/sys/fs/cgroup", "/run/box", "/lib/box", "procHooks", "libcontainer", "goroutine"}

// refused CODE TEXT... wants the last command to have failed with this gRPC code
// and each of these texts in its message, and no word of the inside.
func refused(ts *testscript.TestScript, _ bool, args []string) {
	said := ts.ReadFile("stderr")
	said = strings.NewReplacer(`\"`, `"`, `\\`, `\`).Replace(said)
	_, message, ok := strings.Cut(said, "code = "+args[0]+" desc = ")
	message, _, _ = strings.Cut(message, "\n")
	message, _, _ = strings.Cut(message, `" podSandboxID=`) // crictl's own words
	message, _, _ = strings.Cut(message, `" containerID=`)
	if !ok {
		ts.Fatalf("want code %s, got: %s", args[0], said)
	}
	for _, want := range args[1:] {
		if !strings.Contains(message, want) {
			ts.Fatalf("want %q in: %s", want, message)
		}
	}
	for _, w := range internals {
		if strings.Contains(message, w) {
			ts.Fatalf("the message speaks of %q: %s", w, message)
		}
	}
}
