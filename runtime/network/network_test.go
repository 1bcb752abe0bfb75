package network_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/netns"
	"github.com/postern-cri/postern/runtime/network"
)

const plugins = "/usr/lib/cni"

var binary string

func TestMain(m *testing.M) {
	if os.Getuid() != 0 {
		fmt.Println("SKIP: networks need root")
		os.Exit(0)
	}
	dir, err := os.MkdirTemp("", "postern-cni-")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "postern-cni")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary, "../../cmd/postern-cni")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Printf("building postern-cni: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// node is a network namespace that stands for the host's, so that no test touches
// the real one, and one pod's.
type node struct {
	t        *testing.T
	dir      string
	host     string
	confDir  string
	binDirs  []string
	requests int
}

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{t: t, dir: t.TempDir(), binDirs: []string{plugins}}
	os.Chmod(n.dir, 0o755)
	n.confDir = filepath.Join(n.dir, "net.d")
	os.Mkdir(n.confDir, 0o755)
	n.host = n.namespace("host")
	return n
}

func (n *node) namespace(name string) string {
	n.t.Helper()
	dir := filepath.Join(n.dir, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		n.t.Fatal(err)
	}
	if err := netns.Create(dir, netns.Options{Net: true, Hostname: name}); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { netns.Remove(dir) })
	return filepath.Join(dir, netns.Net)
}

func (n *node) conf(name, content string) {
	n.t.Helper()
	if err := os.WriteFile(filepath.Join(n.confDir, name), []byte(content), 0o644); err != nil {
		n.t.Fatal(err)
	}
}

// bridge is what nodes usually have.
func (n *node) bridge() {
	n.conf("10-bridge.conflist", `{"cniVersion":"1.0.0","name":"test","plugins":[
{"type":"bridge","bridge":"cni0","isGateway":true,"ipMasq":true,"hairpinMode":true,
 "ipam":{"type":"host-local","dataDir":"`+n.dir+`/ipam","ranges":[[{"subnet":"10.201.0.0/24"}],[{"subnet":"fd00:201::/64"}]],"routes":[{"dst":"0.0.0.0/0"}]}},
{"type":"portmap","capabilities":{"portMappings":true},"snat":true}]}`)
}

func (n *node) request(op string, ns string) *network.Request {
	n.requests++
	return &network.Request{Op: op, Pod: "0123abcd", NetNS: ns, ConfDir: n.confDir, BinDirs: n.binDirs, Name: "web-0", Namespace: "default",
		UID: "5c1d-42", CacheDir: filepath.Join(n.dir, "cache"),
		Ports: []network.Port{{Protocol: "tcp", ContainerPort: 80, HostPort: 8080}, {Protocol: "udp", ContainerPort: 53}}}
}

// in starts a command in the namespace that stands for the host's.
func (n *node) in(ns string, cmd *exec.Cmd) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		fd, err := unix.Open(ns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			unix.Close(fd)
		}
		if err == nil {
			err = cmd.Start()
		}
		done <- err
	}()
	return <-done
}

// do runs postern-cni and returns its answer.
func (n *node) do(r *network.Request) (addresses []string, failure string) {
	n.t.Helper()
	b, _ := json.Marshal(r)
	inR, inW, _ := os.Pipe()
	outR, outW, _ := os.Pipe()
	cmd := exec.Command(binary)
	cmd.Env = []string{"LD_PRELOAD=/evil.so", "CNI_ARGS=evil", "HTTP_PROXY=evil"}
	cmd.ExtraFiles = []*os.File{inR, outW}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := n.in(n.host, cmd); err != nil {
		n.t.Fatal(err)
	}
	inR.Close()
	outW.Close()
	inW.Write(b)
	inW.Close()
	answer, _ := io.ReadAll(outR)
	outR.Close()
	if err := cmd.Wait(); err != nil {
		n.t.Fatalf("postern-cni: %v: %s (answer %q)", err, stderr.String(), answer)
	}
	lines := strings.Split(strings.TrimSuffix(string(answer), "\n"), "\n")
	for i, l := range lines {
		if ip, ok := strings.CutPrefix(l, "ip "); ok {
			addresses = append(addresses, ip)
		} else if e, ok := strings.CutPrefix(l, "error "); ok {
			failure = e
		} else if l != "ok" || i != len(lines)-1 {
			n.t.Errorf("line %q in %q", l, answer)
		}
	}
	return addresses, failure
}

func (n *node) output(ns string, args ...string) string {
	n.t.Helper()
	var b bytes.Buffer
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = &b, &b
	if err := n.in(ns, cmd); err != nil {
		n.t.Fatal(err)
	}
	cmd.Wait()
	return b.String()
}

func needPlugins(t *testing.T) {
	t.Helper()
	for _, p := range []string{"bridge", "host-local", "portmap"} {
		if _, err := os.Stat(filepath.Join(plugins, p)); err != nil {
			t.Skipf("needs containernetworking-plugins: %v", err)
		}
	}
	if _, err := exec.LookPath("iptables"); err != nil {
		t.Skipf("needs iptables: %v", err)
	}
}

// TestBridge attaches a pod with the capabilities that postern-cni keeps: bridge,
// addresses, masquerading and a host port, and takes it all off again.
func TestBridge(t *testing.T) {
	needPlugins(t)
	n := newNode(t)
	n.bridge()
	if _, failure := n.do(n.request(network.Status, "")); failure != "" {
		t.Fatalf("status: %s", failure)
	}
	pod := n.namespace("pod")
	ips, failure := n.do(n.request(network.Add, pod))
	if failure != "" {
		t.Fatalf("add: %s", failure)
	}
	if !slices.Equal(ips, []string{"10.201.0.2", "fd00:201::2"}) {
		t.Errorf("addresses %q", ips)
	}
	if out := n.output(pod, "ip", "addr", "show", "eth0"); !strings.Contains(out, "10.201.0.2/24") {
		t.Errorf("inside: %s", out)
	}
	rules := n.output(n.host, "iptables-save")
	if !strings.Contains(rules, "--to-destination 10.201.0.2:80") || !strings.Contains(rules, "MASQUERADE") {
		t.Errorf("rules: %s", rules)
	}
	if strings.Contains(rules, "10.201.0.2:53") {
		t.Error("a port without a host port was opened")
	}
	// A second time the namespace has gone, as after a reboot.
	for range 2 {
		if _, failure := n.do(n.request(network.Del, pod)); failure != "" {
			t.Fatalf("del: %s", failure)
		}
		netns.Remove(filepath.Dir(pod))
	}
	if rules := n.output(n.host, "iptables-save"); strings.Contains(rules, "10.201.0.2") {
		t.Errorf("rules after del: %s", rules)
	}
	left, _ := filepath.Glob(n.dir + "/ipam/test/10.*")
	cached, _ := filepath.Glob(n.dir + "/cache/results/*")
	if len(left)+len(cached) > 0 {
		t.Errorf("left: %q %q", left, cached)
	}
	if out := n.output(n.host, "ip", "-o", "link"); strings.Contains(out, "veth") {
		t.Errorf("links after del: %s", out)
	}
}

// TestConfigurations refuses what is not root's alone, and what is no name.
func TestConfigurations(t *testing.T) {
	n := newNode(t)
	status := func() string {
		_, failure := n.do(n.request(network.Status, ""))
		return failure
	}
	expect := func(what, want string) {
		t.Helper()
		if got := status(); !strings.Contains(got, want) || got == "" {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	expect("empty directory", "no network configuration")
	n.conf("00-note.txt", "not a configuration")
	expect("no configuration", "no network configuration")
	for i, bad := range []string{`{"type":"../../bin/sh"}`, `{"type":"a/b"}`, `{"type":"/bin/sh"}`, `{"type":".."}`, `{"type":""}`,
		`{"type":"bridge","ipam":{"type":"../host-local"}}`} {
		n.conf("10-bad.conflist", `{"cniVersion":"1.0.0","name":"bad","plugins":[`+bad+`]}`)
		expect(fmt.Sprintf("type %d", i), "network configuration")
	}
	// A broken file is passed over, one that others can write is not.
	n.conf("20-good.conf", `{"cniVersion":"1.0.0","name":"good","type":"nonesuch"}`)
	expect("plugin missing", "plugin nonesuch is not in")
	evil := filepath.Join(n.confDir, "05-evil.conflist")
	n.conf("05-evil.conflist", `{"cniVersion":"1.0.0","name":"evil","plugins":[{"type":"bridge"}]}`)
	os.Chmod(evil, 0o666)
	expect("writable file", "writable by nobody else")
	os.Chmod(evil, 0o644)
	os.Chown(evil, 1000, 1000)
	expect("foreign file", "must belong to root")
	os.Remove(evil)
	os.Chmod(n.confDir, 0o777)
	expect("writable directory", "writable by nobody else")
	os.Chmod(n.confDir, 0o755)
	n.conf("05-evil.conflist", strings.Repeat(" ", 300<<10))
	expect("long file", "larger than")
	os.Remove(evil)
	// A plugin that others can write.
	bin := filepath.Join(n.dir, "bin")
	os.Mkdir(bin, 0o755)
	n.binDirs = []string{bin}
	os.WriteFile(filepath.Join(bin, "nonesuch"), []byte("#!/bin/sh\n"), 0o755)
	if got := status(); got != "" {
		t.Errorf("good plugin: %q", got)
	}
	os.Chmod(filepath.Join(bin, "nonesuch"), 0o777)
	expect("writable plugin", "writable by nobody else")
	os.Chmod(filepath.Join(bin, "nonesuch"), 0o755)
	os.Chmod(bin, 0o777)
	expect("writable plugin directory", "writable by nobody else")
}

// TestPlugin sees what a plugin gets, and bounds what it may do.
func TestPlugin(t *testing.T) {
	n := newNode(t)
	bin := filepath.Join(n.dir, "bin")
	os.Mkdir(bin, 0o755)
	n.binDirs = []string{bin}
	n.conf("10-test.conflist", `{"cniVersion":"1.0.0","name":"test","plugins":[{"type":"probe","capabilities":{"portMappings":true}}]}`)
	script := func(body string) {
		if err := os.WriteFile(filepath.Join(bin, "probe"), []byte("#!/bin/sh\n"+body), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	pod := n.namespace("pod")
	good := `{"cniVersion":"1.0.0","ips":[{"address":"10.1.2.3/24"}]}`
	script(`[ "$CNI_COMMAND" = DEL ] && exit 0
env > ` + n.dir + `/env; cat > ` + n.dir + `/stdin; grep Cap /proc/self/status > ` + n.dir + `/caps; ls /proc/self/fd > ` + n.dir + `/fds; echo '` + good + `'`)
	ips, failure := n.do(n.request(network.Add, pod))
	if failure != "" || !slices.Equal(ips, []string{"10.1.2.3"}) {
		t.Fatalf("%q %q", ips, failure)
	}
	env, _ := os.ReadFile(n.dir + "/env")
	for _, want := range []string{"CNI_COMMAND=ADD", "CNI_CONTAINERID=0123abcd", "CNI_NETNS=" + pod, "CNI_IFNAME=eth0", "PATH=",
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=0123abcd;K8S_POD_UID=5c1d-42\n"} {
		if !strings.Contains(string(env), want) {
			t.Errorf("no %q in %s", want, env)
		}
	}
	if strings.Contains(string(env), "evil") {
		t.Errorf("the environment leaks: %s", env)
	}
	if b, _ := os.ReadFile(n.dir + "/stdin"); !strings.Contains(string(b), `"hostPort":8080`) || strings.Contains(string(b), `"containerPort":53`) {
		t.Errorf("configuration %s", b)
	}
	if b, _ := os.ReadFile(n.dir + "/caps"); !strings.Contains(string(b), "CapEff:\t0000000000203000") || !strings.Contains(string(b), "CapBnd:\t0000000000203000") {
		t.Errorf("capabilities %s", b)
	}
	if b, _ := os.ReadFile(n.dir + "/fds"); strings.Join(strings.Fields(string(b)), " ") != "0 1 2 3" {
		t.Errorf("descriptors %s", b)
	}
	add := func(what, want string) {
		t.Helper()
		if ips, failure := n.do(n.request(network.Add, pod)); !strings.Contains(failure, want) || failure == "" || ips != nil {
			t.Errorf("%s: %q %q, want %q", what, ips, failure, want)
		}
	}
	script(`yes | head -c 1000000`)
	add("long output", "longer than 65536 bytes")
	script(`printf '%s' '{"code":7,"msg":"first\nok\nip 6.6.6.6"}'; exit 1`)
	add("error", "first ok ip 6.6.6.6")
	script(`echo '{"cniVersion":"1.0.0","ips":[{"address":"127.0.0.1/8"}]}'`)
	add("loopback", "answered address")
	script(`echo '{"cniVersion":"1.0.0"}'`)
	add("no address", "no address")
	script(`echo null`)
	add("null", "no address")
	script(`echo $CNI_COMMAND >> ` + n.dir + `/ops; [ $CNI_COMMAND = ADD ] && exit 1; exit 0`)
	add("failure", "exit status 1")
	if b, _ := os.ReadFile(n.dir + "/ops"); string(b) != "ADD\nDEL\n" {
		t.Errorf("after a failed ADD: %q", b)
	}
	if _, failure := n.do(n.request(network.Add, n.dir+"/none")); !strings.Contains(failure, "is not there") {
		t.Errorf("no namespace: %q", failure)
	}
	for what, change := range map[string]func(*network.Request){
		"name":      func(r *network.Request) { r.Name = "a;K8S_POD_NAME=b" },
		"namespace": func(r *network.Request) { r.Namespace = "a=b" },
		"uid":       func(r *network.Request) { r.UID = "a\nb" },
		"pod":       func(r *network.Request) { r.Pod = "../x" },
		"protocol":  func(r *network.Request) { r.Ports[0].Protocol = "tcp -j ACCEPT" },
		"address":   func(r *network.Request) { r.Ports[0].HostIP = "1.2.3.4 -j ACCEPT" },
		"directory": func(r *network.Request) { r.BinDirs = []string{"bin"} },
		"none":      func(r *network.Request) { r.BinDirs = nil },
	} {
		r := n.request(network.Add, pod)
		change(r)
		if _, failure := n.do(r); failure == "" {
			t.Errorf("a bad %s was taken", what)
		}
	}
}

// TestHelperDies kills who started postern-cni while a plugin is at work: an ADD is
// cut off, a DEL is not.
func TestHelperDies(t *testing.T) {
	n := newNode(t)
	bin := filepath.Join(n.dir, "bin")
	os.Mkdir(bin, 0o755)
	n.binDirs = []string{bin}
	n.conf("10-test.conflist", `{"cniVersion":"1.0.0","name":"test","plugins":[{"type":"probe"}]}`)
	script := "#!/bin/sh\necho $CNI_COMMAND > " + n.dir + "/begun\nsleep 1\necho $CNI_COMMAND > " + n.dir + "/ended\n"
	if err := os.WriteFile(filepath.Join(bin, "probe"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	pod := n.namespace("pod")
	for _, op := range []string{network.Add, network.Del} {
		request := filepath.Join(n.dir, op)
		b, _ := json.Marshal(n.request(op, pod))
		if err := os.WriteFile(request, b, 0o600); err != nil {
			t.Fatal(err)
		}
		// It is tied to its parent's life as the helper does it.
		helper := exec.Command("sh", "-c", `setpriv --pdeathsig KILL "$0" 3< "$1" 4> "$1.answer" & wait`, binary, request)
		if err := n.in(n.host, helper); err != nil {
			t.Fatal(err)
		}
		want := strings.ToUpper(op) + "\n"
		said := func(file string) bool { b, _ := os.ReadFile(n.dir + "/" + file); return string(b) == want }
		await := func(file, not string) {
			for end := time.Now().Add(30 * time.Second); !said(file); time.Sleep(10 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("%s: the plugin %s", op, not)
				}
			}
		}
		await("begun", "did not begin")
		helper.Process.Kill()
		helper.Wait()
		if op == network.Add {
			time.Sleep(2 * time.Second)
			if said("ended") {
				t.Error("the plugin of an ADD went on without anyone")
			}
			continue
		}
		await("ended", "was cut off")
	}
}

// TestTimings prints what ADD and DEL cost; nothing is asserted.
func TestTimings(t *testing.T) {
	if os.Getenv("POSTERN_TIMINGS") == "" {
		t.Skip("set POSTERN_TIMINGS=1 to print timings")
	}
	needPlugins(t)
	for _, kind := range []string{"single stack", "no host ports", "host ports"} {
		n := newNode(t)
		n.bridge()
		if kind == "single stack" {
			n.conf("10-bridge.conflist", `{"cniVersion":"1.0.0","name":"test","plugins":[{"type":"bridge","bridge":"cni0","isGateway":true,
 "ipam":{"type":"host-local","dataDir":"`+n.dir+`/ipam","subnet":"10.201.0.0/24"}}]}`)
		}
		times := map[string][]time.Duration{}
		for i := range 20 {
			pod := n.namespace(fmt.Sprintf("pod%d", i))
			for _, op := range []string{network.Status, network.Add, network.Del} {
				r := n.request(op, pod)
				if kind != "host ports" {
					r.Ports = nil
				}
				t0 := time.Now()
				if _, failure := n.do(r); failure != "" {
					t.Fatal(failure)
				}
				times[op] = append(times[op], time.Since(t0))
			}
		}
		for op, d := range times {
			slices.Sort(d)
			fmt.Printf("%s: %s p50 %v min %v\n", kind, op, d[len(d)/2].Round(10*time.Microsecond), d[0].Round(10*time.Microsecond))
		}
	}
}
