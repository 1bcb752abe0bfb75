package node

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/policy/rego"
	"github.com/postern-cri/postern/privsep/confine"
	"github.com/postern-cri/postern/runtime/config"
)

// Finding is one thing that check has to say.
type Finding struct {
	Error  bool // else a warning
	What   string
	Text   string
	Remedy string
}

// String is one line.
func (f Finding) String() string {
	level := "warning"
	if f.Error {
		level = "error"
	}
	s := fmt.Sprintf("%s: %s: %s", level, f.What, f.Text)
	if f.Remedy != "" {
		s += "; " + f.Remedy
	}
	return s
}

// Failed says whether there is an error among findings.
func Failed(findings []Finding) bool {
	for _, f := range findings {
		if f.Error {
			return true
		}
	}
	return false
}

// Check finds what would keep the installation from running or from being safe,
// without changing or starting anything.
func (n *Node) Check() []Finding {
	out := append(n.checkKernel(), n.checkAppArmor("/sys")...)
	out = append(out, n.checkSELinux()...)
	out = append(out, n.checkPrograms()...)
	out = append(out, n.checkFiles()...)
	out = append(out, n.checkConfigured()...)
	if n.Root != "" {
		if err := passable(n.Root); err != nil {
			out = append(out, Finding{Error: true, What: "--root", Text: err.Error()})
		}
	}
	return out
}

// checkKernel looks for what the design stands on.
func (n *Node) checkKernel() (out []Finding) {
	need := func(ok bool, what, text, remedy string) {
		if !ok {
			out = append(out, Finding{Error: true, What: "kernel", Text: what + ": " + text, Remedy: remedy})
		}
	}
	if confine.LandlockABI() < 1 {
		out = append(out, Finding{Error: n.Config.Kernel.Landlock == "required", What: "kernel",
			Text:   "Landlock: not there (CONFIG_SECURITY_LANDLOCK, and lsm= on the command line)",
			Remedy: `boot with it, or set kernel.landlock = "optional"`})
	}
	_, err := unix.PrctlRetInt(unix.PR_GET_SECCOMP, 0, 0, 0, 0)
	need(err == nil, "seccomp", "not there", "use a kernel with CONFIG_SECCOMP_FILTER")
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	need(err == nil, "pidfd_open", "not there", "use Linux 5.15 or newer")
	unix.Close(fd)
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS}
	fd, err = unix.Openat2(unix.AT_FDCWD, "/", &how)
	need(err == nil, "openat2", "not there", "use Linux 5.15 or newer")
	unix.Close(fd)
	if b, err := os.ReadFile("/proc/filesystems"); err == nil {
		for _, fs := range []string{"overlay", "erofs"} {
			if !strings.Contains(string(b), "\t"+fs+"\n") {
				out = append(out, Finding{What: "kernel", Text: fs + " is not loaded", Remedy: "modprobe " + fs + " before containers are created"})
			}
		}
	}
	groups := false
	if f, err := os.Open("/proc/self/mountinfo"); err == nil {
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan(); {
			groups = groups || strings.Contains(s.Text(), " - cgroup")
		}
	}
	need(groups, "cgroups", "not mounted", "mount cgroup2 at /sys/fs/cgroup")
	return out
}

// checkPrograms looks for the daemons beside this program.
func (n *Node) checkPrograms() (out []Finding) {
	for _, p := range append([]string{"postern-init", "postern-launch", "postern-cni"}, n.programs()...) {
		path := filepath.Join(n.Bin, p)
		st, err := os.Stat(path)
		switch {
		case err != nil:
			out = append(out, Finding{Error: true, What: "programs", Text: p + " is not in " + n.Bin, Remedy: "install all of Postern's programs in one directory"})
		case st.Mode().Perm()&0o022 != 0 || st.Sys() == nil:
			out = append(out, Finding{Error: true, What: "programs", Text: path + " can be written by others", Remedy: "chmod go-w " + path})
		}
	}
	return out
}

// checkFiles holds the files in etc to their owner and mode: who can write one is
// the administrator.
func (n *Node) checkFiles() (out []Finding) {
	for _, path := range []string{n.Layout.Etc, n.Layout.Config(), n.Layout.Ceiling(), n.Layout.Trust(), n.Layout.Policy(), n.Layout.TrustDir()} {
		out = append(out, owned(path)...)
	}
	for _, dir := range []string{n.Layout.TrustDir(), n.Layout.Policy()} {
		out = append(out, ownedIn(dir)...)
	}
	if _, err := os.Stat(n.Layout.Ceiling()); err == nil {
		out = append(out, checkCeiling(n.Layout.Ceiling())...)
	}
	out = append(out, checkTrust(n.Layout.Trust())...)
	return append(out, checkPolicy(n.Layout.Policy())...)
}

// checkConfigured looks at what postern.toml points to.
func (n *Node) checkConfigured() (out []Finding) {
	c := n.Config
	for key, path := range map[string]string{"image.registries_conf": c.Image.RegistriesConf, "image.auth_file": c.Image.AuthFile, "image.certs_dir": c.Image.CertsDir,
		"ceiling.file": c.Ceiling.File, "trust.file": c.Trust.File, "policy.dir": c.Policy.Dir} {
		if path == "" {
			continue
		}
		if _, err := os.Stat(path); err != nil {
			out = append(out, Finding{Error: true, What: "postern.toml", Text: fmt.Sprintf("%s = %q: %v", key, path, errors.Unwrap(err))})
		}
	}
	if _, err := os.Stat(c.Ceiling.File); err == nil {
		out = append(append(out, owned(c.Ceiling.File)...), checkCeiling(c.Ceiling.File)...)
	}
	if _, ok := rego.Pack(c.Policy.Pack); !ok && c.Policy.Pack != "" {
		out = append(out, Finding{Error: true, What: "postern.toml",
			Text: fmt.Sprintf("policy.pack = %q: no shipped pack is called that; the packs are allow-all, baseline, conformance and restricted", c.Policy.Pack)})
	}
	if c.Policy.Dir != "" {
		out = append(out, checkPolicy(c.Policy.Dir)...)
	}
	if c.Network.ConfDir != config.Default().Network.ConfDir {
		if _, err := os.Stat(c.Network.ConfDir); err != nil {
			out = append(out, Finding{What: "postern.toml", Text: fmt.Sprintf("network.conf_dir = %q: %v", c.Network.ConfDir, errors.Unwrap(err)),
				Remedy: "pods other than host-network ones fail until a CNI configuration is there"})
		}
	}
	return out
}
