package tree

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Stand waits in the foreground for the tree, passes signals on to it, and
// leaves when it ends or when only containers are left of it. The tree itself
// must not leave then: it is the parent of the containers and holds their logs.
// pid is the tree's, if it runs already. extra are fds that it inherits.
func Stand(args []string, config string, pid int, extra ...uintptr) (int, error) {
	cfg, err := Load(config)
	if err != nil {
		return 1, err
	}
	got := make(chan os.Signal, 16)
	signal.Notify(got, unix.SIGTERM, unix.SIGINT, unix.SIGUSR2)
	if child := pid == 0; child {
		pid, err = syscall.ForkExec(args[0], args, &syscall.ProcAttr{Env: []string{},
			Files: append([]uintptr{0, 1, 2}, extra...), Sys: &syscall.SysProcAttr{Setsid: true}})
		if err != nil {
			return 1, fmt.Errorf("starting %s: %w", args[0], err)
		}
	} else if err := unix.Kill(pid, unix.SIGUSR2); err != nil {
		return 1, fmt.Errorf("waking process %d: %w", pid, err)
	}
	var ws unix.WaitStatus
	tick := time.NewTicker(200 * time.Millisecond) // nothing below leaves garbage: this waits for months
	for asked := false; ; {
		if done, _ := unix.Wait4(-1, &ws, unix.WNOHANG, nil); done == pid {
			return ws.ExitStatus(), nil
		}
		if unix.Kill(pid, 0) != nil {
			return 0, nil
		}
		select {
		case s := <-got:
			asked = s != unix.SIGUSR2
			unix.Kill(pid, s.(syscall.Signal))
		case <-tick.C:
			if !asked {
				continue
			}
			if _, err := os.Stat(cfg.Parked); err == nil {
				return 0, nil
			}
		}
	}
}
