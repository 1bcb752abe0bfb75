package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func wantError(t *testing.T, err error, code codes.Code, parts ...string) {
	t.Helper()
	if status.Code(err) != code {
		t.Errorf("code %v, want %v: %v", status.Code(err), code, err)
		return
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("the error lacks %q: %v", p, err)
		}
	}
}

// TestRefusals: each thing that must be refused is, at the place the design
// says, in words that name rule, field and remedy.
func TestRefusals(t *testing.T) {
	tr := startTree(t, "baseline", "")
	tr.pull()
	for _, name := range []string{"unsigned", "wrong"} {
		_, err := tr.img.PullImage(ctx(t), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: tr.reg + "/demo/" + name + ":1"}})
		wantError(t, err, codes.Unknown, "SignatureValidationFailed: ")
		access, rerr := os.ReadFile(filepath.Join(tr.regDir, "access.log"))
		if rerr != nil {
			t.Fatal(rerr)
		}
		layers, rerr := os.ReadFile(filepath.Join(tr.regDir, name+".layers"))
		if rerr != nil || len(layers) == 0 {
			t.Fatalf("layers of %s: %v", name, rerr)
		}
		for _, l := range strings.Fields(string(layers)) {
			if strings.Contains(string(access), l) {
				t.Errorf("layer %s of %s was requested", l, name)
			}
		}
	}
	_, err := tr.img.PullImage(ctx(t), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: "127.0.0.1:1/nowhere:1"}})
	wantError(t, err, codes.Unknown, "RegistryUnavailable: ")

	p := tr.podConfig("evil")
	p.Linux.SecurityContext.Privileged = true
	_, err = tr.rt.RunPodSandbox(ctx(t), &cri.RunPodSandboxRequest{Config: p})
	wantError(t, err, codes.PermissionDenied, "privileged")
	p = tr.podConfig("hostnet")
	p.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_NODE
	p.Hostname = ""
	_, err = tr.rt.RunPodSandbox(ctx(t), &cri.RunPodSandboxRequest{Config: p})
	wantError(t, err, codes.PermissionDenied, "network")

	good := tr.podConfig("good")
	pod := tr.runPod(good)
	c := tr.ctrConfig("c", "sleep 1000")
	c.Mounts = []*cri.Mount{{HostPath: "/etc", ContainerPath: "/host"}}
	_, err = tr.rt.CreateContainer(ctx(t), &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: good})
	wantError(t, err, codes.PermissionDenied, "/etc")
	c = tr.ctrConfig("c", "sleep 1000")
	c.Linux.SecurityContext.Capabilities = &cri.Capability{AddCapabilities: []string{"SYS_ADMIN"}}
	_, err = tr.rt.CreateContainer(ctx(t), &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: good})
	wantError(t, err, codes.PermissionDenied, "SYS_ADMIN")
	if left, err := tr.rt.ListContainers(ctx(t), &cri.ListContainersRequest{}); err != nil || len(left.Containers) != 0 {
		t.Errorf("containers after the refusals: %v, %v", left, err)
	}
	// Every refusal is in the trail, and the trail verifies.
	denied := 0
	for _, r := range tr.audit() {
		if d, ok := r["decision"].(map[string]any); ok && d["allow"] == false {
			denied++
		}
	}
	if denied < 5 {
		t.Errorf("%d denials in the audit log, want at least 5", denied)
	}
	if out, err := exec.Command(filepath.Join(bin, "postern"), "audit", "verify", "--root", tr.root).CombinedOutput(); err != nil {
		t.Errorf("audit verify: %v\n%s", err, out)
	}
}

// TestHostileFront: what a compromised posternd can say to the helper, said.
func TestHostileFront(t *testing.T) {
	tr := startTree(t, "baseline", "")
	for attack, want := range map[string]string{
		"unverified-image": "IMG-NORECORD", "host-path": "CEIL-", "privileged": "CEIL-", "early-verb": "closed",
		"truncated": "closed", "unsealed-memfd": "closed", "extra-fd": "closed", "unknown-verb": "closed",
		"foreign-log": "CEIL-UID", "endless-cgroup": "CEIL-CGROUP", "crowd": "closed",
	} {
		out, err := exec.Command(filepath.Join(bin, "test/hostile"), "--root", tr.root, attack).CombinedOutput()
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v, want %q: %s", attack, err, want, out)
		}
		time.Sleep(50 * time.Millisecond)
	}
	tr.answers(10 * time.Second)
}

// TestFailClosed: without policyd nothing is created, and teardown works.
func TestFailClosed(t *testing.T) {
	for _, daemon := range []string{"postern-policyd", "postern-auditd"} {
		t.Run(daemon, func(t *testing.T) {
			tr := startTree(t, "baseline", "")
			tr.pull()
			pod, ctr := tr.run("before", "sleep 1000")
			for _, pid := range tr.processes()[daemon] {
				syscall.Kill(pid, syscall.SIGSTOP)
				defer syscall.Kill(pid, syscall.SIGCONT)
				tr.eventually(10*time.Second, daemon+" stands still", func() error { return stopped(pid) })
			}
			if _, err := tr.rt.RunPodSandbox(ctx(t), &cri.RunPodSandboxRequest{Config: tr.podConfig("after")}); err == nil {
				t.Errorf("a pod was created without %s", daemon)
			} else {
				wantError(t, err, codes.Unavailable, strings.TrimPrefix(daemon, "postern-"))
			}
			if _, err := tr.rt.ExecSync(ctx(t), &cri.ExecSyncRequest{ContainerId: ctr, Cmd: []string{"true"}, Timeout: 60 * int64(slow)}); err == nil {
				t.Errorf("an exec ran without %s", daemon)
			}
			if _, err := tr.rt.StopContainer(ctx(t), &cri.StopContainerRequest{ContainerId: ctr}); err != nil {
				t.Errorf("StopContainer without %s: %v", daemon, err)
			}
			if _, err := tr.rt.StopPodSandbox(ctx(t), &cri.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
				t.Errorf("StopPodSandbox without %s: %v", daemon, err)
			}
			if _, err := tr.rt.RemovePodSandbox(ctx(t), &cri.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
				t.Errorf("RemovePodSandbox without %s: %v", daemon, err)
			}
			for _, pid := range tr.processes()[daemon] {
				syscall.Kill(pid, syscall.SIGCONT)
			}
			tr.eventually(10*time.Second, "pods can be created again", func() error {
				_, err := tr.rt.RunPodSandbox(ctx(t), &cri.RunPodSandboxRequest{Config: tr.podConfig("later")})
				return err
			})
		})
	}
}

// stopped says which thread of a process has not taken its SIGSTOP yet: until then
// it may answer.
func stopped(pid int) error {
	all, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(all) == 0 {
		return fmt.Errorf("no threads of process %d: %v", pid, err)
	}
	for _, f := range all {
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		if _, state, _ := strings.Cut(string(b), ") "); !strings.HasPrefix(state, "T") {
			return fmt.Errorf("%s: %.1s", f, state)
		}
	}
	return nil
}

// TestBrokenCNI: a pod is torn down although its network plugin is gone.
func TestBrokenCNI(t *testing.T) {
	tr := startTree(t, "baseline", "")
	pod := tr.runPod(tr.podConfig("net"))
	conf, err := os.ReadFile(tr.netConf())
	if err != nil {
		t.Fatal(err)
	}
	tr.write(tr.netConf(), strings.Replace(string(conf), `"type":"bridge"`, `"type":"gone"`, 1))
	for range 2 {
		if _, err := tr.rt.StopPodSandbox(ctx(t), &cri.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
			t.Errorf("StopPodSandbox: %v", err)
		}
	}
	if _, err := tr.rt.RemovePodSandbox(ctx(t), &cri.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Errorf("RemovePodSandbox: %v", err)
	}
	if _, err := tr.rt.RunPodSandbox(ctx(t), &cri.RunPodSandboxRequest{Config: tr.podConfig("no-net")}); err == nil {
		t.Error("a pod was created without a network plugin")
	}
	tr.write(tr.netConf(), string(conf))
	tr.runPod(tr.podConfig("net-again"))
	tr.eventually(20*time.Second, "what could not be torn down is, once the plugin is back", func() error {
		left, err := filepath.Glob(tr.root + "/lib/box/state/pod/*.json")
		if err == nil && len(left) != 1 {
			err = fmt.Errorf("pods of the helper: %d, want 1", len(left))
		}
		return err
	})
}
