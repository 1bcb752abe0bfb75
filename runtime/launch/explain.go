//go:build linux && cgo && seccomp

package launch

import (
	"regexp"
	"strings"
)

// mistakes are errors whose cause is the request: which field, and what would
// help. Libcontainer and the kernel speak of files of this machine, which whoever
// wrote the request can neither see nor mend.
var mistakes = []struct {
	what          *regexp.Regexp
	field, remedy string
}{
	{regexp.MustCompile(`exec: ".*?(executable file not found in \$PATH|no such file or directory)`), "command", "name a program that the image has"},
	{regexp.MustCompile("executable file `[^`]*` not found in \\$PATH"), "command", "name a program that the image has"}, // crun's word for it
	{regexp.MustCompile(`exec: ".*?(permission denied|is a directory|exec format error)`), "command", "name a program that the user may execute"},
	{regexp.MustCompile(`seccomp: profile .*`), "seccomp", "put the profile into the directory that seccomp_dir of ceiling.toml names, or use RuntimeDefault"},
	{regexp.MustCompile(`apparmor: profile .*`), "apparmor", "load the profile on this machine, or use RuntimeDefault"},
	{regexp.MustCompile(`unable to set memory limit to \d+`), "resources.memory_limit_in_bytes", "raise the limit: what runs already needs more"},
	{regexp.MustCompile(`failed to write "[^"]*": write \S*cpuset\.cpus`), "resources.cpuset_cpus", "name processors that this machine has"},
	{regexp.MustCompile(`failed to write "[^"]*": write \S*cpuset\.mems`), "resources.cpuset_mems", "name memory nodes that this machine has"},
	{regexp.MustCompile(`failed to write "[^"]*": write \S*cpu\.(cfs_\w+|max)`), "resources.cpu_quota", "a period is 1000 to 1000000 microseconds, a quota at least 1000"},
	{regexp.MustCompile(`failed to write "[^"]*": write \S*(hugetlb)`), "resources.hugepage_limits", "name page sizes that this machine has"},
}

// mistake says whose fault err is: where it is the request's, field is not empty
// and text is what its author needs to know.
func mistake(err error) (field, text, remedy string) {
	all := err.Error()
	for _, m := range mistakes {
		t := m.what.FindString(all)
		if t == "" {
			continue
		}
		if value, rest, ok := strings.Cut(t, ": write /"); ok && rest != "" {
			// The path is this machine's; the kernel's word behind it says why.
			t = strings.TrimPrefix(value, "failed to write ") + all[strings.LastIndex(all, ": "):]
		}
		return m.field, strings.TrimPrefix(t, m.field+": "), m.remedy
	}
	return "", "", ""
}
