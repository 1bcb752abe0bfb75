package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// plugged is a tree whose bridge plugin is a script's, until the script lets it
// through: "exec $bridge".
type plugged struct {
	*tree
	bin string
}

func startPlugged(t *testing.T) *plugged {
	t.Helper()
	tr := plantTree(t, "baseline", "")
	p := &plugged{tr, filepath.Join(filepath.Dir(tr.root), "cni")}
	file := filepath.Join(filepath.Dir(tr.root), "postern.toml")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	tr.write(file, strings.Replace(string(b), `bin_dirs = ["/opt/cni/bin", `, fmt.Sprintf("bin_dirs = [%q, ", p.bin), 1))
	if err := os.MkdirAll(p.bin, 0o755); err != nil {
		t.Fatal(err)
	}
	setLabel(t, p.bin, "bin_t") // what is made there is then a program, as a node's plugins are
	p.plugin("exec $bridge")
	tr.up("baseline")
	t.Cleanup(func() { tr.down() })
	return p
}

func (p *plugged) plugin(script string) {
	p.t.Helper()
	real := "/usr/lib/cni/bridge"
	if _, err := os.Stat("/opt/cni/bin/bridge"); err == nil {
		real = "/opt/cni/bin/bridge"
	}
	temp := filepath.Join(p.bin, "temp")
	p.write(temp, "#!/bin/sh\nbridge="+real+"\n"+script+"\n")
	if err := errors.Join(os.Chmod(temp, 0o755), os.Rename(temp, filepath.Join(p.bin, "bridge"))); err != nil {
		p.t.Fatal(err)
	}
}

// addresses counts what the plugin has given out.
func (p *plugged) addresses() int {
	all, _ := filepath.Glob(filepath.Join(filepath.Dir(p.root), "ipam/*/10.*"))
	return len(all)
}

func (p *plugged) ready() bool {
	p.t.Helper()
	st, err := p.rt.Status(ctx(p.t), &cri.StatusRequest{})
	if err != nil {
		p.t.Fatal(err)
	}
	for _, c := range st.Status.Conditions {
		if c.Type == cri.NetworkReady {
			if !c.Status && (c.Reason == "" || c.Message == "") {
				p.t.Errorf("not ready, and no word why: %v", c)
			}
			return c.Status
		}
	}
	p.t.Fatalf("no condition NetworkReady: %v", st.Status.Conditions)
	return false
}

func (p *plugged) tryPod(name string) error {
	_, err := p.rt.RunPodSandbox(ctx(p.t), &cri.RunPodSandboxRequest{Config: p.podConfig(name)})
	return err
}

// TestPluginFails: the plugin's own words reach the user, nothing stays of the pod,
// and its name is free for the next try.
func TestPluginFails(t *testing.T) {
	p := startPlugged(t)
	files, links := p.files(), len(p.leaks())
	for script, want := range map[string]string{
		`[ $CNI_COMMAND = DEL ] && exec $bridge; echo '{"code":11,"msg":"the switch is on fire"}'; exit 1`: "the switch is on fire",
		// The address is given out before the plugin fails.
		`[ $CNI_COMMAND = DEL ] && exec $bridge; $bridge >/dev/null; echo '{"code":11,"msg":"too late"}'; exit 1`: "too late",
		`[ $CNI_COMMAND = DEL ] && exec $bridge; kill -9 $$`:                                                      "killed",
		`[ $CNI_COMMAND = DEL ] && exec $bridge; echo nonsense`:                                                   "bridge",
	} {
		p.plugin(script)
		err := p.tryPod("web")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: want %q: %v", script, want, err)
		}
		if n := p.addresses(); n != 0 {
			t.Errorf("%s: %d addresses are taken", script, n)
		}
		for f := range p.files() {
			if !files[f] && !strings.Contains(f, "/ipam") {
				t.Errorf("%s: left: %s", script, f)
			}
		}
		if now := p.leaks(); len(now) != links {
			t.Errorf("%s: left: %v", script, now)
		}
		if pods, err := p.rt.ListPodSandbox(ctx(t), &cri.ListPodSandboxRequest{}); err != nil || len(pods.Items) != 0 {
			t.Errorf("%s: pods %v, %v", script, pods, err)
		}
	}
	p.plugin("exec $bridge")
	if err := p.tryPod("web"); err != nil {
		t.Errorf("the same pod with a plugin that works: %v", err)
	}
}

// TestPluginSlow: who asks again for a pod that is being made gets that one.
func TestPluginSlow(t *testing.T) {
	p := startPlugged(t)
	gate := filepath.Join(p.bin, "go")
	p.plugin(fmt.Sprintf("until [ -e %s ]; do sleep 0.05; done; exec $bridge", gate))
	impatient, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := p.rt.RunPodSandbox(impatient, &cri.RunPodSandboxRequest{Config: p.podConfig("slow")}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("want DeadlineExceeded: %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- p.tryPod("slow") }()
	if !p.ready() {
		t.Error("a slow plugin is no missing network")
	}
	p.write(gate, "")
	if err := <-done; err != nil {
		t.Errorf("asked again: %v", err)
	}
	pods, err := p.rt.ListPodSandbox(ctx(t), &cri.ListPodSandboxRequest{})
	if err != nil || len(pods.Items) != 1 || p.addresses() != 1 {
		t.Errorf("%d addresses, pods %v, %v", p.addresses(), pods, err)
	}
}

// TestNoNetworkYet: a node without a network configuration says so, runs no pod that
// needs one, and all of it follows the configuration without a restart.
func TestNoNetworkYet(t *testing.T) {
	p := startPlugged(t)
	if !p.ready() {
		t.Error("not ready with a configuration")
	}
	if err := p.tryPod("before"); err != nil {
		t.Error(err)
	}
	conf, err := os.ReadFile(p.netConf())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(p.netConf()); err != nil {
		t.Fatal(err)
	}
	p.eventually(patience, "NetworkReady follows the empty directory", func() error {
		if p.ready() {
			return errors.New("ready")
		}
		return nil
	})
	if err := p.tryPod("early"); err == nil || !strings.Contains(err.Error(), "no network configuration") {
		t.Errorf("a pod without a network: %v", err)
	}
	// What has a network can be stopped; its teardown waits for the configuration.
	p.removePods(t)
	p.write(p.netConf(), string(conf))
	p.eventually(patience, "NetworkReady follows the configuration", func() error {
		if !p.ready() {
			return errors.New("not ready")
		}
		return nil
	})
	if err := p.tryPod("early"); err != nil {
		t.Errorf("the same pod with a network: %v", err)
	}
	p.eventually(2*patience, "the address of the first pod is free", func() error {
		if n := p.addresses(); n != 1 {
			return fmt.Errorf("%d addresses are taken, want 1", n)
		}
		return nil
	})
}

// TestTornState: what a power cut left of the helper's file on a pod names the pod
// no more, and still its address is given back.
func TestTornState(t *testing.T) {
	p := startPlugged(t)
	if err := p.tryPod("web"); err != nil {
		t.Fatal(err)
	}
	if n := p.addresses(); n != 1 {
		t.Fatalf("%d addresses are taken, want 1", n)
	}
	files, err := filepath.Glob(p.root + "/lib/box/state/pod/*.json")
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	if err := os.Truncate(files[0], 100); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(p.processes()["postern-helper"][0], unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.eventually(2*patience, "the pod's address is free", func() error {
		if n := p.addresses(); n != 0 {
			return fmt.Errorf("%d addresses are taken", n)
		}
		return nil
	})
	p.removePods(t)
	if err := p.tryPod("web"); err != nil {
		t.Errorf("the same pod again: %v", err)
	}
}

// TestPluginHangs: it is ended, with what it started, and both the create and the
// teardown come to an end.
func TestPluginHangs(t *testing.T) {
	if os.Getenv("POSTERN_CHURN") == "" {
		t.Skip("takes minutes: make test-churn")
	}
	p := startPlugged(t)
	p.pull()
	_, ctr := p.run("old", "exec sleep 1000")
	p.plugin("sleep 100000 & wait")
	const many = 20 // more than there are connections to the helper
	start, failed := time.Now(), make(chan error, many)
	for i := range many {
		go func() {
			c, cancel := context.WithTimeout(t.Context(), 4*patience)
			defer cancel()
			_, err := p.rt.RunPodSandbox(c, &cri.RunPodSandboxRequest{Config: p.podConfig(fmt.Sprintf("new-%d", i))})
			failed <- err
		}()
	}
	for range 20 {
		if out, code := p.exec(ctr, "echo", "probed"); out != "probed\n" || code != 0 {
			t.Errorf("exec beside %d pods that wait: %q %d", many, out, code)
		}
	}
	t.Logf("20 execs beside them took %s", time.Since(start).Round(time.Millisecond))
	named := 0
	for range many {
		err := <-failed
		if err == nil {
			t.Error("a pod without a network")
		} else if strings.Contains(err.Error(), "bridge") {
			named++
		}
		t.Logf("create, after %s: %v", time.Since(start).Round(time.Second), err)
	}
	if named == 0 {
		t.Error("no error names the plugin")
	}
	start = time.Now()
	p.removePods(t)
	t.Logf("teardown after %s", time.Since(start).Round(time.Second))
	p.plugin("exec $bridge")
	p.eventually(30*patience, "nothing is left of them", func() error {
		left, err := filepath.Glob(p.root + "/lib/box/state/pod/*.json")
		if n := p.addresses(); n != 0 || len(left) != 0 || err != nil {
			return fmt.Errorf("%d addresses, %d pods of the helper, %v", n, len(left), err)
		}
		return nil
	})
	for name := range p.processes() {
		if name == "postern-cni" {
			t.Error("postern-cni still runs")
		}
	}
	if err := p.tryPod("new-0"); err != nil {
		t.Errorf("the same pod with a plugin that works: %v", err)
	}
}
