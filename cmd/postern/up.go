package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/postern-cri/postern/privsep/layout"
	"github.com/postern-cri/postern/runtime/config"
	"github.com/postern-cri/postern/runtime/node"
)

// nodeFlags are those of up and check.
type nodeFlags struct{ root, profile, config string }

func (f *nodeFlags) add(c *cobra.Command) {
	rootFlag(c, &f.root)
	c.Flags().StringVar(&f.profile, "profile", "", "restricted, baseline or conformance (default: what postern.toml says)")
	c.Flags().StringVar(&f.config, "config", "", "postern.toml to install as the node's (default: the one that is there)")
	err := errors.Join(
		c.RegisterFlagCompletionFunc("profile", cobra.FixedCompletions(config.Profiles, cobra.ShellCompDirectiveNoFileComp)),
		c.MarkFlagFilename("config", "toml"))
	if err != nil {
		panic(err) // the flags were just added
	}
}

func upCommand() *cobra.Command {
	var f nodeFlags
	c := &cobra.Command{
		Use:   "up",
		Short: "Start a node and stay in the foreground",
		Long: `Up makes the directories, fills in configuration files that are missing, checks
everything that check does, and then becomes postern-init, which starts the
daemons. It ends on SIGTERM or SIGINT. Containers are left running unless
postern.toml says stop.on_stop = "kill": the next up takes them over.`,
		Example: `  postern up --root /tmp/p --profile baseline
  postern up --profile restricted --config ./postern.toml`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return up(c.OutOrStdout(), c.ErrOrStderr(), f) },
	}
	f.add(c)
	return c
}

func up(out, errs io.Writer, f nodeFlags) error {
	if os.Geteuid() != 0 {
		return errors.New("postern up must run as root: it makes directories for eight users and starts the helper")
	}
	n, err := node.Open(f.root, f.profile, f.config)
	if err != nil {
		return err
	}
	lock, err := n.Lock()
	if err != nil {
		return err
	}
	if findings := n.Check(); node.Failed(findings) {
		return asError(findings)
	}
	if err := n.Prepare(); err != nil {
		return err
	}
	findings := n.Check() // now with the files that were made
	if node.Failed(findings) {
		return asError(findings)
	}
	for _, w := range findings {
		fmt.Fprintln(errs, w)
	}
	banner(out, n)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	ready := exec.Command(self, "ready", "--root", n.Root)
	ready.Stdout, ready.Stderr = os.Stdout, os.Stderr
	if err := ready.Start(); err != nil {
		return err
	}
	return n.Exec(lock)
}

func asError(findings []node.Finding) error {
	var errs []error
	for _, f := range findings {
		if f.Error {
			errs = append(errs, errors.New(strings.TrimPrefix(f.String(), "error: ")))
		}
	}
	return errors.Join(errs...)
}

func banner(out io.Writer, n *node.Node) {
	for _, note := range n.Notes {
		fmt.Fprintln(out, note)
	}
	if n.Profile == "conformance" {
		fmt.Fprint(out, `
  ******************************************************************
  *  conformance: privileged pods, host namespaces and unsigned    *
  *  images are ALLOWED. This profile is for test suites and       *
  *  system nodes, not for workloads that you do not trust.        *
  ******************************************************************

`)
	}
	users := "uids " + fmt.Sprintf("%d to %d (not in /etc/passwd)", n.Users.Front.UID, n.Users.Audit.UID)
	if n.Named {
		users = "users of /etc/passwd"
	}
	fmt.Fprintf(out, "profile   %s\nceiling   %s\npolicy    %s\ntrust     %s\nlogs      %s\nprocesses %s\nkubelet   --container-runtime-endpoint=unix://%s\n",
		n.Profile, n.Layout.Ceiling(), n.Layout.Policy(), n.Layout.Trust(), n.Layout.Log, users, n.Layout.CRISocket())
}

// readyCommand says when CRI answers: up starts it before it becomes init.
func readyCommand() *cobra.Command {
	var root string
	c := &cobra.Command{Use: "ready", Short: "Wait until CRI answers", Hidden: true, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			l := layout.New(root)
			conn, err := grpc.NewClient("unix://"+l.CRISocket(), grpc.WithTransportCredentials(insecure.NewCredentials()),
				grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1, MaxDelay: 50 * time.Millisecond}}))
			if err != nil {
				return err
			}
			defer conn.Close()
			start, parent := time.Now(), os.Getppid()
			for {
				try, cancel := context.WithTimeout(c.Context(), time.Second)
				_, err = cri.NewRuntimeServiceClient(conn).Version(try, &cri.VersionRequest{}, grpc.WaitForReady(true))
				cancel()
				switch {
				case err == nil:
					_, err := fmt.Fprintf(c.OutOrStdout(), "ready     after %s\n", time.Since(start).Round(time.Millisecond))
					return err
				case os.Getppid() != parent:
					return nil // it was ended before it was ready
				case time.Since(start) > 30*time.Second:
					return fmt.Errorf("CRI does not answer after 30 s: see the logs in %s: %w", l.Log, err)
				}
				time.Sleep(50 * time.Millisecond)
			}
		}}
	rootFlag(c, &root)
	return c
}
