package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/postern-cri/postern/privsep/ceiling"
	"github.com/postern-cri/postern/profiles/apparmor"
)

// parsers are where distributions put AppArmor's compiler. PATH is not asked: what
// it finds runs as root.
var parsers = []string{"/usr/sbin/apparmor_parser", "/sbin/apparmor_parser", "/usr/bin/apparmor_parser"}

const getParser = "apt-get install apparmor"

func parser() (string, bool) {
	for _, p := range parsers {
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() {
			return p, true
		}
	}
	return "", false
}

// checkAppArmor says what would keep containers and our own processes from their
// AppArmor profiles.
func (n *Node) checkAppArmor(sys string) []Finding {
	present, reachable := apparmor.Enabled(sys)
	if !present {
		return nil
	}
	if !reachable {
		return []Finding{{What: "AppArmor", Text: "the kernel has it, but securityfs is not mounted: containers run without a profile",
			Remedy: "mount -t securityfs securityfs /sys/kernel/security"}}
	}
	if _, ok := parser(); ok {
		return nil
	}
	f := Finding{What: "AppArmor", Text: "apparmor_parser is missing: profiles cannot be loaded, and nothing can be started", Remedy: getParser}
	if loaded(sys, apparmor.Installation{Root: n.Root}) == nil {
		f.Text = "apparmor_parser is missing: the profiles that are loaded stay as they are"
		return []Finding{f}
	}
	f.Error = true
	return []Finding{f}
}

// installation is what the profiles of our own processes are made for.
func (n *Node) installation() (apparmor.Installation, error) {
	l := n.Layout
	i := apparmor.Installation{Root: n.Root, Bin: n.Bin, Etc: l.Etc, Run: l.Run, Lib: l.Lib, Log: l.Log, Plugins: append([]string{n.Config.Network.ConfDir}, n.Config.Network.BinDirs...)}
	for _, f := range []string{n.Config.Image.RegistriesConf, n.Config.Image.AuthFile} {
		if f != "" {
			i.Pulls = append(i.Pulls, f, f+".d")
		}
	}
	c, err := ceiling.Load(l.Ceiling())
	if err != nil {
		return i, err
	}
	for _, r := range c.LogRoots {
		i.Logs = append(i.Logs, r.Path)
	}
	return i, nil
}

// loadProfiles loads the profiles of containers and of our own processes in place
// of what has their names, and looks whether they confine from now on.
func (n *Node) loadProfiles(sys string) error {
	if _, reachable := apparmor.Enabled(sys); !reachable {
		return nil
	}
	i, err := n.installation()
	if err != nil {
		return err
	}
	ours, err := i.Text()
	if err != nil {
		return err
	}
	if path, ok := parser(); ok { // else loaded is loaded: check warns
		if err := load(path, append(append([]byte{}, apparmor.Text...), ours...)); err != nil {
			return err
		}
	}
	return loaded(sys, i)
}

// loaded tells whether all profiles are loaded that containers and our own
// processes need.
func loaded(sys string, i apparmor.Installation) error {
	errs := []error{apparmor.Confines(sys, apparmor.Default)}
	for _, p := range apparmor.Programs() {
		errs = append(errs, apparmor.Confines(sys, i.Name(p)))
	}
	return errors.Join(errs...)
}

// enterProfile has the next program that this thread executes start in init's
// profile, from which every other process of ours gets to its own.
func (n *Node) enterProfile(sys string) error {
	if _, reachable := apparmor.Enabled(sys); !reachable {
		return nil
	}
	name := apparmor.Installation{Root: n.Root}.Name("postern-init")
	f, err := os.OpenFile("/proc/thread-self/attr/exec", os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString("exec " + name)
		f.Close()
	}
	if err != nil {
		return fmt.Errorf("entering the AppArmor profile %s: %w", name, err)
	}
	return nil
}

// load has AppArmor's compiler load profiles.
func load(path string, text []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--replace", "--skip-cache", "--quiet")
	cmd.Env, cmd.Dir, cmd.Stdin = []string{}, "/", bytes.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("loading the AppArmor profiles: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}
