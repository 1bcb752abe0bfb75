// postern-logd moves what containers write into their logs. It runs without any
// privilege and opens no file: every fd is handed to it.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"

	"github.com/postern-cri/postern/privsep/confine"
	"github.com/postern-cri/postern/privsep/layout"
	logd "github.com/postern-cri/postern/runtime/log"
)

func main() {
	fmt.Fprintln(os.Stderr, "postern-logd:", run())
	os.Exit(1)
}

// run returns only if something is wrong: a signal ends this process.
func run() error {
	root := flag.String("root", "", "directory that everything lies beneath, in place of the system's")
	flag.Parse()
	users, err := layout.ReadUsers(layout.New(*root).UsersFile())
	if err != nil {
		return err
	}
	runtime.GOMAXPROCS(1) // one loop
	if err := confine.Enter(confine.Log, users.Log, confine.Options{KeepFDs: logd.FDs}); err != nil {
		return err
	}
	return logd.Serve(users)
}
