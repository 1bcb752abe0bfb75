// Command bench measures two CRI runtimes in one run and prints ours as a ratio
// of the peer's: pod start, pod stop, ExecSync, pulls, parallel starts and
// memory per pod. A ratio below one is faster or smaller than the peer.
//
// The two take turns, so that what else the machine does falls on both: ten
// samples at a time, so that what a runtime still does after an answer falls on
// its own next call. Beside each ratio stands its 95 % interval, by resampling
// the samples (the percentile bootstrap).
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
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
	values map[string][]float64 // samples by what was measured
}

func dial(name, sock string, exes []string, logDir string) *runtimeUnderTest {
	c, err := grpc.NewClient("unix://"+sock, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(32<<20)))
	if err != nil {
		log.Fatal(err)
	}
	return &runtimeUnderTest{name: name, rt: cri.NewRuntimeServiceClient(c), img: cri.NewImageServiceClient(c), exes: exes, logDir: logDir, values: map[string][]float64{}}
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

func p50(d []float64) float64 {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2]
}

// interval returns the bounds of the ratio of two medians.
func interval(a, b []float64) (low, high float64) {
	rng := rand.New(rand.NewPCG(1, 2)) // the same each time: a run's figures can be made again from its samples
	again := func(d []float64) float64 {
		e := make([]float64, len(d))
		for i := range e {
			e[i] = d[rng.IntN(len(d))]
		}
		return p50(e)
	}
	ratios := make([]float64, 2000)
	for i := range ratios {
		ratios[i] = again(a) / again(b)
	}
	slices.Sort(ratios)
	return ratios[len(ratios)*25/1000], ratios[len(ratios)*975/1000]
}

// timed adds the milliseconds that f takes to the samples of what.
func (r *runtimeUnderTest) timed(what string, f func()) {
	t := time.Now()
	f()
	r.add(what, float64(time.Since(t).Microseconds())/1000)
}

func (r *runtimeUnderTest) add(what string, v float64) { r.values[what] = append(r.values[what], v) }

const (
	podStart = "pod start, p50, ms"
	podStop  = "pod stop, p50, ms"
	execSync = "ExecSync, p50, ms"
	stats    = "ListContainerStats of all pods, p50, ms"
	parallel = "pods started per second, 8 at a time"
	layers   = "pull of 10 layers, 100 MB, p50, ms"
	files    = "pull of 30,000 small files, p50, ms"
	idle     = "idle memory (PSS), KiB"
	perPod   = "memory per pod (PSS), KiB"

	batch    = 10 // samples that a runtime takes in its turn
	together = 40 // pods that are started eight at a time
)

func (r *runtimeUnderTest) pull(what, ref string) {
	r.timed(what, func() {
		check(r.img.PullImage(ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: ref}}))
	})
	check(r.img.RemoveImage(ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: ref}}))
}

func (r *runtimeUnderTest) exec(p pod) {
	resp := must(r.rt.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: p.ctr, Cmd: []string{"/bin/true"}, Timeout: 10}))
	if resp.ExitCode != 0 {
		log.Fatalf("%s: exec exited %d", r.name, resp.ExitCode)
	}
}

// parallel starts pods eight at a time, and takes them away.
func (r *runtimeUnderTest) parallel(image string, first int) {
	var wg sync.WaitGroup
	todo, pods := make(chan int), make([]pod, together)
	t := time.Now()
	for range 8 {
		wg.Go(func() {
			for i := range todo {
				pods[i] = r.start(image, first+i)
			}
		})
	}
	for i := range together {
		todo <- i
	}
	close(todo)
	wg.Wait()
	r.add(parallel, together/time.Since(t).Seconds())
	for _, p := range pods {
		r.stop(p)
		r.remove(p)
	}
}

// measure takes all samples, of the runtimes in turn.
func measure(both []*runtimeUnderTest, n, rounds int, image, registry string) {
	turns := func(times int, f func(r *runtimeUnderTest, i int)) {
		for first := 0; first < times; first += batch {
			for _, r := range both {
				for i := first; i < min(first+batch, times); i++ {
					f(r, i)
				}
				time.Sleep(200 * time.Millisecond) // and no more of it falls on the other
			}
		}
	}
	say := func(what string) { fmt.Fprintln(os.Stderr, "measuring", what) }
	say("pulls")
	for range rounds {
		turns(2, func(r *runtimeUnderTest, _ int) { r.pull(layers, registry+"/bench/layers:1") })
		turns(1, func(r *runtimeUnderTest, _ int) { r.pull(files, registry+"/bench/files:1") })
	}
	turns(1, func(r *runtimeUnderTest, _ int) {
		check(r.img.PullImage(ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: image}}))
		p := r.start(image, 0) // warm
		r.stop(p)
		r.remove(p)
	})
	say("idle memory")
	time.Sleep(*settle) // until what is started on demand has left again
	turns(1, func(r *runtimeUnderTest, _ int) { r.add(idle, r.pss()) })

	say("pods, one at a time")
	pods := map[*runtimeUnderTest][]pod{}
	turns(n, func(r *runtimeUnderTest, i int) {
		r.timed(podStart, func() { pods[r] = append(pods[r], r.start(image, 1+i)) })
	})
	time.Sleep(time.Second)
	turns(1, func(r *runtimeUnderTest, _ int) {
		before := r.parts
		r.add(perPod, (r.pss()-r.values[idle][0])/float64(n))
		for name, kib := range r.parts {
			fmt.Fprintf(os.Stderr, "  %-24s %8.0f KiB idle, %+6.1f KiB a pod\n", name, before[name], (kib-before[name])/float64(n))
		}
	})
	turns(n*rounds, func(r *runtimeUnderTest, i int) { r.timed(execSync, func() { r.exec(pods[r][i%n]) }) })
	turns(30, func(r *runtimeUnderTest, _ int) {
		r.timed(stats, func() { check(r.rt.ListContainerStats(ctx, &cri.ListContainerStatsRequest{})) })
	})
	turns(n, func(r *runtimeUnderTest, i int) {
		r.timed(podStop, func() { r.stop(pods[r][i]) })
		r.remove(pods[r][i])
	})
	say("pods, eight at a time")
	for i := range rounds {
		turns(1, func(r *runtimeUnderTest, _ int) { r.parallel(image, 10000+i*together) })
	}
}

func main() {
	ours := flag.String("ours", "", "our CRI socket")
	peer := flag.String("peer", "", "the peer's CRI socket")
	oursExe := flag.String("ours-exe", "", "comma-separated prefixes of our executables")
	peerExe := flag.String("peer-exe", "", "comma-separated prefixes of the peer's executables")
	peerName := flag.String("peer-name", "containerd", "what the peer is called in the table")
	logs := flag.String("logs", "", "directory for container logs, allowed by our ceiling")
	n := flag.Int("pods", 30, "pods")
	rounds := flag.Int("rounds", 3, "how often what is not measured per pod is measured")
	registry := flag.String("registry", "", "host:port of the registry with the images demo/signed, bench/layers, bench/files")
	flag.Parse()
	both := []*runtimeUnderTest{
		dial("postern", *ours, strings.Split(*oursExe, ","), *logs),
		dial(*peerName, *peer, strings.Split(*peerExe, ","), *logs),
	}
	both[0].mark = filepath.Dir(filepath.Dir(*ours)) // the tree's root: another tree may run beside
	if *peerName != "containerd" {
		both[1].mark = filepath.Dir(filepath.Dir(*peer))
	}
	measure(both, *n, *rounds, *registry+"/demo/signed:1", *registry)
	rows := []struct{ name, budget string }{
		{podStart, "0.4"}, {podStop, ""}, {execSync, "0.4"}, {parallel, "2.5 (more is better)"}, {layers, "0.8"}, {files, "0.05"}, {stats, ""},
		{idle, "61440 KiB in all"}, {perPod, "100 KiB"},
	}
	fmt.Printf("| what | postern | %s | ratio | 95 %% of it | samples | budget |\n|---|---|---|---|---|---|---|\n", *peerName)
	for _, row := range rows {
		a, b := both[0].values[row.name], both[1].values[row.name]
		low, high := interval(a, b)
		fmt.Printf("| %s | %.1f | %.1f | %.3f | %.3f to %.3f | %d | %s |\n", row.name, p50(a), p50(b), p50(a)/p50(b), low, high, len(a), row.budget)
	}
}
