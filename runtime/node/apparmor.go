package node

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"time"

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

// checkAppArmor says what would keep containers from their AppArmor profile.
func checkAppArmor(sys string) []Finding {
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
	f := Finding{What: "AppArmor", Text: "apparmor_parser is missing: profile " + apparmor.Default + " cannot be loaded, and no container can be created", Remedy: getParser}
	if apparmor.Confines(sys, apparmor.Default) == nil {
		f.Text = "apparmor_parser is missing: the profile " + apparmor.Default + " that is loaded stays as it is"
		return []Finding{f}
	}
	f.Error = true
	return []Finding{f}
}

// loadProfile loads the default profile in place of what has its name, and looks
// whether it confines from now on.
func loadProfile(sys string) error {
	if _, reachable := apparmor.Enabled(sys); !reachable {
		return nil
	}
	path, ok := parser()
	if !ok {
		return apparmor.Confines(sys, apparmor.Default) // loaded is loaded: check warns
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--replace", "--skip-cache", "--quiet")
	cmd.Env, cmd.Dir, cmd.Stdin = []string{}, "/", bytes.NewReader(apparmor.Text)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("loading the AppArmor profile %s: %w: %s", apparmor.Default, err, bytes.TrimSpace(out))
	}
	return apparmor.Confines(sys, apparmor.Default)
}
