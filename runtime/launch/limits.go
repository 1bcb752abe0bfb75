//go:build linux && cgo && seccomp

package launch

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/profiles/capability"
)

var limitNumbers = map[string]int{
	"as": unix.RLIMIT_AS, "core": unix.RLIMIT_CORE, "cpu": unix.RLIMIT_CPU, "data": unix.RLIMIT_DATA, "fsize": unix.RLIMIT_FSIZE,
	"locks": unix.RLIMIT_LOCKS, "memlock": unix.RLIMIT_MEMLOCK, "msgqueue": unix.RLIMIT_MSGQUEUE, "nice": unix.RLIMIT_NICE,
	"nofile": unix.RLIMIT_NOFILE, "nproc": unix.RLIMIT_NPROC, "rss": unix.RLIMIT_RSS, "rtprio": unix.RLIMIT_RTPRIO,
	"rttime": unix.RLIMIT_RTTIME, "sigpending": unix.RLIMIT_SIGPENDING, "stack": unix.RLIMIT_STACK,
}

// rlimits sets resource limits. A hard limit above ours needs SYS_RESOURCE: where
// that is missing, ours is the most that can be given.
//
// Where the plan says nothing about open files and core dumps, the container
// gets all of our hard limit, as it does from other runtimes: the soft limits
// here are the daemons' own, for programs that use select(2) and for privileged
// processes that must not be dumped.
func (o *operation) rlimits(cfg *configs.Config) error {
	for _, name := range []string{"nofile", "core"} {
		if slices.ContainsFunc(o.Plan.Rlimits, func(l plan.Rlimit) bool { return l.Name == name }) {
			continue
		}
		var now unix.Rlimit
		if err := unix.Prlimit(0, limitNumbers[name], nil, &now); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		cfg.Rlimits = append(cfg.Rlimits, configs.Rlimit{Type: limitNumbers[name], Soft: now.Max, Hard: now.Max})
	}
	for _, l := range o.Plan.Rlimits {
		number, ok := limitNumbers[l.Name]
		if !ok {
			return fmt.Errorf("unknown limit %q", l.Name)
		}
		soft, hard := l.Soft, l.Hard
		if soft > hard {
			return fmt.Errorf("%s: soft limit %d above hard limit %d", l.Name, soft, hard)
		}
		var now unix.Rlimit
		if err := unix.Prlimit(0, number, nil, &now); err != nil {
			return fmt.Errorf("%s: %w", l.Name, err)
		}
		if most := highest(l.Name, now.Max); hard > most {
			o.note("rlimit %s: lowered from %d to %d, this machine does not permit more", l.Name, hard, most)
			hard, soft = most, min(soft, most)
		}
		cfg.Rlimits = append(cfg.Rlimits, configs.Rlimit{Type: number, Soft: soft, Hard: hard})
	}
	return nil
}

// highest is the most that a hard limit can be. Open files have an end for
// everybody, fs.nr_open.
func highest(name string, now uint64) uint64 {
	if !mayRaise() {
		return now
	}
	if name == "nofile" {
		if b, err := os.ReadFile("/proc/sys/fs/nr_open"); err == nil {
			if n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64); err == nil {
				return max(now, n)
			}
		}
	}
	return unix.RLIM_INFINITY
}

func mayRaise() bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	bit, _ := capability.Parse("SYS_RESOURCE")
	return unix.Capget(&hdr, &data[0]) == nil && data[0].Effective>>bit&1 == 1
}

// rescore changes how likely the kernel kills a container that runs, for all of its
// processes, and returns the score that holds. One that has ended meanwhile needs
// none.
func (o *operation) rescore(processes func() ([]int, error), old *int) (*int, error) {
	want := int(o.Resources.OOMScoreAdj)
	if want == 0 || old != nil && *old == want {
		return old, nil
	}
	if want < -1000 || want > 1000 {
		return old, fmt.Errorf("oom_score_adj %d is not between -1000 and 1000", want)
	}
	held := map[int]*os.Root{} // a number can be another process's by the time it is used: this cannot
	defer func() {
		for _, d := range held {
			d.Close()
		}
	}()
	pids, err := processes()
	if err != nil {
		return old, fmt.Errorf("listing the container's processes: %w", err)
	}
	for _, pid := range pids {
		if d, err := os.OpenRoot(fmt.Sprintf("/proc/%d", pid)); err == nil {
			held[pid] = d
		}
	}
	if pids, err = processes(); err != nil {
		return old, fmt.Errorf("listing the container's processes: %w", err)
	}
	for _, pid := range pids {
		d := held[pid]
		if d == nil {
			continue // born meanwhile
		}
		err := d.WriteFile("oom_score_adj", []byte(strconv.Itoa(want)), 0)
		switch {
		case errors.Is(err, os.ErrPermission):
			o.note("oom_score_adj: left as it was, this machine does not permit %d", want)
			return old, nil
		case err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ESRCH):
			return old, fmt.Errorf("oom_score_adj: %w", err)
		}
	}
	return &want, nil
}

// oomScore sets how likely the kernel kills the container for memory. Going
// below our own value may not be permitted: the kernel decides, by ourselves.
func (o *operation) oomScore(cfg *configs.Config) error {
	const file = "/proc/self/oom_score_adj"
	want := int(o.Plan.Resources.OOMScoreAdj)
	if want < -1000 || want > 1000 {
		return fmt.Errorf("%d is not between -1000 and 1000", want)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	now, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return err
	}
	if want < now {
		if err := os.WriteFile(file, []byte(strconv.Itoa(want)), 0); err != nil {
			o.note("oom_score_adj: raised from %d to %d, this machine does not permit less", want, now)
			want = now
		}
	}
	cfg.OomScoreAdj = &want
	return nil
}
