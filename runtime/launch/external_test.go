package launch_test

import (
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/postern-cri/postern/privsep/spec"
	"github.com/postern-cri/postern/test/cgroup"
)

// use is the runtime that requests are made with; nil is the built-in one.
var use *spec.Runtime

const (
	binaryEnv  = "POSTERN_LAUNCH_BINARY"
	runtimeEnv = "POSTERN_LAUNCH_RUNTIME"
)

// runtimes are Debian's.
var runtimes = map[string]string{"crun": "/usr/bin/crun", "runc": "/usr/sbin/runc"}

// TestRuntimes holds other OCI runtimes to what the built-in one is held to.
func TestRuntimes(t *testing.T) {
	name := os.Getenv(runtimeEnv)
	if name == "" {
		for name := range runtimes {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				cmd := exec.Command(os.Args[0], "-test.run=^TestRuntimes$", "-test.v")
				cmd.Env = append(os.Environ(), runtimeEnv+"="+name, binaryEnv+"="+binary)
				cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("%v\n%s", err, out)
				}
			})
		}
		return
	}
	if name == "crun" {
		cgroup.OnlyV1(t)
	}
	use = &spec.Runtime{Path: runtimes[name]}
	defer func() { use = nil }()
	for what, test := range map[string]func(*testing.T){
		"Inside": TestInside, "FDs": TestFDs, "UnconfinedAndPrivileged": TestUnconfinedAndPrivileged, "Ambient": TestAmbient, "Mounts": TestMounts,
		"Exec": TestExec, "Terminal": TestTerminal, "Resources": TestResources, "InheritedLimits": TestInheritedLimits, "Lowered": TestLowered,
		"Profiles": TestProfiles, "Delete": TestDelete, "HostileRootfs": TestHostileRootfs, "WorkingDirectory": TestWorkingDirectory, "SelfExe": TestSelfExe,
		"Missing": TestMissing, "Signalled": TestSignalled, "UserNamespace": TestUserNamespace, "SharedNamespaces": TestSharedNamespaces,
	} {
		t.Run(what, test)
	}
}
