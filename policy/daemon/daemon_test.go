package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/policy/facts"
	"github.com/postern-cri/postern/policy/input"
	"github.com/postern-cri/postern/policy/rego"
	"github.com/postern-cri/postern/privsep/gate"
	"github.com/postern-cri/postern/privsep/layout"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/seqpacket"
)

func users() layout.Users {
	id := func(n uint32) layout.ID { return layout.ID{UID: n, GID: n} }
	return layout.Users{Front: id(61001), Stream: id(61002), Log: id(61003), Policy: id(61004),
		Fetch: id(61005), Verify: id(61006), Convert: id(61007), Audit: id(61008)}
}

func TestPeers(t *testing.T) {
	p := Peers(users())
	for uid, want := range map[uint32]string{0: "helper", 61001: "front", 61002: "stream", 61005: "fetch",
		61003: "", 61004: "", 61006: "", 61007: "", 61008: "", 1000: ""} {
		if role, ok := p(&unix.Ucred{Uid: uid}); role != want || ok != (want != "") {
			t.Errorf("uid %d is %q", uid, role)
		}
	}
}

type fakeAudit struct {
	mu      sync.Mutex
	entries []entry
}

func (f *fakeAudit) Commit(_ context.Context, s gate.Stage, b []byte, _ bool) (uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.entries = append(f.entries, entry{s, b})
	return 1, nil
}

// TestWhatIsRecorded: the document in the record has the hash that the asker got.
func TestWhatIsRecorded(t *testing.T) {
	a := &fakeAudit{}
	s := newServer(a, []byte(strings.Repeat("k", 32)))
	dir := t.TempDir()
	install(t, dir, "baseline")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go s.record(ctx)
	s.watch(ctx, dir)
	d := s.decide("helper", create(t, true))
	if d.Allow || d.Rule != "IMG-RECORD" && d.Rule != "PSS-B-PRIV" || d.More == 0 {
		t.Fatalf("%+v", d)
	}
	s.decide("front", gate.Question{Method: "ListContainers"}) // is not recorded
	var got []entry
	for range 200 {
		a.mu.Lock()
		got = slices.Clone(a.entries)
		a.mu.Unlock()
		if len(got) == 2 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if len(got) != 2 || got[0].stage != gate.StageEvent || got[1].stage != gate.StageInput {
		t.Fatalf("recorded %d entries", len(got))
	}
	var rec struct {
		Input    json.RawMessage
		Decision struct{ ID string }
	}
	if err := json.Unmarshal(got[1].payload, &rec); err != nil {
		t.Fatal(err)
	}
	if input.Sum(rec.Input) != d.InputSHA256 || rec.Decision.ID != d.ID {
		t.Errorf("the record holds another document than was judged: %s", got[1].payload)
	}
	if len(got[1].payload) > 64<<10 || strings.Contains(string(got[1].payload), "hunter2") {
		t.Errorf("record: %s", got[1].payload)
	}
}

func install(t testing.TB, dir, profile string) {
	t.Helper()
	files, _ := rego.Pack(profile)
	for n, b := range files {
		if err := os.WriteFile(filepath.Join(dir, n), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func create(t testing.TB, privileged bool) gate.Question {
	t.Helper()
	pod, err := plan.EncodePod(plan.PodPlan{Class: plan.Baseline, UID: "u", Hostname: "h", Network: plan.NamespacePod,
		PID: plan.NamespaceContainer, IPC: plan.NamespacePod,
		CgroupParent: plan.Place{Root: plan.RootCgroup, Name: "kubepods"}, Logs: plan.Place{Root: plan.RootLog, Name: "pods"}})
	if err != nil {
		t.Fatal(err)
	}
	prof := plan.Profile{Kind: plan.ProfileRuntimeDefault}
	p := plan.Plan{Class: plan.Baseline, Image: "sha256:" + strings.Repeat("1", 64), Args: []string{"/x", "--password=hunter2<&>"}, Cwd: "/",
		PID: plan.NamespaceContainer, Seccomp: prof, AppArmor: prof, Privileged: privileged,
		MaskedPaths: []string{"/proc/kcore", "/proc/keys", "/proc/timer_list"}, ReadOnlyPaths: []string{"/proc/sys"}}
	for i := range 30 {
		p.Env = append(p.Env, fmt.Sprintf("VARIABLE_%d=value %d", i, i))
	}
	ctr, err := plan.EncodeContainer(p)
	if err != nil {
		t.Fatal(err)
	}
	return gate.Question{Method: "CreateContainer", Class: gate.ClassCreate, Sections: []gate.Section{
		{Kind: gate.SectionPodPlan, Data: pod}, {Kind: gate.SectionPlan, Data: ctr}}}
}

// start runs the real, confined binary on a listener of ours.
func start(t testing.TB, profile string) (*gate.Policy, int, string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: starts postern-policyd, which drops to its own uid")
	}
	root, err := os.MkdirTemp("", "policyd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	if err := os.Chmod(root, 0o711); err != nil {
		t.Fatal(err)
	}
	l := layout.New(root)
	for _, d := range []string{l.Policy(), filepath.Join(l.Run, "sock"), l.PolicyState()} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	u := users()
	if err := os.Chown(l.PolicyState(), int(u.Policy.UID), int(u.Policy.GID)); err != nil {
		t.Fatal(err)
	}
	if err := layout.WriteUsers(l.UsersFile(), u); err != nil {
		t.Fatal(err)
	}
	install(t, l.Policy(), profile)
	bin := filepath.Join(root, "postern-policyd")
	build := exec.Command("go", "build", "-trimpath", "-o", bin, "github.com/postern-cri/postern/cmd/postern-policyd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	fd, err := seqpacket.Listen(l.PolicySocket())
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "listener")
	defer f.Close()
	cmd := exec.Command(bin, "--root", root)
	cmd.ExtraFiles, cmd.Stderr, cmd.Env = []*os.File{f}, os.Stderr, []string{}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return gate.NewPolicy(l.PolicySocket()), cmd.Process.Pid, root
}

// TestConfinedDaemon is the daemon as it is run: another uid, Landlock, seccomp.
func TestConfinedDaemon(t *testing.T) {
	p, pid, root := start(t, "restricted")
	ctx := context.Background()
	d, err := p.Decide(ctx, create(t, true))
	if err != nil {
		t.Fatal(err)
	}
	if d.Allow || d.Rule == "" || d.Rule == "POLICY_ERROR" || len(d.ID) != 26 {
		t.Errorf("%+v", d)
	}
	f, err := facts.Encode(facts.Facts{Image: &facts.Image{Requested: "registry.example.com/a:1"}})
	if err != nil {
		t.Fatal(err)
	}
	d, err = p.Decide(ctx, gate.Question{Method: "PullImage", Class: gate.ClassImage, Sections: []gate.Section{{Kind: gate.SectionFacts, Data: f}}})
	if err != nil || !d.Allow {
		t.Errorf("%+v %v", d, err)
	}
	// A new policy is taken while it runs; a broken one is not.
	dir := layout.New(root).Policy()
	if err := os.WriteFile(filepath.Join(dir, "site.rego"), []byte("package postern.packs.site\nx :="), 0o644); err != nil {
		t.Fatal(err)
	}
	time.Sleep(5 * time.Second)
	if again, err := p.Decide(ctx, gate.Question{Method: "Version", Class: gate.ClassRead}); err != nil || !again.Allow || again.Revision != d.Revision {
		t.Errorf("after a broken policy: %+v %v", again, err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Uid:\t61004\t61004\t61004\t61004", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("not confined: no %q", want)
		}
	}
	t.Logf("after %d questions: %s", 3, memory(t, pid))
}

func memory(t testing.TB, pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return err.Error()
	}
	var out []string
	for _, line := range strings.Split(string(b), "\n") {
		for _, k := range []string{"Rss:", "Pss:", "Pss_Anon:", "Pss_File:"} {
			if strings.HasPrefix(line, k) {
				out = append(out, strings.Join(strings.Fields(line), " "))
			}
		}
	}
	return strings.Join(out, ", ")
}

// BenchmarkRoundTrip is what an asker waits: memfd, socket, decision, answer.
func BenchmarkRoundTrip(b *testing.B) {
	p, pid, _ := start(b, "restricted")
	q := create(b, false)
	if _, err := p.Decide(context.Background(), q); err != nil {
		b.Fatal(err)
	}
	idle := memory(b, pid)
	var took []time.Duration
	for b.Loop() {
		begin := time.Now()
		if _, err := p.Decide(context.Background(), q); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
	b.Logf("idle %s; under load %s", idle, memory(b, pid))
}
