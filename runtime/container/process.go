package container

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/postern-cri/postern/privsep/plan"
)

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// process fills in arguments, environment and working directory.
func process(p *plan.Plan, in *Input) error {
	c := in.Config
	command, args := c.Command, c.Args
	if len(command) == 0 {
		if len(args) == 0 {
			args = in.Image.Cmd
		}
		command = in.Image.Entrypoint
	}
	p.Args = append(append([]string{}, command...), args...)
	if len(p.Args) == 0 || p.Args[0] == "" {
		return refuse("command", "neither the request nor the image says what to run")
	}
	for _, a := range p.Args {
		if !utf8.ValidString(a) || strings.ContainsRune(a, 0) {
			return refuse("args", "an argument has a NUL or invalid UTF-8")
		}
	}
	if err := environment(p, in); err != nil {
		return err
	}
	cwd, field := c.WorkingDir, "working_dir"
	if cwd == "" {
		cwd, field = in.Image.WorkingDir, "image config WorkingDir"
	}
	if cwd != "" && !path.IsAbs(cwd) {
		cwd = "/" + cwd
	}
	if cwd == "" {
		cwd = "/"
	}
	var err error
	if p.Cwd, err = insidePath(field, cwd); err != nil {
		return err
	}
	// A working directory in /proc can be a descriptor that the runtime holds,
	// and with it a directory of the host (CVE-2024-21626); /dev/fd leads there.
	for _, bad := range []string{"/proc", "/dev/fd"} {
		if p.Cwd == bad || strings.HasPrefix(p.Cwd, bad+"/") {
			return refuse(field, "%q: a working directory cannot be in %s", cwd, bad)
		}
	}
	return nil
}

// environment merges: the image's variables first, the request's over them.
func environment(p *plan.Plan, in *Input) error {
	at := map[string]int{}
	set := func(k, v string) {
		if i, ok := at[k]; ok {
			p.Env[i] = k + "=" + v
			return
		}
		at[k] = len(p.Env)
		p.Env = append(p.Env, k+"="+v)
	}
	set("PATH", strings.TrimPrefix(defaultPath, "PATH="))
	if in.Config.Tty {
		set("TERM", "xterm")
	}
	if in.Pod.Hostname != "" {
		set("HOSTNAME", in.Pod.Hostname)
	}
	for i, e := range in.Image.Env {
		k, v, ok := strings.Cut(e, "=")
		if !ok {
			return refuse(fmt.Sprintf("image config Env[%d]", i), "%q is not NAME=value", e)
		}
		if err := checkEnv("image config Env", k, v); err != nil {
			return err
		}
		set(k, v)
	}
	for _, e := range in.Config.Envs {
		if err := checkEnv("envs", e.GetKey(), string(e.GetValue())); err != nil {
			return err
		}
		set(e.Key, string(e.Value))
	}
	return nil
}

// setEnv sets a variable, in the place of one of its name.
func setEnv(p *plan.Plan, name, value string) {
	i := slices.IndexFunc(p.Env, func(e string) bool { return strings.HasPrefix(e, name+"=") })
	if i < 0 {
		p.Env = append(p.Env, name+"="+value)
		return
	}
	p.Env[i] = name + "=" + value
}

// pastedNames are variables that programs (and other runtimes) paste into
// line-based files such as /etc/passwd: a line break or colon in one was another
// user there (CVE-2022-4318, CVE-2026-15809).
var pastedNames = map[string]bool{"HOME": true, "USER": true, "LOGNAME": true, "SHELL": true, "HOSTNAME": true}

func checkEnv(field, k, v string) error {
	if k == "" || strings.ContainsAny(k, "=\x00") || !utf8.ValidString(k) {
		return refuse(field, "%q is no name of a variable", k)
	}
	if strings.ContainsRune(v, 0) || !utf8.ValidString(v) {
		return refuse(field, "%s has a NUL or invalid UTF-8", k)
	}
	if pastedNames[k] {
		for _, r := range v {
			if r < 0x20 || r == 0x7f || r == ':' || r == 0x85 || r == 0x2028 || r == 0x2029 {
				return refuse(field, "%s has a line break, colon or control character", k)
			}
		}
	}
	return nil
}
