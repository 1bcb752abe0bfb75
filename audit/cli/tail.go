package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os/signal"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/audit/record"
	"github.com/postern-cri/postern/audit/wal"
)

type filter struct {
	denied bool
	pod    string
	after  uint64
}

func (f filter) wants(r *record.Record) bool {
	if f.denied && (r.Decision == nil || r.Decision.Allow) {
		return false
	}
	if f.pod != "" {
		p := r.Pod
		if p == nil || f.pod != p.Name && f.pod != p.UID && f.pod != p.ID && f.pod != p.Namespace+"/"+p.Name {
			return false
		}
	}
	return r.Seq > f.after
}

func tailCommand() *cobra.Command {
	var p place
	var f filter
	var n int
	var follow, raw bool
	c := &cobra.Command{
		Use:   "tail",
		Short: "Print the last records, and follow the log",
		Args:  cobra.NoArgs,
		Example: `  postern audit tail -n 20 --denied
  postern audit tail -f --json | vector --config siem.toml`,
		RunE: func(c *cobra.Command, _ []string) error {
			fs, err := p.open(c)
			if err != nil {
				return err
			}
			c.SilenceUsage = true
			if f.after > 0 && !c.Flags().Changed("lines") {
				n = -1
			}
			ctx, stop := signal.NotifyContext(c.Context(), unix.SIGINT, unix.SIGTERM)
			defer stop()
			return tail(ctx, c.OutOrStdout(), fs, f, n, follow, raw)
		},
	}
	p.flags(c)
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on printing records as they are written")
	c.Flags().IntVarP(&n, "lines", "n", 10, "print the last `N` records; -1 for all")
	c.Flags().BoolVar(&raw, "json", false, "print each record as the JSON that was written")
	c.Flags().BoolVar(&f.denied, "denied", false, "only what policy refused")
	c.Flags().StringVar(&f.pod, "pod", "", "only of this pod: name, namespace/name, uid or id")
	c.Flags().Uint64Var(&f.after, "after", 0, "only records after this `SEQ`; all of them unless -n is given")
	return c
}

// tail keeps at most n lines until it has seen the end of what is there.
func tail(ctx context.Context, to io.Writer, fs wal.FS, f filter, n int, follow, raw bool) error {
	w := wal.NewFollower(fs)
	defer w.Close()
	out := bufio.NewWriter(to)
	var ring []string
	live := n < 0
	visit := func(fr wal.Frame) error {
		r, err := record.Decode(fr.Payload)
		if err != nil {
			r = record.Record{Seq: fr.Seq, Stage: "unreadable"}
		}
		if !f.wants(&r) {
			return nil
		}
		s := string(fr.Payload)
		if !raw {
			s = line(&r)
		}
		if live {
			_, err := fmt.Fprintln(out, s)
			return err
		}
		if ring = append(ring, s); len(ring) > 2*n+16 {
			ring = append(ring[:0], ring[len(ring)-n:]...)
		}
		return nil
	}
	for {
		if err := w.Next(visit); err != nil {
			return err
		}
		if !live {
			for _, s := range ring[max(0, len(ring)-n):] {
				fmt.Fprintln(out, s)
			}
			ring, live = nil, true
		}
		if err := out.Flush(); err != nil || !follow {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// line is one record on one line: time, number, stage, method, subject, decision, rule.
func line(r *record.Record) string {
	at := r.Time
	if t, err := time.Parse(time.RFC3339Nano, r.Time); err == nil {
		at = t.UTC().Format("2006-01-02T15:04:05.000Z")
	}
	what := r.Method
	if what == "" {
		what = r.Kind
	}
	part := []string{at, fmt.Sprintf("%6d", r.Seq), fmt.Sprintf("%-8s", r.Stage), fmt.Sprintf("%-18s", dash(what)), dash(subject(r))}
	if d := r.Decision; d != nil {
		verdict := "allow"
		if !d.Allow {
			verdict = "DENY"
		}
		part = append(part, verdict)
		if d.Rule != "" {
			part = append(part, d.Rule)
		}
		if !d.Allow && d.Message != "" {
			part = append(part, d.Message)
		}
	}
	if r.Result != nil && r.Result.Code != "" {
		part = append(part, "result="+r.Result.Code)
	}
	if r.Severity != "" && r.Severity != "info" {
		part = append(part, "severity="+r.Severity)
	}
	if r.Count > 1 {
		part = append(part, fmt.Sprintf("x%d", r.Count))
	}
	return safe(strings.Join(part, " "))
}

func subject(r *record.Record) string {
	var s []string
	if p := r.Pod; p != nil {
		switch {
		case p.Name != "":
			s = append(s, p.Namespace+"/"+p.Name)
		case p.ID != "":
			s = append(s, "pod:"+short(p.ID))
		}
	}
	if c := r.Container; c != nil {
		switch {
		case c.Name != "":
			s = append(s, c.Name)
		case c.ID != "":
			s = append(s, "container:"+short(c.ID))
		}
	}
	if i := r.Image; i != nil && len(s) == 0 {
		s = append(s, i.Ref)
		if i.Ref == "" {
			s[0] = i.Digest
		}
	}
	return strings.Join(s, "/")
}

func short(id string) string { return id[:min(12, len(id))] }

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// safe keeps what a tenant wrote from moving the cursor of who reads it.
func safe(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}
