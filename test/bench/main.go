// Command bench measures two CRI runtimes in one run and prints ours as a ratio
// of the peer's: pod start, pod stop, ExecSync, pulls, parallel starts and
// memory per pod. A ratio below one is faster or smaller than the peer.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type runtimeUnderTest struct {
	name   string
	rt     cri.RuntimeServiceClient
	img    cri.ImageServiceClient
	exes   []string // prefixes of the executables that count as the runtime's memory
	logDir string
	mark   string // in the command line of each of its processes
	parts  map[string]float64
}

func dial(name, sock string, exes []string, logDir string) *runtimeUnderTest {
	c, err := grpc.NewClient("unix://"+sock, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(32<<20)))
	if err != nil {
		log.Fatal(err)
	}
	return &runtimeUnderTest{name: name, rt: cri.NewRuntimeServiceClient(c), img: cri.NewImageServiceClient(c), exes: exes, logDir: logDir}
}

var ctx = context.Background()

func must[T any](v T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return v
}

func check[T any](_ T, err error) {
	if err != nil {
		log.Fatal(err)
	}
}

var serial int

type pod struct {
	id, ctr string
	cfg     *cri.PodSandboxConfig
}

func (r *runtimeUnderTest) config(n int) *cri.PodSandboxConfig {
	uid := fmt.Sprintf("bench-%s-%d", r.name, n)
	dir := filepath.Join(r.logDir, "bench_"+uid+"_"+uid)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		log.Fatal(err)
	}
	return &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: uid, Namespace: "bench", Uid: uid},
		Hostname:     "bench",
		LogDirectory: dir,
		Linux:        &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}}},
	}
}

// start runs one pod with one container and returns it.
func (r *runtimeUnderTest) start(image string, n int) pod {
	cfg := r.config(n)
	p := must(r.rt.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: cfg}))
	c := must(r.rt.CreateContainer(ctx, &cri.CreateContainerRequest{
		PodSandboxId: p.PodSandboxId, SandboxConfig: cfg,
		Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: "c"},
			Image:    &cri.ImageSpec{Image: image},
			Command:  []string{"/bin/sleep", "100000"},
			LogPath:  "c.log",
			Linux: &cri.LinuxContainerConfig{
				Resources:       &cri.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, CpuShares: 102},
				SecurityContext: &cri.LinuxContainerSecurityContext{NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}, Seccomp: &cri.SecurityProfile{}},
			},
		}}))
	check(r.rt.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: c.ContainerId}))
	return pod{p.PodSandboxId, c.ContainerId, cfg}
}

// stop stops the pod: what a user waits for; remove cleans up outside the clock.
func (r *runtimeUnderTest) stop(p pod) {
	check(r.rt.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: p.ctr, Timeout: 0}))
	check(r.rt.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.id}))
}

func (r *runtimeUnderTest) remove(p pod) {
	check(r.rt.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.id}))
}

// pss sums the proportional set size of the runtime's processes, in KiB, and
// keeps it apart by program.
func (r *runtimeUnderTest) pss() float64 {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	total := 0.0
	r.parts = map[string]float64{}
	for _, d := range dirs {
		exe, err := os.Readlink(d + "/exe")
		if err != nil {
			continue
		}
		ours := false
		for _, e := range r.exes {
			ours = ours || strings.HasPrefix(exe, e)
		}
		cmdline, _ := os.ReadFile(d + "/cmdline")
		if !ours || !strings.Contains(string(cmdline), r.mark) {
			continue
		}
		b, _ := os.ReadFile(d + "/smaps_rollup")
		for _, l := range strings.Split(string(b), "\n") {
			if f := strings.Fields(l); len(f) > 1 && f[0] == "Pss:" {
				v, _ := strconv.ParseFloat(f[1], 64)
				total += v
				r.parts[filepath.Base(exe)] += v
			}
		}
	}
	return total
}

var settle = flag.Duration("settle", 35*time.Second, "wait before idle memory is read")

type result struct{ values map[string]float64 }

func p50(d []float64) float64 {
	sort.Float64s(d)
	return d[len(d)/2]
}

func ms(t time.Time) float64 { return float64(time.Since(t).Microseconds()) / 1000 }

func (r *runtimeUnderTest) measure(n int, small string, pulls map[string]string) result {
	v := map[string]float64{}
	pull := func(ref string) float64 {
		t := time.Now()
		check(r.img.PullImage(ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: ref}}))
		return ms(t)
	}
	pull(small)
	for name, ref := range pulls {
		var d []float64
		for range 3 {
			d = append(d, pull(ref))
			check(r.img.RemoveImage(ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: ref}}))
		}
		v["pull of "+name+", p50, ms"] = p50(d)
	}
	r.remove(func() pod { p := r.start(small, 0); r.stop(p); return p }()) // warm
	time.Sleep(*settle)                                                    // until what is started on demand has left again
	v["idle memory (PSS), KiB"] = r.pss()
	idle := r.parts
	var pods []pod
	var starts, stops, execs, stats []float64
	for i := range n {
		serial++
		t := time.Now()
		pods = append(pods, r.start(small, serial+i))
		starts = append(starts, ms(t))
	}
	time.Sleep(time.Second)
	v["memory per pod (PSS), KiB"] = (r.pss() - v["idle memory (PSS), KiB"]) / float64(n)
	for name, kib := range r.parts {
		fmt.Fprintf(os.Stderr, "  %-24s %8.0f KiB idle, %+6.1f KiB a pod\n", name, idle[name], (kib-idle[name])/float64(n))
	}
	for i := range n {
		t := time.Now()
		resp := must(r.rt.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: pods[i].ctr, Cmd: []string{"/bin/true"}, Timeout: 10}))
		if resp.ExitCode != 0 {
			log.Fatalf("%s: exec exited %d", r.name, resp.ExitCode)
		}
		execs = append(execs, ms(t))
	}
	for range 10 {
		t := time.Now()
		check(r.rt.ListContainerStats(ctx, &cri.ListContainerStatsRequest{}))
		stats = append(stats, ms(t))
	}
	for _, p := range pods {
		t := time.Now()
		r.stop(p)
		stops = append(stops, ms(t))
		r.remove(p)
	}
	v["pod start, p50, ms"], v["pod stop, p50, ms"], v["ExecSync, p50, ms"] = p50(starts), p50(stops), p50(execs)
	v["ListContainerStats of all pods, p50, ms"] = p50(stats)
	// Eight at a time.
	var wg sync.WaitGroup
	var mu sync.Mutex
	todo := make(chan int)
	pods = nil
	t := time.Now()
	for range 8 {
		wg.Go(func() {
			for i := range todo {
				p := r.start(small, 10000+i)
				mu.Lock()
				pods = append(pods, p)
				mu.Unlock()
			}
		})
	}
	for i := range 40 {
		todo <- i
	}
	close(todo)
	wg.Wait()
	v["pods started per second, 8 at a time"] = 40 / time.Since(t).Seconds()
	for _, p := range pods {
		r.stop(p)
		r.remove(p)
	}
	return result{v}
}

func main() {
	ours := flag.String("ours", "", "our CRI socket")
	peer := flag.String("peer", "", "the peer's CRI socket")
	oursExe := flag.String("ours-exe", "", "comma-separated prefixes of our executables")
	peerExe := flag.String("peer-exe", "", "comma-separated prefixes of the peer's executables")
	logs := flag.String("logs", "", "directory for container logs, allowed by our ceiling")
	n := flag.Int("pods", 30, "pods")
	registry := flag.String("registry", "", "host:port of the registry with the images demo/signed, bench/layers, bench/files")
	only := flag.String("only", "", "measure only ours or peer")
	flag.Parse()
	pulls := map[string]string{"10 layers, 100 MB": *registry + "/bench/layers:1", "30,000 small files": *registry + "/bench/files:1"}
	small := *registry + "/demo/signed:1"
	postern := dial("postern", *ours, strings.Split(*oursExe, ","), *logs)
	postern.mark = filepath.Dir(filepath.Dir(*ours)) // the tree's root: another tree may run beside
	var results []result
	for _, r := range []*runtimeUnderTest{postern, dial("containerd", *peer, strings.Split(*peerExe, ","), *logs)} {
		if *only != "" && (*only == "ours") != (r.name == "postern") {
			results = append(results, result{map[string]float64{}})
			continue
		}
		fmt.Fprintf(os.Stderr, "measuring %s\n", r.name)
		results = append(results, r.measure(*n, small, pulls))
	}
	rows := []struct{ name, budget string }{
		{"pod start, p50, ms", "0.4"}, {"pod stop, p50, ms", ""}, {"ExecSync, p50, ms", "0.4"},
		{"pods started per second, 8 at a time", "2.5 (more is better)"},
		{"pull of 10 layers, 100 MB, p50, ms", "0.8"}, {"pull of 30,000 small files, p50, ms", "0.05"},
		{"ListContainerStats of all pods, p50, ms", ""},
		{"idle memory (PSS), KiB", "61440 KiB in all"}, {"memory per pod (PSS), KiB", "100 KiB"},
	}
	fmt.Println("| what | postern | containerd | ratio | budget |\n|---|---|---|---|---|")
	for _, row := range rows {
		a, b := results[0].values[row.name], results[1].values[row.name]
		fmt.Printf("| %s | %.1f | %.1f | %.3f | %s |\n", row.name, a, b, a/b, row.budget)
	}
}
