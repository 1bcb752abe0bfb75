// posternd answers the Kubernetes Container Runtime Interface. It runs without
// any privilege: it translates requests and hands them to the privileged helper.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/postern-cri/postern/privsep/confine"
	"github.com/postern-cri/postern/privsep/layout"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/runtime/cdi"
	"github.com/postern-cri/postern/runtime/cri"
	"github.com/postern-cri/postern/runtime/ulimit"
)

// version is set by the linker.
var version = "0.0.0-dev"

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "posternd:", err)
		os.Exit(1)
	}
}

func run() error {
	root := flag.String("root", "", "directory that everything lies beneath, in place of the system's")
	var rlimits []plan.Rlimit
	flag.Func("ulimit", "name=soft:hard of every container; more than once for more", func(s string) error {
		r, err := ulimit.Parse(s)
		rlimits = append(rlimits, r)
		return err
	})
	flag.Parse()
	l := layout.New(*root)
	users, err := layout.ReadUsers(l.UsersFile())
	if err != nil {
		return err
	}
	if err := confine.Enter(confine.Front, users.Front, confine.Options{
		KeepFDs: cri.FDs,
		Landlock: append([]confine.Rule{
			{Path: l.FrontState(), Rights: confine.All},
			{Path: l.Ceiling(), Rights: confine.Read},
			{Path: l.Layers(), Rights: confine.Read, Optional: true},
			{Path: "/sys/fs/cgroup", Rights: confine.Read, Optional: true},
			{Path: filepath.Join("/etc", "localtime"), Rights: confine.Read, Optional: true},
		}, specifications(l)...),
	}); err != nil {
		return err
	}
	return cri.Main(l, users, version, rlimits)
}

// specifications are the directories that say what CDI devices need.
func specifications(l layout.Layout) (rules []confine.Rule) {
	for _, d := range cdi.Dirs(l) {
		rules = append(rules, confine.Rule{Path: d, Rights: confine.Read, Optional: true})
	}
	return rules
}
