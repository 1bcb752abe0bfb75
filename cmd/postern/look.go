package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/postern-cri/postern/runtime/node"
)

func checkCommand() *cobra.Command {
	var f nodeFlags
	c := &cobra.Command{
		Use:   "check",
		Short: "Check configuration, ceiling, policy, trust and kernel without starting anything",
		Example: `  postern check
  postern check --root /tmp/p --profile restricted --config new.toml`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			n, err := node.Open(f.root, f.profile, f.config)
			if err != nil {
				return err
			}
			findings := n.Check()
			for _, x := range findings {
				if !x.Error {
					fmt.Fprintln(c.OutOrStdout(), x)
				}
			}
			if node.Failed(findings) {
				return asError(findings)
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "ok: profile %s, configuration %s\n", n.Profile, n.Layout.Config())
			return err
		},
	}
	f.add(c)
	return c
}

func statusCommand() *cobra.Command {
	var root string
	var asJSON bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Show the processes of a node and the rights that each has",
		Long: `Status reads /proc. CAPS are effective capabilities; NNP is no_new_privs, which
the helper and init do not set because containers would inherit it; PSS is
memory, with what is shared divided among the sharers; LABEL is the SELinux
context or AppArmor profile, where the kernel has one of them.`,
		Example: `  postern status
  postern status --root /tmp/p --json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if root != "" {
				abs, err := filepath.Abs(root)
				if err != nil {
					return err
				}
				root = abs
			}
			exe, err := os.Executable()
			if err != nil {
				return err
			}
			list, err := node.Processes(root, filepath.Dir(exe))
			if err != nil {
				return err
			}
			if len(list) == 0 {
				return errors.New("no process of Postern runs there: start it with postern up, and run status as root")
			}
			if asJSON {
				return json.NewEncoder(c.OutOrStdout()).Encode(list)
			}
			w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
			labelled := slices.ContainsFunc(list, func(p node.Process) bool { return p.Label != "" })
			column := func(s string) string {
				if !labelled {
					return ""
				}
				return "\t" + s
			}
			fmt.Fprintln(w, "PROCESS\tPID\tUID\tCAPS\tNNP\tSECCOMP\tPSS\tUPTIME"+column("LABEL"))
			var sum int64
			for _, p := range list {
				nnp, filter := "no", "none"
				if p.NNP {
					nnp = "yes"
				}
				if p.Seccomp == 2 {
					filter = "filter"
				}
				sum += p.PSS
				fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\t%s\t%.1f MiB\t%s%s\n", p.Name, p.PID, p.UID, p.CapsText(), nnp, filter, float64(p.PSS)/(1<<20), p.Uptime, column(p.Label))
			}
			fmt.Fprintf(w, "%d processes\t\t\t\t\t\t%.1f MiB\t\n", len(list), float64(sum)/(1<<20))
			return w.Flush()
		},
	}
	rootFlag(c, &root)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}
