// Package machine is the helper's hands: every effect on the kernel that a plan
// may have, behind the interface helper.Kernel.
//
// Rules of this package:
//   - what it is given was checked against ceiling, record and policy; paths on
//     the host are made here, from places, and resolved beneath a root;
//   - everything is made in the box, a private mount that only root can enter;
//   - a note of what will be made stands in the box before it is made, so that a
//     kill at any moment leaves nothing that Leftovers does not find;
//   - removal is idempotent, goes on after an error, and makes a staged tree
//     private before it is unmounted: its mounts are peers of the host's.
package machine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/ceiling"
	"github.com/postern-cri/postern/privsep/helper"
	"github.com/postern-cri/postern/privsep/keeper"
	"github.com/postern-cri/postern/privsep/label"
	"github.com/postern-cri/postern/privsep/layout"
	"github.com/postern-cri/postern/privsep/mount"
	"github.com/postern-cri/postern/privsep/record"
	"github.com/postern-cri/postern/privsep/spec"
	"github.com/postern-cri/postern/privsep/wire"
)

// Options are what a Machine is made of.
type Options struct {
	Layout  layout.Layout
	Users   layout.Users
	Ceiling *ceiling.Ceiling
	Keeper  *keeper.Client
	Bin     string // directory of postern-launch and postern-cni
}

// Machine is the real helper.Kernel.
type Machine struct {
	Options
	cgroup2 bool
	launch  *os.File // opened once: an upgrade brings a new helper with it
	cni     string
	self    *os.File // sealed copy of our own program, for pause processes

	cgroups sync.Mutex // held while pod cgroups come and go

	mu     sync.Mutex // guards layers
	layers map[string]int
}

var _ helper.Kernel = (*Machine)(nil)

// New prepares the box.
func New(o Options) (*Machine, error) {
	m := &Machine{Options: o, layers: map[string]int{}, cni: filepath.Join(o.Bin, "postern-cni")}
	var fs unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &fs); err != nil {
		return nil, fmt.Errorf("looking at the cgroup mount: %w", err)
	}
	m.cgroup2 = fs.Type == unix.CGROUP2_SUPER_MAGIC
	if err := mount.Box(o.Layout.Box()); err != nil {
		return nil, err
	}
	for _, d := range []string{m.box("pod"), m.box("ctr"), m.box("layers"), m.box("launch"), m.state("ctr"), m.state("cni")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("preparing the box: %w", err)
		}
	}
	f, err := os.Open(filepath.Join(o.Bin, "postern-launch"))
	if err != nil {
		return nil, fmt.Errorf("opening the launch program: %w", err)
	}
	if m.launch, err = high(f); err != nil {
		return nil, err
	}
	return m, m.countLayers()
}

// high moves f to a number that no fd of a program we start has: it is the path
// that this program is executed by. Between fork and exec the library moves fds to
// the numbers just above the highest one that the program gets; so the number is
// far above what is ever open at a time.
func high(f *os.File) (*os.File, error) {
	defer f.Close()
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return nil, err
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, int(min(l.Cur-min(l.Cur, 64), 1000)))
	if err != nil {
		return nil, fmt.Errorf("duplicating an fd: %w", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

func (m *Machine) box(parts ...string) string {
	return filepath.Join(append([]string{m.Layout.Box()}, parts...)...)
}

func (m *Machine) state(parts ...string) string {
	return filepath.Join(append([]string{m.Layout.BoxState()}, parts...)...)
}

// Features says what this machine can do.
func (m *Machine) Features() (cgroupVersion uint8, bits uint64) {
	bits = wire.FeatureSeccomp | wire.FeatureRecursiveReadOnly
	if b, err := os.ReadFile("/proc/sys/user/max_user_namespaces"); err == nil && strings.TrimSpace(string(b)) != "0" {
		bits |= wire.FeatureUserNS
	}
	if _, err := os.Stat("/sys/kernel/security/apparmor"); err == nil { // as postern-launch sees it
		bits |= wire.FeatureAppArmor
	}
	if label.Enabled() {
		bits |= wire.FeatureSELinux
	}
	if found, err := filepath.Glob(filepath.Join(m.Ceiling.Network.ConfDir, "*.conf*")); err == nil && len(found) > 0 {
		bits |= wire.FeatureNetwork
	}
	if m.cgroup2 {
		return 2, bits
	}
	return 1, bits
}

// Record reads an image's verification record.
func (m *Machine) Record(manifest string) (*record.Record, []byte, error) {
	dir, err := mount.OpenRoot(m.Layout.Records())
	if err != nil {
		return nil, nil, err
	}
	defer unix.Close(dir)
	return record.Read(dir, manifest, m.Users.Verify.UID)
}

// Epoch is the present state of the trust configuration.
func (m *Machine) Epoch() (string, error) { return record.Epoch(m.Layout.Trust(), m.Layout.TrustDir()) }

// Forget lets init drop what it keeps under id.
func (m *Machine) Forget(id string) { _ = m.Keeper.Forget(id) } // it expires there by itself

// procOf identifies a running process.
func procOf(pid int) (helper.Proc, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return helper.Proc{}, fmt.Errorf("identifying process %d: %w", pid, err)
	}
	// The name, in parentheses, is the process's own choice: skip to its end.
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(f) < 20 || f[0] == "Z" || f[0] == "X" {
		return helper.Proc{}, fmt.Errorf("process %d has exited", pid)
	}
	start, err := strconv.ParseUint(f[19], 10, 64)
	return helper.Proc{PID: pid, Start: start}, err
}

// Alive tells whether p runs.
func (m *Machine) Alive(p helper.Proc) bool {
	now, err := procOf(p.PID)
	return p.PID > 1 && err == nil && now == p
}

// Signal sends signal to p; one that is gone already is fine. Where p is the first
// process of a container of an OCI runtime, that may know better what the signal
// is for; if it fails, the process is stopped without it.
//
// Expected syscalls: pidfd_open, pidfd_send_signal.
func (m *Machine) Signal(ctr string, p helper.Proc, signal uint8) error {
	if p.PID <= 1 {
		return nil
	}
	if ctr != "" && m.external(ctr) && m.Alive(p) {
		_, _, err := m.run(&spec.Launch{Op: spec.Kill, ID: ctr, Signal: signal}, [3]*os.File{}, nil)
		if err == nil {
			return nil
		}
		fmt.Fprintf(os.Stderr, "container %s: %v\n", ctr, err)
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err == nil {
		defer unix.Close(fd)
		if m.Alive(p) { // asked after opening: the fd is of this very process
			err = m.send(fd, signal)
		}
	}
	if err != nil && err != unix.ESRCH {
		return fmt.Errorf("signalling process %d: %w", p.PID, err)
	}
	return nil
}

// send signals a process by its pidfd. An AppArmor profile of the operator's may
// take signals from processes without a profile alone: postern-launch is one.
func (m *Machine) send(pidfd int, signal uint8) error {
	err := unix.PidfdSendSignal(pidfd, unix.Signal(signal), nil, 0)
	if err != unix.EACCES {
		return err
	}
	fd, err := unix.FcntlInt(uintptr(pidfd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer f.Close()
	_, _, err = m.run(&spec.Launch{Op: spec.Signal, ID: "signal", Signal: signal}, [3]*os.File{}, f)
	return err
}

// removeTree unmounts what is at and beneath dir, a directory of the box, and
// removes it. Nothing is removed while anything is mounted there.
func removeTree(dir string) error {
	if err := mount.UnmountBeneath(dir); err != nil {
		return err
	}
	left, err := mount.Beneath(dir)
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("%s is still mounted", left[0])
	}
	if err != nil {
		return err
	}
	return removeAll(dir)
}

// Leftovers removes what no known pod or container owns.
func (m *Machine) Leftovers(pods, ctrs map[string]bool) error {
	var errs []error
	for _, dir := range []string{m.box("ctr"), m.state("ctr"), m.box("launch")} {
		for _, id := range names(dir) {
			if !ctrs[id] {
				errs = append(errs, m.CtrDelete(id, helper.CtrOut{}))
			}
		}
	}
	for _, id := range names(m.box("pod")) {
		if !pods[id] {
			errs = append(errs, m.PodDelete(helper.PodIn{ID: id}, helper.PodOut{}), m.dropPodDir(id))
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, hex := range names(m.box("layers")) {
		if m.layers[hex] == 0 {
			errs = append(errs, removeTree(m.box("layers", hex)))
		}
	}
	return errors.Join(errs...)
}

func names(dir string) []string {
	ents, _ := os.ReadDir(dir)
	var out []string
	for _, e := range ents {
		out = append(out, e.Name())
	}
	return out
}
