package main

import (
	"github.com/spf13/cobra"

	audit "github.com/postern-cri/postern/audit/cli"
	policy "github.com/postern-cri/postern/policy/cli"
)

// plugged are commands that other packages bring.
func plugged() []*cobra.Command { return []*cobra.Command{audit.Command(), policy.Command()} }
