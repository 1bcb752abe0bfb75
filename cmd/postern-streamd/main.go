// postern-streamd serves exec, attach and port-forward. It runs without any
// privilege, on demand, with the fds that it is handed.
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/postern-cri/postern/privsep/confine"
	"github.com/postern-cri/postern/privsep/layout"
	"github.com/postern-cri/postern/runtime/stream"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "postern-streamd:", err)
		os.Exit(1)
	}
}

func run() error {
	root := flag.String("root", "", "directory that everything lies beneath, in place of the system's")
	flag.Parse()
	l := layout.New(*root)
	users, err := layout.ReadUsers(l.UsersFile())
	if err != nil {
		return err
	}
	if err := confine.Enter(confine.Stream, users.Stream, confine.Options{KeepFDs: stream.FDs}); err != nil {
		return err
	}
	return stream.Main(l, users)
}
