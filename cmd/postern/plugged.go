package main

import (
	auditcli "github.com/postern-cri/postern/audit/cli"
	policycli "github.com/postern-cri/postern/policy/cli"
	"github.com/spf13/cobra"
)

// plugged are commands that other packages bring.
func plugged() []*cobra.Command { return []*cobra.Command{auditcli.Command(), policycli.Command()} }
