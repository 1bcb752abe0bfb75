// Package selinux says which types of the policy beside it (container.cil,
// postern.cil) files and programs have.
package selinux

import (
	"path/filepath"
	"strings"

	"github.com/postern-cri/postern/privsep/layout"
)

// Types without which containers, and without which our own processes, have no
// label.
const (
	Container = "container_t"
	Helper    = "postern_helper_t"
)

// Files says which type each directory of an installation has. Files get it from
// their directory, sockets one of their own by the policy.
func Files(l layout.Layout) map[string]string {
	return map[string]string{
		l.Etc: "postern_conf_t", l.Policy(): "postern_conf_t", l.TrustDir(): "postern_conf_t", l.Seccomp(): "postern_conf_t",
		l.Run: "postern_run_t", filepath.Dir(l.HelperSocket()): "postern_sock_t", l.Box(): "postern_box_t",
		l.Lib: "postern_lib_t", l.BoxState(): "postern_box_t", l.Log: "postern_log_t",
		l.FrontState(): "postern_front_t", l.FetchState(): "postern_fetch_t",
		l.Records(): "postern_record_t", l.Layers(): "postern_layer_t",
		l.AuditLog(): "postern_audit_t", l.PolicyState(): "postern_rules_t",
	}
}

// Program is the type by which a program enters its domain.
func Program(name string) string { return strings.ReplaceAll(name, "-", "_") + "_exec_t" }

// Domain is the type of a program's process.
func Domain(name string) string { return strings.ReplaceAll(name, "-", "_") + "_t" }
