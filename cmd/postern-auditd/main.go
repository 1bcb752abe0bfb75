// postern-auditd writes the audit log. It owns the log's directory, opens nothing
// else and has no network and no privilege.
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/postern-cri/postern/audit/daemon"
	"github.com/postern-cri/postern/privsep/confine"
	"github.com/postern-cri/postern/privsep/layout"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "postern-auditd:", err)
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
	err = confine.Enter(confine.Audit, users.Audit, confine.Options{
		KeepFDs: daemon.FDs,
		Landlock: []confine.Rule{
			{Path: l.AuditLog(), Rights: confine.All},
			{Path: "/proc/sys/kernel/random/boot_id", Rights: confine.Read, Optional: true},
		},
	})
	if err != nil {
		return err
	}
	return daemon.Serve(l, users)
}
