// postern-policyd decides what may run: it evaluates the policy of etc/policy on
// the questions of the other processes. It has no network and no privilege.
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/postern-cri/postern/policy/daemon"
	"github.com/postern-cri/postern/privsep/confine"
	"github.com/postern-cri/postern/privsep/layout"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "postern-policyd:", err)
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
	err = confine.Enter(confine.Policy, users.Policy, confine.Options{
		KeepFDs: daemon.FDs,
		Landlock: []confine.Rule{
			{Path: l.Policy(), Rights: confine.Read},
			{Path: l.PolicyState(), Rights: confine.All, Optional: true}, // the redaction key
		},
	})
	if err != nil {
		return err
	}
	return daemon.Serve(l, users)
}
