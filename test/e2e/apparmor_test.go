package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// load loads an AppArmor profile and unloads it after the test.
func load(t *testing.T, name, text string) {
	t.Helper()
	for _, op := range []string{"--replace", "--remove"} {
		run := func() {
			cmd := exec.Command("apparmor_parser", op, "--skip-cache", "--quiet")
			cmd.Stdin = strings.NewReader(text)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("apparmor_parser %s of %s: %v: %s", op, name, err, out)
			}
		}
		if op == "--replace" {
			run()
		} else {
			t.Cleanup(run)
		}
	}
}

// TestAppArmor: a container has the profile it asked for, or is not made.
func TestAppArmor(t *testing.T) {
	if _, err := os.Stat("/sys/kernel/security/apparmor"); err != nil {
		t.Skip("needs AppArmor: make test-vm has it")
	}
	load(t, "postern-e2e", "profile postern-e2e flags=(attach_disconnected) {\n file,\n network,\n capability,\n"+
		// As abstractions/base has it: nothing of ours is named.
		" signal (receive) peer=unconfined,\n signal peer=postern-e2e,\n deny /etc/forbidden w,\n}\n")
	load(t, "postern-e2e-complains", "profile postern-e2e-complains flags=(attach_disconnected,complain) {\n file,\n}\n")
	tr := startTree(t, "baseline", "[stop]\non_stop = \"kill\"\n")
	tr.pull()
	p := tr.podConfig("apparmor")
	pod := tr.runPod(p)
	with := func(name string, kind cri.SecurityProfile_ProfileType, ref string) *cri.ContainerConfig {
		c := tr.ctrConfig(name, "exec sleep 1000")
		c.Linux.SecurityContext.Apparmor = &cri.SecurityProfile{ProfileType: kind, LocalhostRef: ref}
		return c
	}
	profile := func(ctr string) string {
		one, _ := tr.exec(ctr, "cat", "/proc/1/attr/current")
		self, _ := tr.exec(ctr, "cat", "/proc/self/attr/current")
		if one != self {
			t.Errorf("the container is under %q, an exec in it under %q", one, self)
		}
		return strings.TrimSpace(one)
	}

	unset := tr.create(pod, p, tr.ctrConfig("unset", "exec sleep 1000"))
	tr.start(unset)
	byDefault := tr.create(pod, p, with("default", cri.SecurityProfile_RuntimeDefault, ""))
	tr.start(byDefault)
	for _, ctr := range []string{unset, byDefault} {
		if got := profile(ctr); got != "postern-default (enforce)" {
			t.Errorf("profile %q, want postern-default", got)
		}
	}
	// What the profile denies although files and capabilities would permit it, and what it must not hinder.
	for script, works := range map[string]bool{
		"echo x > /tmp/file && cp /bin/busybox /tmp/busybox && /tmp/busybox true": true,
		"kill -0 1 && (sleep 100 & kill $!)":                                      true,
		"echo x > /proc/self/comm":                                                true,
		"echo changeprofile unconfined > /proc/self/attr/current":                 false,
		"echo exec unconfined > /proc/self/attr/exec && exec true":                false,
		"echo 'exec postern-e2e-complains' > /proc/self/attr/exec && exec true":   false,
		"echo 1 > /proc/sys/kernel/panic":                                         false,
		"echo b > /proc/sysrq-trigger":                                            false,
		"mkdir /tmp/m && mount -t tmpfs x /tmp/m":                                 false,
	} {
		if out, code := tr.exec(byDefault, "sh", "-c", script); (code == 0) != works {
			t.Errorf("%s: exit %d: %s", script, code, out)
		}
	}
	if _, err := tr.rt.StopContainer(ctx(t), &cri.StopContainerRequest{ContainerId: byDefault, Timeout: 1}); err != nil {
		t.Errorf("a confined container cannot be stopped: %v", err)
	}
	tr.exited(byDefault, 137)

	for _, l := range tr.labels() {
		if !strings.HasPrefix(l.Label, program(l.Name)+".") || !strings.HasSuffix(l.Label, " (enforce)") {
			t.Errorf("%s is under the profile %q", l.Name, l.Label)
		}
	}
	mine := with("own", cri.SecurityProfile_Localhost, "postern-e2e")
	mine.Args = []string{"trap 'exit 7' TERM; while :; do sleep 1; done"}
	own := tr.create(pod, p, mine)
	tr.start(own)
	if got := profile(own); got != "postern-e2e (enforce)" {
		t.Errorf("profile %q, want postern-e2e", got)
	}
	if out, code := tr.exec(own, "sh", "-c", "echo x > /etc/forbidden"); code == 0 {
		t.Errorf("the profile does not hold: %s", out)
	}
	if _, err := tr.rt.StopContainer(ctx(t), &cri.StopContainerRequest{ContainerId: own, Timeout: int64(limit(patience).Seconds())}); err != nil {
		t.Errorf("stopping a container whose profile takes signals of processes without one: %v", err)
	}
	tr.exited(own, 7)
	for _, c := range []struct {
		cfg  *cri.ContainerConfig
		code codes.Code
		say  string
	}{
		{with("missing", cri.SecurityProfile_Localhost, "postern-e2e-missing"), codes.InvalidArgument, `"postern-e2e-missing" is not loaded`},
		{with("complains", cri.SecurityProfile_Localhost, "postern-e2e-complains"), codes.InvalidArgument, "complain"},
		{with("sly", cri.SecurityProfile_Localhost, "unconfined"), codes.InvalidArgument, `"unconfined" is not loaded`},
		{with("off", cri.SecurityProfile_Unconfined, ""), codes.PermissionDenied, "CEIL-APPARMOR"},
	} {
		_, err := tr.rt.CreateContainer(ctx(t), &cri.CreateContainerRequest{PodSandboxId: pod, Config: c.cfg, SandboxConfig: p})
		wantError(t, err, c.code, c.say)
	}

	last := with("last", cri.SecurityProfile_Localhost, "postern-e2e") // which takes no signal of init
	last.Args = []string{"while :; do sleep 1; done # " + tr.root + "/last"}
	tr.start(tr.create(pod, p, last))
	lives := func() error {
		all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, f := range all {
			if b, err := os.ReadFile(f); err == nil && strings.HasSuffix(string(b), tr.root+"/last\x00") {
				return fmt.Errorf("%s lives", f)
			}
		}
		return nil
	}
	if lives() == nil {
		t.Error("the container to be killed does not live")
	}
	tr.stop()
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.procs"); err == nil { // version 1 has nothing to kill it with
		tr.eventually(10*time.Second, "the container is killed", lives)
	}
	tr.up("baseline")
}

// TestAppArmorAlone: where a wide ceiling has opened everything else, the default
// profile still holds, and only a container without it gets through.
func TestAppArmorAlone(t *testing.T) {
	if _, err := os.Stat("/sys/kernel/security/apparmor"); err != nil {
		t.Skip("needs AppArmor: make test-vm has it")
	}
	tr := startTree(t, "conformance", "")
	tr.pull()
	p := tr.podConfig("open")
	pod := tr.runPod(p)
	for name, kind := range map[string]cri.SecurityProfile_ProfileType{
		"postern-default (enforce)": cri.SecurityProfile_RuntimeDefault, "unconfined": cri.SecurityProfile_Unconfined,
	} {
		c := tr.ctrConfig(strings.Fields(name)[0], "exec sleep 1000")
		sc := c.Linux.SecurityContext
		sc.Apparmor = &cri.SecurityProfile{ProfileType: kind}
		sc.Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined}
		sc.Capabilities = &cri.Capability{AddCapabilities: []string{"ALL"}}
		sc.MaskedPaths, sc.ReadonlyPaths = []string{"/proc/keys"}, []string{"/proc/fs"}
		ctr := tr.create(pod, p, c)
		tr.start(ctr)
		if out, _ := tr.exec(ctr, "cat", "/proc/1/attr/current"); strings.TrimSpace(out) != name {
			t.Errorf("profile %q, want %q", out, name)
		}
		const always, never = true, false
		for script, confined := range map[string]bool{
			"mkdir -p /tmp/m && mount -t tmpfs x /tmp/m":                             never,
			"umount /dev/mqueue":                                                     never,
			"f=/proc/sys/kernel/core_pattern; v=$(cat $f) && echo \"$v\" > $f":       never,
			"f=/proc/sys/vm/swappiness; v=$(cat $f) && echo $v > $f":                 never,
			"f=/proc/sys/kernel/sched_rt_runtime_us; v=$(cat $f) && echo $v > $f":    never,
			"f=/proc/sys/kernel/shm_rmid_forced; v=$(cat $f) && echo $v > $f":        always,
			"f=/proc/sys/kernel/msgmni; v=$(cat $f) && echo $v > $f":                 always,
			"f=/proc/sys/kernel/sem; v=$(cat $f) && echo $v > $f":                    always,
			"f=/proc/irq/default_smp_affinity; v=$(cat $f) && echo $v > $f":          never,
			"f=/proc/self/oom_score_adj; v=$(cat $f) && echo $v > $f":                always,
			"hostname other && hostname open":                                        always,
			"echo x > /proc/self/task/$$/comm && touch /sys_ok /proc_ok && rm /*_ok": always,
		} {
			if out, code := tr.exec(ctr, "sh", "-c", script); (code == 0) != (confined || kind == cri.SecurityProfile_Unconfined) {
				t.Errorf("%s: %s: exit %d: %s", name, script, code, out)
			}
		}
	}
}
