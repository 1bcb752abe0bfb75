package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/postern-cri/postern/policy/rego"
	"github.com/postern-cri/postern/privsep/layout"
	shipped "github.com/postern-cri/postern/profiles/ceiling"
	"github.com/postern-cri/postern/runtime/config"
)

// acceptTrust and rejectTrust are the trust.toml that a profile starts with.
const (
	rejectTrust = `# trust.toml: which signatures an image needs. No rule allows anything yet: add
# authorities and rules (docs/VERIFY.md), and try them with "crictl pull IMAGE".
default = "reject"
`
	acceptTrust = `# trust.toml: which signatures an image needs. The conformance profile takes
# every image, signed or not. Do not use it where that matters.
default = "accept"
`
)

// provenance is where `up` notes the profile that etc was filled from.
func provenance(l layout.Layout) string { return filepath.Join(l.Etc, ".profile") }

// settleProfile settles which profile holds: that of the command line, the file's, or
// the one that etc was filled from.
func settleProfile(l layout.Layout, flag string, c config.Config, fileSaysIt bool) (string, error) {
	b, err := os.ReadFile(provenance(l))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	was := strings.TrimSpace(string(b))
	want := flag
	if want == "" && fileSaysIt {
		want = c.Profile
	}
	if want == "" {
		want = was
	}
	if want == "" {
		want = c.Profile
	}
	if was != "" && was != want {
		return "", fmt.Errorf("%s was filled for profile %q, not %q: a profile is not switched under an existing ceiling and policy; "+
			"move ceiling.toml, policy/, trust.toml, postern.toml and .profile away and start again, or use --profile %s", l.Etc, was, want, was)
	}
	return want, nil
}

// fill writes the etc files that are missing. What postern.toml names in place of
// a shipped file is copied at every start.
func fill(l layout.Layout, profile string, c config.Config) (notes []string, err error) {
	write := func(path string, b []byte) error {
		if _, err := os.Lstat(path); err == nil {
			return nil
		}
		notes = append(notes, "wrote "+path)
		return replaceFile(path, b, 0o644)
	}
	take := func(from, to string) error {
		b, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		return replaceFile(to, b, 0o644)
	}
	if c.Ceiling.File != "" {
		err = take(c.Ceiling.File, l.Ceiling())
	} else if b, ok := shipped.Shipped(profile); ok {
		err = write(l.Ceiling(), b)
	}
	if err != nil {
		return notes, fmt.Errorf("ceiling.file: %w", err)
	}
	changed, err := bindCeiling(l, c)
	if err != nil {
		return notes, err
	}
	if changed {
		notes = append(notes, "set the network and kubelet directories in "+l.Ceiling()+" as postern.toml says")
	}
	trust := rejectTrust
	if profile == "conformance" {
		trust = acceptTrust
	}
	if c.Trust.File != "" {
		err = take(c.Trust.File, l.Trust())
	} else {
		err = write(l.Trust(), []byte(trust))
	}
	if err != nil {
		return notes, fmt.Errorf("trust.file: %w", err)
	}
	if err := fillPolicy(l, profile, c, write, take); err != nil {
		return notes, err
	}
	return notes, replaceFile(provenance(l), []byte(profile+"\n"), 0o644)
}

func fillPolicy(l layout.Layout, profile string, c config.Config, write func(string, []byte) error, take func(string, string) error) error {
	if c.Policy.Dir != "" {
		names, err := policyFiles(c.Policy.Dir)
		if err != nil {
			return fmt.Errorf("policy.dir: %w", err)
		}
		if len(names) == 0 {
			return fmt.Errorf("policy.dir: %s has no .rego file", c.Policy.Dir)
		}
		// Rules of a former start must not stay in force beside these.
		old, _ := policyFiles(l.Policy())
		for _, n := range old {
			if !contains(names, n) {
				if err := os.Remove(filepath.Join(l.Policy(), n)); err != nil {
					return err
				}
			}
		}
		for _, n := range names {
			if err := take(filepath.Join(c.Policy.Dir, n), filepath.Join(l.Policy(), n)); err != nil {
				return fmt.Errorf("policy.dir: %w", err)
			}
		}
		return nil
	}
	name := profile
	if c.Policy.Pack != "" {
		name = c.Policy.Pack
	}
	pack, ok := rego.Pack(name)
	if !ok {
		return fmt.Errorf("policy.pack: no shipped pack is called %q", name)
	}
	if have, _ := policyFiles(l.Policy()); len(have) > 0 {
		return nil
	}
	for n, b := range pack {
		if err := write(filepath.Join(l.Policy(), n), b); err != nil {
			return err
		}
	}
	return nil
}

// policyFiles lists the rules and the data of a policy directory.
func policyFiles(dir string) (names []string, err error) {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if n := e.Name(); e.Type().IsRegular() && (strings.HasSuffix(n, ".rego") || n == "data.json") {
			names = append(names, n)
		}
	}
	return names, err
}
