// Package apparmor holds the AppArmor profile of containers that ask for the
// runtime's default. It is loaded at the start of a node; a container that should
// have it is not made where it is not loaded.
package apparmor

import (
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Default is the name of the default profile.
const Default = "postern-default"

// Text is the default profile, in AppArmor's language.
//
//go:embed postern-default
var Text []byte

// Enabled tells whether the kernel of a machine, with sysfs at sys, confines by
// AppArmor. Present and unreachable is a machine that has it, but where no
// profile can be seen, because securityfs is not mounted.
func Enabled(sys string) (present, reachable bool) {
	b, err := os.ReadFile(filepath.Join(sys, "module/apparmor/parameters/enabled"))
	if err != nil || len(b) == 0 || b[0] != 'Y' {
		return false, false
	}
	_, err = os.Stat(filepath.Join(sys, "kernel/security/apparmor/profiles"))
	return true, err == nil
}

// Confines reports why a loaded profile does not confine, nil where it does. One
// that only complains lets everything pass: whoever may name a profile must not
// get out of them all by naming such a one.
func Confines(sys, name string) error {
	b, err := os.ReadFile(filepath.Join(sys, "kernel/security/apparmor/profiles"))
	if err != nil {
		return fmt.Errorf("reading the list of profiles: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSuffix(line, "\n")
		at := strings.LastIndex(line, " (")
		if at < 0 || line[:at] != name {
			continue
		}
		switch mode := line[at+1:]; mode {
		case "(enforce)", "(kill)":
			return nil
		default:
			return fmt.Errorf("profile %q is in mode %s, which confines nothing: load it with apparmor_parser -r in enforce mode", name, strings.Trim(mode, "()"))
		}
	}
	if name == Default {
		return fmt.Errorf("profile %q is not loaded: postern up loads it, start it again", name)
	}
	return fmt.Errorf("profile %q is not loaded: load it on this node with apparmor_parser -r FILE", name)
}
