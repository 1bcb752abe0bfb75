package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/layout"
	"github.com/postern-cri/postern/profiles/selinux"
	"github.com/postern-cri/postern/runtime/config"
)

// Node is an installation that is about to start.
type Node struct {
	Root    string // "" for the system's places
	Bin     string // where the programs are
	Layout  layout.Layout
	Profile string
	Config  config.Config
	Users   layout.Users
	Named   bool // Users are from /etc/passwd
	Notes   []string

	text   []byte // postern.toml to write, nil if it is there
	parked int    // pid of a tree with only containers left
}

// Open reads the configuration: file, or the installation's postern.toml, or the
// defaults. profile is "" where the command line does not say one. Nothing is
// changed.
func Open(root, profile, file string) (*Node, error) {
	if root != "" {
		abs, err := filepath.Abs(root)
		if err != nil {
			return nil, err
		}
		root = abs
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if profile != "" && !contains(config.Profiles, profile) {
		return nil, config.UnknownProfile(profile)
	}
	n := &Node{Root: root, Bin: filepath.Dir(exe), Layout: layout.New(root)}
	from := n.Layout.Config()
	if file != "" {
		from = file
	}
	says := true
	text, err := os.ReadFile(from)
	switch {
	case errors.Is(err, os.ErrNotExist) && file == "":
		n.Config, says = config.Default(), false
	case err != nil:
		return nil, err
	default:
		if n.Config, err = config.Parse(filepath.Base(from), text); err != nil {
			return nil, err
		}
		says = config.Says(text, "profile")
		if file != "" && profile != "" && says && n.Config.Profile != profile {
			return nil, fmt.Errorf("%s says profile = %q and --profile says %q: remove one of them", filepath.Base(file), n.Config.Profile, profile)
		}
	}
	if n.Profile, err = settleProfile(n.Layout, profile, n.Config, says); err != nil {
		return nil, err
	}
	n.Config.Profile = n.Profile
	switch {
	case file != "" && !says:
		n.text = append([]byte(fmt.Sprintf("profile = %q\n", n.Profile)), text...)
	case file != "":
		n.text = text
	case text == nil:
		n.text = []byte(config.Starter(n.Profile))
	}
	n.Users, n.Named, err = Users("/etc/passwd", n.Config.Users.Base)
	return n, err
}

// programs are the daemons' files.
func (n *Node) programs() (list []string) {
	for _, p := range processes(n.Root, n.Bin, n.Layout, n.Users, n.Config).Processes {
		if b := filepath.Base(p.Path); !contains(list, b) {
			list = append(list, b)
		}
	}
	return list
}

// Lock takes the lock of the installation. It is held by init from then on, so
// that a second start is refused. If only containers are left of a former start,
// their init is taken over instead.
func (n *Node) Lock() (*os.File, error) {
	if err := os.MkdirAll(n.Layout.Run, 0o711); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(n.Layout.Run, "lock"), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
		n.endStale()
		return f, nil
	}
	if b, err := os.ReadFile(parkedFile(n.Layout)); err == nil {
		pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
		if name, ok := belongs(fmt.Sprintf("/proc/%d", pid), n.Root, n.Bin); ok && name == "postern-init" {
			n.parked = pid
			return f, nil
		}
	}
	f.Close()
	where := n.Root
	if where == "" {
		where = "this system"
	}
	return nil, fmt.Errorf("postern is running already on %s: see postern status, or end it with SIGTERM to postern-init", where)
}

// endStale ends daemons that outlived an init which was killed: they hold
// sockets that nobody can reach any more.
func (n *Node) endStale() {
	left, _ := Processes(n.Root, n.Bin)
	for _, p := range left {
		if unix.Kill(p.PID, unix.SIGKILL) == nil {
			n.Notes = append(n.Notes, fmt.Sprintf("ended %s (pid %d), left by a former start", p.Name, p.PID))
		}
	}
}

// Prepare makes directories and files with their labels, and loads the AppArmor profiles.
func (n *Node) Prepare() error {
	types := selinux.Files(n.Layout)
	for _, d := range directories(n.Root, n.Layout, n.Users) {
		if err := d.make(); err != nil {
			return fmt.Errorf("making %s: %w", d.path, err)
		}
		if err := labelFile(d.path, types[d.path]); err != nil {
			return fmt.Errorf("making %s: %w", d.path, err)
		}
	}
	if n.text != nil {
		if err := replaceFile(n.Layout.Config(), n.text, 0o644); err != nil {
			return err
		}
	}
	notes, err := fill(n.Layout, n.Profile, n.Config)
	n.Notes = append(n.Notes, notes...)
	if err != nil {
		return err
	}
	if err := makeLogRoots(n.Layout.Ceiling()); err != nil {
		return err
	}
	if err := makeSpecifications(n.Layout); err != nil {
		return err
	}
	for path, kind := range map[string]string{n.Layout.Etc: types[n.Layout.Etc], filepath.Join(n.Layout.Run, "lock"): types[n.Layout.Run]} {
		if err := labelTree(path, kind); err != nil { // what was there before its directory was labelled
			return err
		}
	}
	if err := n.loadProfiles("/sys"); err != nil {
		return err
	}
	users := n.Layout.UsersFile()
	if err := layout.WriteUsers(users+".tmp", n.Users); err != nil {
		return err
	}
	if err := os.Chmod(users+".tmp", 0o644); err != nil {
		return err
	}
	if err := os.Rename(users+".tmp", users); err != nil {
		return err
	}
	return writeInit(n.Layout.InitConfig(), processes(n.Root, n.Bin, n.Layout, n.Users, n.Config))
}

// Exec turns this process into init. It returns only on an error.
func (n *Node) Exec(lock *os.File) error {
	init := filepath.Join(n.Bin, "postern-init")
	args := []string{init, "--root", n.Root, "--config", n.Layout.InitConfig()}
	if n.parked != 0 {
		args = append(args, "--wake", strconv.Itoa(n.parked))
	}
	// Fd 3 is where init expects the lock.
	if fd := int(lock.Fd()); fd != 3 {
		if err := unix.Dup3(fd, 3, 0); err != nil {
			return err
		}
	} else if _, err := unix.FcntlInt(3, unix.F_SETFD, 0); err != nil {
		return err
	}
	runtime.LockOSThread() // the profile is entered by the thread that executes
	if err := n.enterProfile("/sys"); err != nil {
		return err
	}
	return fmt.Errorf("executing %s: %w", init, unix.Exec(init, args, []string{}))
}
