// Package cli is "postern audit": reading the audit log and checking it.
package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/postern-cri/postern/audit/wal"
	"github.com/postern-cri/postern/privsep/layout"
)

// Command returns the command "audit". Its parent may have a flag --root, which
// it then uses.
func Command() *cobra.Command {
	c := &cobra.Command{
		Use:   "audit",
		Short: "Read and verify the audit log",
		Example: `  postern audit tail -f --denied
  postern audit verify`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(tailCommand(), verifyCommand())
	return c
}

// place says where the log lies.
type place struct{ root, dir string }

func (p *place) flags(c *cobra.Command) {
	c.Flags().StringVar(&p.dir, "dir", "", "directory of the log itself, a copy for example")
	c.Flags().StringVar(&p.root, "root", "", "directory that everything lies beneath, in place of the system's")
}

func (p *place) open(c *cobra.Command) (wal.FS, error) {
	dir := p.dir
	if dir == "" {
		root := p.root
		if f := c.InheritedFlags().Lookup("root"); f != nil && root == "" {
			root = f.Value.String()
		}
		dir = layout.New(root).AuditLog()
	}
	st, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%s: only root and the audit user may read the audit log", dir)
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s: there is no audit log: name the --root of a node that was started, or the --dir of a copy", dir)
	case err != nil:
		return nil, err
	case !st.IsDir():
		return nil, fmt.Errorf("%s is not a directory", dir)
	}
	return wal.Dir(dir), nil
}

func verifyCommand() *cobra.Command {
	var p place
	c := &cobra.Command{
		Use:   "verify",
		Short: "Check every record, the chain and the numbers; name the first bad record",
		Long: `Check the magic, the checksum, the chain, the sequence and the links between
segments of the whole audit log.

Exit status 0: every record is as it was written. 1: the log is damaged; the first
bad record is named on standard error. Records that were cut off at the end
together with the head file can only be found by comparing the head that verify
prints with one that was kept elsewhere.`,
		Example: `  postern audit verify --root /tmp/p
  postern audit verify --dir ./copy-of-the-log`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			fs, err := p.open(c)
			if err != nil {
				return err
			}
			c.SilenceUsage = true
			r, err := wal.Verify(fs)
			var bad *wal.Damage
			if errors.As(err, &bad) {
				return fmt.Errorf("audit log is damaged: first bad record: segment %s, offset %d, seq %d: %s (%d records before it are good)",
					bad.Segment, bad.Offset, bad.Seq, bad.Reason, r.Records)
			}
			if err != nil {
				return err
			}
			out := c.OutOrStdout()
			if r.Records == 0 {
				fmt.Fprintln(out, "ok: 0 records")
				return nil
			}
			fmt.Fprintf(out, "ok: %d records in %d segments, seq %d to %d\nhead: %s\n", r.Records, r.Segments, r.First, r.Last, r.Head)
			if r.First > 1 {
				fmt.Fprintf(out, "note: records before %d are not here\n", r.First)
			}
			if r.Superseded > 0 {
				fmt.Fprintf(out, "note: %d bytes behind a failed write were never acknowledged and are skipped\n", r.Superseded)
			}
			if r.Torn > 0 {
				fmt.Fprintf(out, "note: %d bytes at the end are not a whole record yet\n", r.Torn)
			}
			return nil
		},
	}
	p.flags(c)
	return c
}
