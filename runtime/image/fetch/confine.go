package fetch

import (
	"os"

	"github.com/postern-cri/postern/privsep/confine"
	"github.com/postern-cri/postern/privsep/layout"
)

// Landlock lists what the role may open: its own state, and what names, trusts
// and configures registries.
func Landlock(l layout.Layout, registriesConf string) []confine.Rule {
	rules := []confine.Rule{{Path: l.FetchState(), Rights: confine.All}}
	if registriesConf == "" {
		registriesConf = DefaultRegistries
	}
	for _, p := range []string{registriesConf, registriesConf + ".d", os.DevNull,
		"/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/gai.conf", "/etc/ssl", "/etc/pki", "/etc/ca-certificates",
		"/usr/share/ca-certificates", "/usr/local/share/ca-certificates", "/usr/share/zoneinfo"} {
		rules = append(rules, confine.Rule{Path: p, Rights: confine.Read, Optional: true})
	}
	for _, s := range []string{l.VerifySocket(), l.PolicySocket(), l.AuditSocket()} {
		rules = append(rules, confine.Rule{Path: s, Rights: confine.Read | confine.Write, Optional: true})
	}
	return rules
}
