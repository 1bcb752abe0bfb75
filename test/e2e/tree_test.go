// Package e2e runs the whole process tree as an operator would, in a mount and a
// network namespace of its own, and drives it through CRI. make build and the
// registry of test/cmd/registry must be there: make test sees to it.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const inside = "POSTERN_E2E_INSIDE"

var bin string // the build's bin directory

// slow multiplies every time limit: POSTERN_SLOW=15 in an emulated machine.
var slow = 1

// limit is a time limit that holds on an ordinary machine.
func limit(d time.Duration) time.Duration { return d * time.Duration(slow) }

// patience is how long a test waits at least for what an idle machine does at once:
// others may use this one, too.
const patience = time.Minute

func TestMain(m *testing.M) {
	var err error
	if bin, err = filepath.Abs("../../bin"); err != nil {
		panic(err)
	}
	if v := os.Getenv("POSTERN_SLOW"); v != "" {
		if slow, err = strconv.Atoi(v); err != nil || slow < 1 {
			panic("POSTERN_SLOW must be a number from 1 on")
		}
	}
	if os.Getuid() != 0 || os.Getenv(inside) != "" {
		if os.Getenv(inside) != "" {
			if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "bringing loopback up: %v: %s\n", err, out)
				os.Exit(1)
			}
		}
		os.Exit(m.Run())
	}
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET}
	if err := cmd.Run(); err != nil {
		if cmd.ProcessState == nil {
			fmt.Fprintln(os.Stderr, "entering the test's namespaces:", err)
		}
		os.Exit(1)
	}
}

// tree is one running installation.
type tree struct {
	t      *testing.T
	root   string
	reg    string // host:port of the registry
	regDir string
	regCmd *exec.Cmd
	logs   string
	cmd    *exec.Cmd
	out    *bytes.Buffer
	conn   *grpc.ClientConn
	rt     cri.RuntimeServiceClient
	img    cri.ImageServiceClient
}

func ctx(t *testing.T) context.Context {
	c, cancel := context.WithTimeout(t.Context(), limit(2*patience))
	t.Cleanup(cancel)
	return c
}

// startTree starts a registry and postern up with profile; extra is added to the
// configuration file.
func startTree(t *testing.T, profile, extra string) *tree {
	t.Helper()
	tr := plantTree(t, profile, extra)
	tr.up(profile)
	t.Cleanup(func() { tr.down() })
	return tr
}

// plantTree is startTree before postern up.
func plantTree(t *testing.T, profile, extra string) *tree {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: namespaces, cgroups, mounts")
	}
	for _, b := range []string{"postern", "posternd", "test/registry"} {
		if _, err := os.Stat(filepath.Join(bin, b)); err != nil {
			t.Fatalf("%s is not built: run make build, then make test (%v)", b, err)
		}
	}
	dir, err := os.MkdirTemp("/tmp", "postern-e2e.")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	tr := &tree{t: t, root: filepath.Join(dir, "p"), regDir: filepath.Join(dir, "registry"), logs: fmt.Sprintf("/var/log/pods/postern-e2e.%d.%s", os.Getpid(), filepath.Base(dir))}
	reg := exec.Command(filepath.Join(bin, "test/registry"), "--addr", "127.0.0.1:0", "--dir", tr.regDir)
	reg.Stderr = os.Stderr
	if err := reg.Start(); err != nil {
		t.Fatal(err)
	}
	tr.regCmd = reg
	t.Cleanup(func() {
		reg.Process.Signal(syscall.SIGTERM)
		reg.Wait()
		if dirs, err := filepath.Glob(tr.logs + "_*"); err == nil {
			for _, d := range dirs {
				os.RemoveAll(d)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("removing the test's directory: %v", err)
		}
	})
	tr.eventually(10*time.Second, "the registry answers", func() error {
		b, err := os.ReadFile(filepath.Join(tr.regDir, "addr"))
		tr.reg = strings.TrimSpace(string(b))
		if err == nil && tr.reg == "" {
			err = fmt.Errorf("no address yet")
		}
		return err
	})
	tr.write(filepath.Join(dir, "registries.conf"), fmt.Sprintf("[[registry]]\nlocation = %q\ninsecure = true\n", tr.reg))
	tr.write(filepath.Join(dir, "net.d/10-e2e.conflist"), fmt.Sprintf(`{"cniVersion":"1.0.0","name":"e2e","plugins":[{"type":"bridge","bridge":"e2e0","isGateway":true,"ipMasq":true,
"ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.221.0.0/16"}]],"routes":[{"dst":"0.0.0.0/0"}]}},{"type":"portmap","capabilities":{"portMappings":true}}]}`, dir+"/ipam"))
	pub, err := os.ReadFile(filepath.Join(tr.regDir, "demo.pub"))
	if err != nil {
		t.Fatal(err)
	}
	tr.write(tr.root+"/etc/trust.d/demo.pub", string(pub))
	if profile != "conformance" {
		tr.write(tr.root+"/etc/trust.toml", fmt.Sprintf("default = \"reject\"\n[authorities.demo]\nkeys = [\"trust.d/demo.pub\"]\n[[rules]]\nscope = [\"%s/**\"]\nthreshold = { of = [\"demo\"], need = 1 }\n", tr.reg))
	}
	tr.write(dir+"/postern.toml", fmt.Sprintf("[image]\nregistries_conf = %q\n[network]\nconf_dir = %q\nbin_dirs = [\"/opt/cni/bin\", \"/usr/lib/cni\"]\n%s", dir+"/registries.conf", dir+"/net.d", extra))
	return tr
}

func (tr *tree) netConf() string {
	return filepath.Join(filepath.Dir(tr.root), "net.d/10-e2e.conflist")
}

func (tr *tree) up(profile string) {
	tr.t.Helper()
	tr.cmd = exec.Command(filepath.Join(bin, "postern"), "up", "--root", tr.root, "--profile", profile, "--config", filepath.Join(filepath.Dir(tr.root), "postern.toml"))
	tr.out = &bytes.Buffer{}
	tr.cmd.Stdout, tr.cmd.Stderr = tr.out, tr.out
	if err := tr.cmd.Start(); err != nil {
		tr.t.Fatal(err)
	}
	conn, err := grpc.NewClient("unix://"+tr.root+"/run/postern.sock", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(32<<20)))
	if err != nil {
		tr.t.Fatal(err)
	}
	tr.conn, tr.rt, tr.img = conn, cri.NewRuntimeServiceClient(conn), cri.NewImageServiceClient(conn)
	tr.answers(15 * time.Second)
}

// answers waits until CRI answers.
func (tr *tree) answers(d time.Duration) {
	tr.t.Helper()
	tr.eventually(d, "CRI answers", func() error {
		c, cancel := context.WithTimeout(context.Background(), limit(20*time.Second))
		defer cancel()
		_, err := tr.rt.Version(c, &cri.VersionRequest{}, grpc.WaitForReady(true))
		return err
	})
}

// down removes every pod, stops the tree and checks that nothing is left.
func (tr *tree) down() {
	t := tr.t
	if tr.cmd == nil {
		return
	}
	if t.Failed() {
		tr.dumpLogs()
	}
	c, cancel := context.WithTimeout(context.Background(), limit(2*patience))
	defer cancel()
	if pods, err := tr.rt.ListPodSandbox(c, &cri.ListPodSandboxRequest{}); err == nil {
		for _, p := range pods.Items {
			if _, err := tr.rt.StopPodSandbox(c, &cri.StopPodSandboxRequest{PodSandboxId: p.Id}); err != nil {
				t.Errorf("stopping pod %s: %v", p.Id, err)
			}
			if _, err := tr.rt.RemovePodSandbox(c, &cri.RemovePodSandboxRequest{PodSandboxId: p.Id}); err != nil {
				t.Errorf("removing pod %s: %v", p.Id, err)
			}
		}
	} else {
		t.Errorf("listing pods before the stop: %v", err)
	}
	tr.stop()
	for _, leak := range tr.leaks() {
		t.Errorf("left behind: %s", leak)
	}
}

// stop ends the tree and waits.
func (tr *tree) stop() {
	tr.conn.Close()
	tr.cmd.Process.Signal(syscall.SIGTERM)
	done := make(chan error, 1)
	go func() { done <- tr.cmd.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			tr.t.Errorf("postern up: %v\n%s", err, tr.out)
		}
	case <-time.After(limit(patience)):
		tr.t.Errorf("postern up did not stop in time\n%s", tr.out)
		tr.cmd.Process.Kill()
		<-done
	}
	tr.cmd = nil
}

func (tr *tree) dumpLogs() {
	files, _ := filepath.Glob(tr.root + "/log/*.log")
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && len(b) > 0 {
			tr.t.Logf("--- %s\n%s", filepath.Base(f), b[max(0, len(b)-4000):])
		}
	}
	tr.t.Logf("--- up\n%s", tr.out)
}

// leaks lists mounts, cgroups, processes and links of the tree.
func (tr *tree) leaks() []string {
	var out []string
	if b, err := os.ReadFile("/proc/self/mountinfo"); err == nil {
		for _, l := range strings.Split(string(b), "\n") {
			if strings.Contains(l, tr.root+"/") && !strings.Contains(l, " postern-e2e-full ") {
				out = append(out, "mount "+l)
			}
		}
	}
	mine := tr.handles()
	filepath.WalkDir("/sys/fs/cgroup", func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && mine(strings.TrimPrefix(filepath.Base(p), "pod-")) {
			out = append(out, "cgroup "+p)
		}
		return nil
	})
	for name, pids := range tr.processes() {
		out = append(out, fmt.Sprintf("process %s %v", name, pids))
	}
	if b, err := exec.Command("ip", "-o", "link").Output(); err == nil && bytes.Contains(b, []byte("veth")) {
		out = append(out, "links: "+string(b))
	}
	return out
}

// handles returns whether a name is that of a pod or a container of this tree: the
// helper's directories and the audit log know them all. Other trees may run on the
// same machine.
func (tr *tree) handles() func(string) bool {
	known, err := exec.Command(filepath.Join(bin, "postern"), "audit", "tail", "--root", tr.root, "-n", "-1", "--json").Output()
	if err != nil {
		tr.t.Errorf("postern audit tail: %v", err)
	}
	return func(name string) bool { return len(name) == 64 && bytes.Contains(known, []byte(name)) }
}

// processes returns the pids of the tree by the name of their binary.
func (tr *tree) processes() map[string][]int {
	out := map[string][]int{}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		exe, err := os.Readlink(d + "/exe")
		if err != nil || filepath.Dir(strings.TrimSuffix(exe, " (deleted)")) != bin || !strings.HasPrefix(filepath.Base(exe), "postern") {
			continue
		}
		cmdline, _ := os.ReadFile(d + "/cmdline")
		if !bytes.Contains(cmdline, []byte(tr.root)) {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(d))
		out[filepath.Base(exe)] = append(out[filepath.Base(exe)], pid)
	}
	for _, p := range out {
		sort.Ints(p)
	}
	return out
}

// eventually waits for f to be content: d, which is what an idle machine may take,
// or patience, which is more.
func (tr *tree) eventually(d time.Duration, what string, f func() error) {
	tr.t.Helper()
	d = limit(max(d, patience))
	end := time.Now().Add(d)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			if tr.cmd != nil {
				tr.dumpLogs()
			}
			tr.t.Fatalf("not within %v: %s: %v", d, what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (tr *tree) write(path, content string) {
	tr.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		tr.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		tr.t.Fatal(err)
	}
}

// audit returns the audit records as JSON objects.
func (tr *tree) audit() []map[string]any {
	tr.t.Helper()
	out, err := exec.Command(filepath.Join(bin, "postern"), "audit", "tail", "--root", tr.root, "-n", "100000", "--json").Output()
	if err != nil {
		tr.t.Fatalf("postern audit tail: %v", err)
	}
	var recs []map[string]any
	for _, l := range bytes.Split(out, []byte("\n")) {
		if len(l) == 0 {
			continue
		}
		var r map[string]any
		if err := json.Unmarshal(l, &r); err != nil {
			tr.t.Fatalf("audit record %s: %v", l, err)
		}
		recs = append(recs, r)
	}
	return recs
}
