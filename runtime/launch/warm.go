//go:build linux && cgo && seccomp

package launch

import (
	"os"
	"path"

	"github.com/opencontainers/cgroups"
)

// warm moves this process into the cgroup that it is in already. That does
// nothing, but the first process that enters any cgroup waits for an RCU grace
// period, about 7 ms, and those that come soon after do not: so the wait happens
// while the container is being prepared, and not after. Errors do not matter.
func warm() {
	own, err := cgroups.ParseCgroupFile("/proc/self/cgroup")
	if err != nil {
		return
	}
	dir := path.Join(cgroupRoot, own[""])
	if !cgroups.IsCgroup2UnifiedMode() {
		dir = path.Join(cgroupRoot, "pids", own["pids"])
	}
	f, err := os.OpenFile(path.Join(dir, "cgroup.procs"), os.O_WRONLY, 0)
	if err != nil {
		return
	}
	defer f.Close()
	_, _ = f.WriteString("0")
}
