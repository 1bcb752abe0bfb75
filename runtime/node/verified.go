package node

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/postern-cri/postern/policy/engine"
	"github.com/postern-cri/postern/verify/trust"
)

// checkTrust reads a trust file as the verifier will.
func checkTrust(path string) []Finding {
	if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
		return nil // up writes it
	}
	c, err := trust.Load(path)
	switch {
	case err != nil:
		return []Finding{{Error: true, What: "trust", Text: err.Error()}}
	case !c.Accept && len(c.Rules) == 0:
		return []Finding{{What: "trust", Text: path + " rejects every image: there is no rule",
			Remedy: "add an authority and a rule for the registries that you trust"}}
	}
	return nil
}

// checkPolicy compiles a policy directory as policyd will.
func checkPolicy(dir string) (out []Finding) {
	files, err := engine.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) || err == nil && len(files) == 0 {
		return nil // up fills it
	}
	if err == nil {
		_, err = engine.Compile(context.Background(), files)
	}
	if err != nil {
		for _, l := range strings.Split(err.Error(), "\n") {
			out = append(out, Finding{Error: true, What: "policy", Text: l})
		}
	}
	return out
}
