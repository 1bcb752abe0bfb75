// Postern is the operator's program: it starts a node, checks its configuration,
// shows what runs and with which rights, and works with policies, signatures and
// the audit log.
package main

import (
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run is main for tests.
func run(args []string, out, errs io.Writer) int {
	root := command()
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errs)
	if err := root.Execute(); err != nil {
		for _, l := range strings.Split(err.Error(), "\n") {
			fmt.Fprintln(errs, "error:", l)
		}
		return 1
	}
	return 0
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:   "postern",
		Short: "A Kubernetes container runtime whose front end has no rights",
		Long: `Postern runs the containers of a Kubernetes node. Nothing in it that talks to a
network, parses an image, evaluates a policy or answers the kubelet holds any
privilege; one small helper does, and it does only what a closed vocabulary can
say, what a root-owned ceiling allows and what a policy permits.`,
		Example: `  # a node in a directory of its own, for trying things
  postern up --root /tmp/p --profile baseline
  crictl -r unix:///tmp/p/run/postern.sock pods

  # is everything in order, and what runs with which rights?
  postern check
  postern status`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return fmt.Errorf("%w: see %s --help", err, c.CommandPath())
	})
	root.AddCommand(upCommand(), checkCommand(), statusCommand(), versionCommand(), readyCommand())
	root.AddCommand(plugged()...)
	explain(root)
	return root
}

// explain makes wrong arguments of c and its sub-commands say what was meant and
// how the command is used.
func explain(c *cobra.Command) {
	for _, sub := range c.Commands() {
		explain(sub)
	}
	check := c.Args
	if check == nil {
		return
	}
	c.Args = func(c *cobra.Command, args []string) error {
		err := check(c, args)
		if err == nil {
			return nil
		}
		meant := ""
		if len(args) > 0 && c.HasSubCommands() {
			c.SuggestionsMinimumDistance = 2
			if s := c.SuggestionsFor(args[0]); len(s) > 0 {
				meant = fmt.Sprintf("; did you mean %q?", s[0])
			}
		}
		return fmt.Errorf("%w%s: see %s --help", err, meant, c.CommandPath())
	}
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  postern version",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			info, ok := debug.ReadBuildInfo()
			if !ok {
				return fmt.Errorf("this program was built without version information")
			}
			revision := ""
			for _, s := range info.Settings {
				if s.Key == "vcs.revision" {
					revision = " (" + s.Value[:min(12, len(s.Value))] + ")"
				}
			}
			_, err := fmt.Fprintf(c.OutOrStdout(), "postern %s%s %s\n", info.Main.Version, revision, info.GoVersion)
			return err
		},
	}
}

// rootFlag adds --root.
func rootFlag(c *cobra.Command, root *string) {
	c.Flags().StringVar(root, "root", "", "directory that everything lies beneath (default: the system's places)")
	if err := c.MarkFlagDirname("root"); err != nil {
		panic(err) // the flag was just added
	}
}
