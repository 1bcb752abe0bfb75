package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/postern-cri/postern/audit/record"
	"github.com/postern-cri/postern/audit/wal"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"postern": func() {
			root := &cobra.Command{Use: "postern", SilenceUsage: true}
			root.PersistentFlags().String("root", "", "")
			root.AddCommand(Command())
			if root.Execute() != nil {
				os.Exit(1)
			}
		},
	})
}

func TestTranscripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"mklog": mklog, "flip": flip, "cut": cut,
		},
	})
}

// mklog DIR FILE: a log with one record per line of FILE (JSON).
func mklog(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o700))
	l, err := wal.Open(wal.Dir(dir), wal.Options{Ballast: -1, Segment: 2048, BootID: "b"})
	ts.Check(err)
	for i, s := range strings.Split(strings.TrimSpace(ts.ReadFile(args[1])), "\n") {
		var in map[string]any
		ts.Check(json.Unmarshal([]byte(s), &in))
		_, err := l.Commit(func(seq uint64, prev wal.Hash) ([]byte, error) {
			stage, _ := in["stage"].(string)
			return record.Stamped(in, record.Stamp{
				Seq: seq, Time: fmt.Sprintf("2026-11-23T10:00:%02d.5Z", i), BootID: "b", Writer: "root", Stage: stage, Prev: prev.String(),
			})
		}, false)
		ts.Check(err)
	}
	ts.Check(l.Close())
}

// flip FILE OFFSET changes one bit.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	b, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	at, err := strconv.Atoi(args[1])
	ts.Check(err)
	b[at] ^= 1
	ts.Check(os.Chmod(ts.MkAbs(args[0]), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o600))
}

// cut FILE N takes N bytes from the end.
func cut(ts *testscript.TestScript, _ bool, args []string) {
	name := filepath.Clean(ts.MkAbs(args[0]))
	st, err := os.Stat(name)
	ts.Check(err)
	n, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	ts.Check(os.Chmod(name, 0o600))
	ts.Check(os.Truncate(name, st.Size()-n))
}
