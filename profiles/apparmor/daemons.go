package apparmor

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
)

//go:embed postern-daemons
var daemons string

// common is what each unprivileged daemon has.
const common = `/proc/{self,thread-self,[0-9]*}/{fd/,status,stat,maps,cgroup,mountinfo,limits} r,
  /proc/{meminfo,stat,uptime,loadavg,cpuinfo,filesystems} r,
  /proc/sys/** r,
  /sys/kernel/mm/transparent_hugepage/hpage_pmd_size r,
  /dev/{null,urandom} rw,
  /etc/localtime r,
  /usr/share/zoneinfo/** r,
  deny network inet raw,
  deny /etc/shadow rw,
  deny /etc/passwd w,
  deny /proc/1/environ r,`

// Installation is what the profiles of our own processes are made for.
type Installation struct {
	Root                    string // "" for the system's places
	Bin, Etc, Run, Lib, Log string
	Plugins                 []string // directories of network plugins
	Pulls                   []string // files that pulls read beside the usual ones
	Logs                    []string // directories of containers' logs
}

// Suffix tells the profiles of two installations on one machine apart; the
// system's has none.
func (i Installation) Suffix() string {
	if i.Root == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(i.Root))
	return "." + hex.EncodeToString(sum[:4])
}

// Name is the name of a program's profile.
func (i Installation) Name(program string) string { return program + i.Suffix() }

// Programs are those that have a profile.
func Programs() []string {
	var out []string
	for _, m := range regexp.MustCompile(`(?m)^profile (\S+)@\{id\}`).FindAllStringSubmatch(daemons, -1) {
		out = append(out, m[1])
	}
	return out
}

// Text returns the profiles, in AppArmor's language.
func (i Installation) Text() ([]byte, error) {
	rules := func(dirs []string, rights string) (string, error) {
		var b strings.Builder
		for _, d := range dirs {
			q, err := quote(d)
			if err != nil {
				return "", err
			}
			if q = strings.TrimSuffix(q, "/"); q != "" {
				fmt.Fprintf(&b, "  %s %s,\n", q, rights)
			}
			fmt.Fprintf(&b, "  %s/{,**} %s,\n", q, rights)
		}
		return strings.TrimSuffix(b.String(), "\n"), nil
	}
	with := []string{"@{id}", i.Suffix(), "@{common}", common}
	for _, v := range []struct{ key, dir string }{{"@{bin}", i.Bin}, {"@{etc}", i.Etc}, {"@{run}", i.Run}, {"@{lib}", i.Lib}, {"@{log}", i.Log}} {
		q, err := quote(v.dir)
		if err != nil {
			return nil, err
		}
		with = append(with, v.key, q)
	}
	for _, v := range []struct {
		key    string
		dirs   []string
		rights string
	}{{"@{plugins}", i.Plugins, "mrix"}, {"@{pulls}", i.Pulls, "r"}, {"@{logs}", i.Logs, "w"}} {
		r, err := rules(v.dirs, v.rights)
		if err != nil {
			return nil, err
		}
		with = append(with, v.key, r)
	}
	return []byte(strings.NewReplacer(with...).Replace(daemons)), nil
}

// quote makes a path one that means itself in a rule.
func quote(path string) (string, error) {
	if !strings.HasPrefix(path, "/") || strings.ContainsFunc(path, func(r rune) bool { return r <= ' ' || r == '"' || r == '@' || r == '\x7f' }) {
		return "", fmt.Errorf("path %q cannot be written in an AppArmor profile: it has a space, a quotation mark, an @ or a control character", path)
	}
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`, "]", `\]`, "{", `\{`, "}", `\}`, "^", `\^`, ",", `\,`).Replace(path), nil
}
