//go:build linux && cgo && seccomp

package launch

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/runc/libcontainer"
)

// exec starts a process in a container that is there, as what the container's
// first process was: user, groups, capabilities, filters and environment are the
// container's, and the request can name none of them.
func (o *operation) exec() error {
	if o.Exec == nil || len(o.Exec.Args) == 0 || o.Exec.Args[0] == "" {
		return errors.New("nothing to run")
	}
	if f, err := o.external(); f != nil || err != nil {
		if err != nil {
			return err
		}
		return f.exec()
	}
	c, err := o.container()
	if err != nil {
		return err
	}
	saved, err := loadProcess(c.Config().Labels)
	if err != nil {
		return err
	}
	p := saved.process(o.Exec.Args)
	if o.Exec.TTY {
		p.Env = withTerm(p.Env)
	}
	o.stdio(p, o.Exec.TTY)
	if err := c.Start(p); err != nil {
		if e := o.running(c); e != nil {
			return fmt.Errorf("%w: %w", e, err)
		}
		return err
	}
	o.result.PID, err = p.Pid()
	return err
}

// withTerm gives an environment that names no terminal one.
func withTerm(env []string) []string {
	if slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, "TERM=") }) {
		return env
	}
	return append(slices.Clone(env), "TERM=xterm")
}

// container loads the container, which must be there and run.
func (o *operation) container() (*libcontainer.Container, error) {
	c, err := libcontainer.Load(o.StateDir, o.ID)
	if errors.Is(err, libcontainer.ErrNotExist) {
		o.result.Exited = true
		return nil, errors.New("container is not there")
	}
	if err != nil {
		return nil, err
	}
	return c, o.running(c)
}

// running reports that the container has gone as what it is, because the client
// is told so and does not try again.
func (o *operation) running(c *libcontainer.Container) error {
	st, err := c.Status()
	if err == nil && st == libcontainer.Stopped {
		o.result.Exited = true
		return errors.New("container has exited")
	}
	return err
}
