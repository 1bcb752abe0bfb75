package main

import (
	"os"
	"strconv"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// Each transcript in testdata/script is what an operator types and reads.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"postern": func() {
			if uid, err := strconv.Atoi(os.Getenv("AS_UID")); err == nil {
				if err := syscall.Setuid(uid); err != nil {
					panic(err)
				}
			}
			os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
		},
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		ContinueOnError:     true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"envsubst": envsubst,
		},
		Condition: func(cond string) (bool, error) {
			return cond == "root" && os.Geteuid() == 0, nil
		},
	})
}

// envsubst FILE... puts the script's variables into files.
func envsubst(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(os.Expand(ts.ReadFile(name), ts.Getenv)), 0o644))
	}
}
