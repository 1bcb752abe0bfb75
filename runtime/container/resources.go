package container

import (
	"math"
	"slices"
	"strings"

	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/runtime/sandbox"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Resources translates cgroup limits; nil is no limit. Errors name the fields
// beneath field.
func Resources(field string, in *cri.LinuxContainerResources) (plan.Resources, error) {
	var r plan.Resources
	if in == nil {
		return r, nil
	}
	field += "."
	for _, f := range []struct {
		name  string
		v     int64
		least int64
	}{
		{"cpu_period", in.CpuPeriod, 0}, {"cpu_quota", in.CpuQuota, -1}, {"cpu_shares", in.CpuShares, 0},
		{"memory_limit_in_bytes", in.MemoryLimitInBytes, -1}, {"memory_swap_limit_in_bytes", in.MemorySwapLimitInBytes, -1},
		{"oom_score_adj", in.OomScoreAdj, -1000},
	} {
		if f.v < f.least {
			return r, refuse(field+f.name, "%d is too small", f.v)
		}
	}
	if in.CpuPeriod != 0 && (in.CpuPeriod < 1000 || in.CpuPeriod > 1000000) {
		return r, refuse(field+"cpu_period", "%d: want 1000 to 1000000 microseconds", in.CpuPeriod)
	}
	if in.CpuQuota > 0 && in.CpuQuota < 1000 {
		return r, refuse(field+"cpu_quota", "%d: want at least 1000 microseconds, or -1 for no limit", in.CpuQuota)
	}
	if in.OomScoreAdj > 1000 {
		return r, refuse(field+"oom_score_adj", "%d is more than 1000", in.OomScoreAdj)
	}
	r.CPUShares, r.CPUQuota, r.CPUPeriod = uint64(in.CpuShares), in.CpuQuota, uint64(in.CpuPeriod)
	r.Memory, r.MemorySwap, r.OOMScoreAdj = in.MemoryLimitInBytes, in.MemorySwapLimitInBytes, int32(in.OomScoreAdj)
	for _, s := range []struct{ name, v string }{{"cpuset_cpus", in.CpusetCpus}, {"cpuset_mems", in.CpusetMems}} {
		if len(s.v) > 1024 || strings.Trim(s.v, "0123456789,-") != "" {
			return r, refuse(field+s.name, "%q is no list of numbers and ranges", s.v)
		}
	}
	r.CPUSetCPUs, r.CPUSetMems = in.CpusetCpus, in.CpusetMems
	for _, h := range in.HugepageLimits {
		if h.GetPageSize() == "" || len(h.PageSize) > 16 || strings.Trim(h.PageSize, "0123456789KMGB") != "" {
			return r, refuse(field+"hugepage_limits", "%q is no page size", h.GetPageSize())
		}
		limit := h.Limit
		if limit > math.MaxInt64 {
			limit = math.MaxInt64
		}
		r.Hugepages = append(r.Hugepages, plan.HugepageLimit{PageSize: h.PageSize, Bytes: limit})
	}
	for k, v := range in.Unified {
		if k == "" || len(k) > 128 || strings.Trim(k, "abcdefghijklmnopqrstuvwxyz0123456789._") != "" || strings.Contains(k, "..") {
			return r, refuse(field+"unified", "%q is no name of a cgroup v2 file", k)
		}
		if len(v) > 1024 || !sandbox.PlainText(v) {
			return r, refuse(field+"unified", "the value of %s has a control character", k)
		}
		r.Unified = append(r.Unified, plan.Unified{Key: k, Value: v})
	}
	slices.SortFunc(r.Unified, func(a, b plan.Unified) int { return strings.Compare(a.Key, b.Key) })
	return r, nil
}
