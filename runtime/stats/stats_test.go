package stats

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestVersion1(t *testing.T) {
	c := New(tree(t, map[string]string{
		"cpuacct/pods/a/cpuacct.usage":                           "12345\n",
		"memory/pods/a/memory.usage_in_bytes":                    "1000\n",
		"memory/pods/a/memory.limit_in_bytes":                    "9223372036854771712\n",
		"memory/pods/a/memory.stat":                              "rss 1\ntotal_rss 400\ntotal_inactive_file 300\ntotal_pgfault 7\ntotal_pgmajfault 2\n",
		"memory/pods/a/memory.memsw.usage_in_bytes":              "1500\n",
		"memory/pods/a/memory.oom_control":                       "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
		"cpuacct/pods/a/cpuacct.usage_user":                      "5\n",
		"cpuacct/pods/a/cpuacct.usage_sys":                       "6\n",
		"cpu/pods/a/cpu.stat":                                    "nr_periods 4\nnr_throttled 2\nthrottled_time 77\nnr_bursts 1\nburst_time 8\n",
		"memory/pods/a/memory.failcnt":                           "9\n",
		"memory/pods/a/memory.max_usage_in_bytes":                "1200\n",
		"pids/pods/a/pids.current":                               "3\n",
		"pids/pods/a/pids.max":                                   "9\n",
		"pids/pods/a/cgroup.procs":                               "100\n101\n",
		"blkio/pods/a/blkio.throttle.io_service_bytes_recursive": "8:0 Read 10\n8:0 Write 20\n8:0 Sync 5\n8:0 Total 30\n8:16 Read 5\nTotal 35\n",
		"blkio/pods/a/blkio.throttle.io_serviced_recursive":      "8:0 Read 1\n8:0 Write 2\nTotal 3\n",
	}))
	u, err := c.AllCPU("/pods/a")
	if d := cmp.Diff(CPU{UsageNanos: 12345, UserNanos: 5, SystemNanos: 6, Periods: 4, ThrottledPeriods: 2, ThrottledNanos: 77, BurstPeriods: 1, BurstNanos: 8}, u); err != nil || d != "" {
		t.Error(err, d)
	}
	m, err := c.AllMemory("pods/a")
	want := Memory{Usage: 1000, WorkingSet: 700, RSS: 400, InactiveFile: 300, PageFaults: 7, MajorFaults: 2, Peak: 1200, Failures: 9, SwapUsage: 500, HasSwap: true}
	if d := cmp.Diff(want, m); err != nil || d != "" {
		t.Error(err, d)
	}
	// What is asked for often reads few files.
	if u, err := c.CPU("/pods/a"); err != nil || u != (CPU{UsageNanos: 12345}) {
		t.Error(u, err)
	}
	want.Peak, want.Failures = 0, 0
	if m, err := c.Memory("pods/a"); err != nil || m != want {
		t.Error(m, err)
	}
	if n, limit, err := c.Tasks("pods/a"); n != 3 || limit != 9 || err != nil {
		t.Error(n, limit, err)
	}
	if n, err := c.Processes("pods/a"); n != 2 || err != nil {
		t.Error(n, err)
	}
	if d := cmp.Diff([]Disk{{"8:0", 10, 20, 1, 2}, {"8:16", 5, 0, 0, 0}}, c.Disks("pods/a")); d != "" {
		t.Error(d)
	}
	if !c.OOMKilled("pods/a") || c.OOMKilled("pods/b") {
		t.Error("out-of-memory kill")
	}
	for _, bad := range []string{"", "../x", "/pods/../../x"} {
		if _, err := c.CPU(bad); err == nil {
			t.Errorf("cgroup %q was read", bad)
		}
	}
}

func TestVersion2(t *testing.T) {
	c := New(tree(t, map[string]string{
		"cgroup.controllers":    "cpu memory\n",
		"a/cpu.stat":            "usage_usec 12\nuser_usec 5\nnr_throttled 3\nthrottled_usec 2\n",
		"a/io.stat":             "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n8:16 \n",
		"a/io.pressure":         "some avg10=0.00 avg60=0.00 avg300=0.00 total=9\n",
		"a/pids.current":        "3\n",
		"a/pids.max":            "max\n",
		"a/cpu.pressure":        "some avg10=1.50 avg60=0.00 avg300=0.25 total=7\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1\n",
		"a/memory.current":      "1000\n",
		"a/memory.max":          "max\n",
		"a/memory.stat":         "anon 400\ninactive_file 3000\npgfault 7\npgmajfault 2\n",
		"a/memory.swap.current": "5\n",
		"a/memory.events":       "high 1\nmax 4\noom 0\noom_kill 0\n",
	}))
	u, err := c.CPU("a")
	want := CPU{UsageNanos: 12000, UserNanos: 5000, ThrottledPeriods: 3, ThrottledNanos: 2000, Some: &Pressure{1.5, 0, 0.25, 7000}, Full: &Pressure{0, 0, 0, 1000}}
	if d := cmp.Diff(want, u); err != nil || d != "" {
		t.Error(err, d)
	}
	m, err := c.AllMemory("a")
	if d := cmp.Diff(Memory{Usage: 1000, RSS: 400, InactiveFile: 3000, PageFaults: 7, MajorFaults: 2, Failures: 4, High: 1, SwapUsage: 5, HasSwap: true}, m); err != nil || d != "" {
		t.Error(err, d)
	}
	if c.OOMKilled("a") {
		t.Error("not killed")
	}
	if d := cmp.Diff([]Disk{{"8:0", 10, 20, 1, 2}}, c.Disks("a")); d != "" {
		t.Error(d)
	}
	if some, full := c.IO("a"); full != nil || some == nil || some.TotalNanos != 9000 {
		t.Error(some, full)
	}
	if n, limit, err := c.Tasks("a"); n != 3 || limit != 0 || err != nil {
		t.Error(n, limit, err)
	}
}

func TestNetDev(t *testing.T) {
	got, err := NetDev(strings.NewReader(`Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
  eth0: 2000 20 1 4 0 0 0 0 3000 30 2 5 0 0 0 0
`))
	if d := cmp.Diff([]Interface{{Name: "eth0", RxBytes: 2000, RxPackets: 20, RxErrors: 1, RxDropped: 4, TxBytes: 3000, TxPackets: 30, TxErrors: 2, TxDropped: 5}}, got); err != nil || d != "" {
		t.Error(err, d)
	}
	if _, err := NetDev(strings.NewReader("eth0: 1 2\n")); err == nil {
		t.Error("a short line passed")
	}
}

func FuzzNetDev(f *testing.F) {
	f.Add("eth0: 2000 20 1 0 0 0 0 0 3000 30 2 0 0 0 0 0\n")
	f.Fuzz(func(t *testing.T, s string) { NetDev(strings.NewReader(s)) })
}
