//go:build linux && cgo && seccomp

package launch

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/systemd"
	"github.com/opencontainers/runc/libcontainer/configs"

	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/spec"
)

// cgroup places the container and limits it.
func (o *operation) cgroup(cfg *configs.Config) error {
	if !path.IsAbs(o.CgroupPath) || path.Clean(o.CgroupPath) != o.CgroupPath || o.CgroupPath == "/" {
		return fmt.Errorf("cgroup path %q is not absolute and clean", o.CgroupPath)
	}
	cfg.Cgroups = cgroupAt(o.CgroupPath, &cgroups.Resources{})
	if c := cfg.Cgroups; c.Systemd {
		// A slice lies where its name says: another path would be a way out of the
		// roots that the ceiling has.
		if at, err := systemd.ExpandSlice(c.Parent); err != nil || at != path.Dir(o.CgroupPath) {
			return fmt.Errorf("cgroup path %q is not where %s lies", o.CgroupPath, c.Parent)
		}
	}
	r := o.Plan.Resources
	if r.PIDs == 0 { // the plan's own was held to the ceiling
		r.PIDs = o.PIDsLimit
	}
	return o.merge(cfg.Cgroups.Resources, &r)
}

// cgroupAt names a cgroup: a scope in a slice is a unit of systemd's, which is
// asked for it.
func cgroupAt(at string, r *cgroups.Resources) *cgroups.Cgroup {
	slice, scope := path.Base(path.Dir(at)), path.Base(at)
	name, ok := strings.CutPrefix(scope, spec.ScopePrefix+"-")
	name, scoped := strings.CutSuffix(name, ".scope")
	if !ok || !scoped || !strings.HasSuffix(slice, ".slice") {
		return &cgroups.Cgroup{Path: at, Resources: r}
	}
	return &cgroups.Cgroup{Parent: slice, ScopePrefix: spec.ScopePrefix, Name: name, Systemd: true, Resources: r}
}

// merge writes the fields of p that say something over r.
func (o *operation) merge(r *cgroups.Resources, p *plan.Resources) error {
	if p.CPUShares != 0 {
		r.CpuShares = p.CPUShares
		r.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(p.CPUShares)
	}
	set(&r.CpuQuota, p.CPUQuota)
	set(&r.CpuPeriod, p.CPUPeriod)
	set(&r.CpusetCpus, p.CPUSetCPUs)
	set(&r.CpusetMems, p.CPUSetMems)
	set(&r.Memory, p.Memory)
	if p.MemorySwap != 0 {
		if swapAccounted() {
			r.MemorySwap = p.MemorySwap
		} else {
			o.note("memory_swap: this kernel does not account swap")
		}
	}
	if p.PIDs != 0 {
		r.PidsLimit = &p.PIDs
	}
	if err := o.hugepages(r, p.Hugepages); err != nil {
		return err
	}
	if len(p.Unified) == 0 {
		return nil
	}
	if !cgroups.IsCgroup2UnifiedMode() {
		return fmt.Errorf("unified %q: this machine has cgroup v1, which has no such values", p.Unified[0].Key)
	}
	if r.Unified == nil {
		r.Unified = map[string]string{}
	}
	for _, u := range p.Unified {
		if u.Key == "" || strings.ContainsAny(u.Key, "/\x00") {
			return fmt.Errorf("unified %q: no name of a cgroup file", u.Key)
		}
		r.Unified[u.Key] = u.Value
	}
	return nil
}

// set copies from where it is not zero.
func set[T comparable](to *T, from T) {
	var zero T
	if from != zero {
		*to = from
	}
}

// hugepages limits each page size. A kubelet sends a limit of 0 for every size of
// the machine with every container: where there is no controller it is void.
func (o *operation) hugepages(r *cgroups.Resources, list []plan.HugepageLimit) error {
	if len(list) == 0 {
		return nil
	}
	if !hugepagesAccounted() {
		for _, h := range list {
			if h.Bytes != 0 {
				o.note("hugepages %s: this machine has no hugetlb controller", h.PageSize)
			}
		}
		return nil
	}
	for _, h := range list {
		if strings.ContainsAny(h.PageSize, "/\x00.") {
			return fmt.Errorf("hugepages: %q is no page size", h.PageSize)
		}
		n := &cgroups.HugepageLimit{Pagesize: h.PageSize, Limit: h.Bytes}
		found := false
		for i, old := range r.HugetlbLimit {
			if old.Pagesize == h.PageSize {
				r.HugetlbLimit[i], found = n, true
			}
		}
		if !found {
			r.HugetlbLimit = append(r.HugetlbLimit, n)
		}
	}
	return nil
}

const cgroupRoot = "/sys/fs/cgroup"

func swapAccounted() bool {
	if !cgroups.IsCgroup2UnifiedMode() {
		return exists(cgroupRoot + "/memory/memory.memsw.limit_in_bytes")
	}
	// The root cgroup has no limits: ask in the one that we are in.
	own, err := cgroups.ParseCgroupFile("/proc/self/cgroup")
	return err == nil && (own[""] == "/" || exists(path.Join(cgroupRoot, own[""], "memory.swap.max")))
}

func hugepagesAccounted() bool {
	if !cgroups.IsCgroup2UnifiedMode() {
		return exists(cgroupRoot + "/hugetlb")
	}
	b, err := os.ReadFile(cgroupRoot + "/cgroup.controllers")
	return err == nil && strings.Contains(string(b), "hugetlb")
}

func exists(p string) bool {
	_, err := os.Lstat(p)
	return err == nil
}

// update changes limits of a container that is there.
func (o *operation) update() error {
	if o.Resources == nil {
		return errors.New("no resources")
	}
	if f, err := o.external(); f != nil || err != nil {
		if err != nil {
			return err
		}
		return f.update()
	}
	c, err := o.container()
	if err != nil {
		return err
	}
	cfg := c.Config()
	// Copies: on a failure libcontainer puts back what it still holds.
	cg := *cfg.Cgroups
	r := *cg.Resources
	r.HugetlbLimit = append([]*cgroups.HugepageLimit(nil), r.HugetlbLimit...)
	if r.Unified != nil {
		m := map[string]string{}
		for k, v := range r.Unified {
			m[k] = v
		}
		r.Unified = m
	}
	if err := o.merge(&r, o.Resources); err != nil {
		return err
	}
	if cfg.OomScoreAdj, err = o.rescore(c.Processes, cfg.OomScoreAdj); err != nil {
		return err
	}
	// Device rules are set once, at create.
	r.SkipDevices = true
	cg.Resources = &r
	cfg.Cgroups = &cg
	return c.Set(cfg)
}
