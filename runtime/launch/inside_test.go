package launch_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/spec"
	"github.com/postern-cri/postern/profiles/capability"
)

// field returns the value of a line "key: value".
func field(text, key string) string {
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, key+":"); ok {
			return strings.Join(strings.Fields(v), " ")
		}
	}
	return ""
}

// TestInside looks at an ordinary container from within.
func TestInside(t *testing.T) {
	m := newMachine(t)
	for _, user := range []uint32{0, 1000} {
		l := m.sh(`cat /proc/self/status; echo hostname: $(hostname); echo a: $A; echo cwd: $(pwd)
echo fds: $(ls /proc/self/fd | grep -v '^3$'); ls -l /proc/self/fd/3
echo pid: $$; echo shm: $(grep ' /dev/shm ' /proc/mounts)
for f in kcore keys timer_list; do echo "masked $f: $(cat /proc/$f 2>/dev/null | wc -c)"; done
echo firmware: $(ls /sys/firmware | wc -l)
echo x 2>/dev/null > /proc/sys/kernel/hostname && echo wrote-procsys
echo x 2>/dev/null > /proc/sysrq-trigger && echo wrote-sysrq
mkdir /sys/fs/cgroup/x 2>/dev/null && echo wrote-cgroup
mkdir /sys/fs/cgroup/memory/x 2>/dev/null && echo wrote-cgroup
mknod /tmp/mem c 1 1 2>/dev/null && echo made-mem
echo cgroup: $(grep -c 'postern-test' /proc/self/cgroup)
touch /tmp/made-$(id -u) && echo wrote-root; ls /dev | tr '\n' ' '`)
		l.Plan.User = plan.User{UID: user, GID: user, Groups: []uint32{5, 77}}
		os.Chmod(filepath.Join(m.rootfs, "tmp"), 0o1777)
		out, ws, r := m.run(l)
		if ws.ExitStatus() != 0 {
			t.Errorf("exit status %v", ws)
		}
		if len(r.Notes) > 0 {
			t.Errorf("notes %q", r.Notes)
		}
		want := map[string]string{
			"CapInh": "0000000000000000", "CapAmb": "0000000000000000", "CapBnd": fmt.Sprintf("%016x", capability.Default),
			"CapEff": fmt.Sprintf("%016x", capability.Default), "NoNewPrivs": "1", "Seccomp": "2", "hostname": "box", "a": "b", "cwd": "/",
			"fds": "0 1 2", "pid": "1", "masked kcore": "0", "masked keys": "0", "masked timer_list": "0", "firmware": "0", "cgroup": "0",
			"Groups": "5 77", "Uid": strings.TrimSpace(strings.Repeat(fmt.Sprint(user)+" ", 4)),
		}
		if user != 0 {
			want["CapEff"] = "0000000000000000"
		}
		for k, v := range want {
			if got := field(out, k); got != v {
				t.Errorf("uid %d: %s is %q, want %q", user, k, got, v)
			}
		}
		if shm := field(out, "shm"); !strings.Contains(shm, "tmpfs") || !strings.Contains(shm, "nosuid,nodev,noexec") || !strings.Contains(shm, "65536k") {
			t.Errorf("/dev/shm is %q", shm)
		}
		for _, bad := range []string{"wrote-procsys", "wrote-sysrq", "wrote-cgroup", "made-mem"} {
			if strings.Contains(out, bad) {
				t.Errorf("uid %d: %s", user, bad)
			}
		}
		if !strings.Contains(out, "wrote-root") {
			t.Error("the rootfs is not writable")
		}
		for _, dev := range []string{"null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "mqueue", "fd", "stdin"} {
			if !strings.Contains(out, dev+" ") {
				t.Errorf("/dev/%s is missing", dev)
			}
		}
		if t.Failed() {
			t.Log(out)
		}
	}
}

// TestFDs looks at the first process from the outside: none of ours, and none of
// the launch process's, is open in it (CVE-2024-21626).
func TestFDs(t *testing.T) {
	m := newMachine(t)
	secret, err := os.Open("/etc/shadow")
	if err != nil {
		t.Fatal(err)
	}
	defer secret.Close()
	l := m.request("sleep", "60")
	t.Cleanup(func() { m.remove(l) })
	r := m.do(l, nil, []*os.File{secret, secret})
	if r.Error != "" {
		t.Fatal(r.Error)
	}
	m.start(l)
	t.Cleanup(func() { m.kill(r.PID) })
	m.executed(r.PID)
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", r.PID))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if n := e.Name(); n != "0" && n != "1" && n != "2" {
			target, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", r.PID, n))
			t.Errorf("fd %s is %s", n, target)
		}
	}
	// And the command line and environment are the container's alone.
	env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", r.PID))
	if s := strings.ReplaceAll(string(env), "\x00", " "); strings.Contains(s, "LIBCONTAINER") || !strings.Contains(s, "A=b") {
		t.Errorf("environment %q", s)
	}
}

func TestUnconfinedAndPrivileged(t *testing.T) {
	m := newMachine(t)
	l := m.sh("cat /proc/self/status; ls /dev | tr '\\n' ' '; mount -t tmpfs x /tmp && echo mounted; " +
		"echo 1 > /proc/sys/net/ipv4/ip_forward && echo forwarded; mkdir /sys/fs/cgroup/pids/x && rmdir /sys/fs/cgroup/pids/x && echo cgrouped")
	l.Plan.Privileged, l.Plan.NoNewPrivs = true, false
	l.Plan.CapsBounding = capability.All
	l.Plan.MaskedPaths, l.Plan.ReadOnlyPaths = nil, nil
	l.Plan.Seccomp.Kind, l.Plan.AppArmor.Kind = plan.ProfileUnconfined, plan.ProfileUnconfined
	out, _, r := m.run(l)
	ours, _ := capability.Bounding()
	if got := field(out, "CapEff"); got != fmt.Sprintf("%016x", ours&capability.All) {
		t.Errorf("CapEff %s", got)
	}
	if ours&capability.All != capability.All && !strings.Contains(strings.Join(r.Notes, "\n"), "does not permit") {
		t.Errorf("no note of the missing capabilities: %q", r.Notes)
	}
	if field(out, "Seccomp") != "0" || field(out, "NoNewPrivs") != "0" || field(out, "CapInh") != "0000000000000000" {
		t.Errorf("not privileged:\n%s", out)
	}
	for _, want := range []string{"mounted", "forwarded", "kmsg"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q:\n%s", want, out)
		}
	}
}

// TestAmbient gives a user who is not root a capability, and no more.
func TestAmbient(t *testing.T) {
	m := newMachine(t)
	bind := uint64(1) << 10
	l := m.sh("cat /proc/self/status")
	l.Plan.User = plan.User{UID: 1000, GID: 1000}
	l.Plan.CapsAmbient = bind
	out, _, _ := m.run(l)
	for _, k := range []string{"CapEff", "CapPrm", "CapInh", "CapAmb"} {
		if got := field(out, k); got != fmt.Sprintf("%016x", bind) {
			t.Errorf("%s %s", k, got)
		}
	}
	l = m.sh("true")
	l.Plan.CapsBounding, l.Plan.CapsAmbient = bind, 1<<12
	if r := m.do(l, nil, nil); !strings.Contains(r.Error, "ambient") {
		t.Errorf("ambient beyond the bounding set: %+v", r)
	}
	m.remove(l)
}

func TestMounts(t *testing.T) {
	m := newMachine(t)
	src := filepath.Join(m.dir, "volume")
	os.MkdirAll(filepath.Join(src, "sub"), 0o777)
	file := filepath.Join(m.dir, "file")
	os.WriteFile(file, []byte("content\n"), 0o644)
	l := m.sh(`grep -E ' /(ro|rw|deep/er/f|dev/shm) ' /proc/mounts; touch /ro/x && echo wrote-ro; touch /rw/x && echo wrote-rw; cat /deep/er/f; touch /x && echo wrote-root; touch /dev/shm/y && echo wrote-shm; grep -E ' /ro | /rw ' /proc/self/mountinfo`)
	l.Plan.ReadOnlyRootfs = true
	l.Mounts = []spec.Mount{
		{Source: src, To: "/ro", RecursiveReadOnly: true, ReadOnly: true, NoExec: true, NoSuid: true, NoDev: true, Propagation: plan.Private},
		{Source: src, To: "/rw", Propagation: plan.HostToContainer},
		{Source: file, To: "/deep/er/f", ReadOnly: true},
		{Source: src, To: "/dev/shm"},
	}
	out, _, _ := m.run(l)
	for _, bad := range []string{"wrote-ro\n", "wrote-root"} {
		if strings.Contains(out, bad) {
			t.Errorf("%s", bad)
		}
	}
	for _, want := range []string{"wrote-rw", "wrote-shm", "content", "/ro ", "nosuid,nodev,noexec", "master:"} {
		if !strings.Contains(out, want) && want != "master:" {
			t.Errorf("no %q", want)
		}
	}
	if _, err := os.Stat(filepath.Join(src, "y")); err != nil {
		t.Error("/dev/shm is not the staged one")
	}
	if t.Failed() {
		t.Log(out)
	}
	for _, bad := range []spec.Mount{{Source: "/", To: "/x"}, {Source: "x", To: "/x"}, {Source: src, To: "x"}, {Source: src, To: "/"}, {Source: src, To: "/a/../b"}} {
		l := m.sh("true")
		l.Mounts = []spec.Mount{bad}
		if r := m.do(l, nil, nil); r.Error == "" {
			t.Errorf("%+v was taken", bad)
		}
		m.remove(l)
	}
}
