// Package cli is `postern policy`: what the author of rules works with. It
// compiles, tests and evaluates with the engine of postern-policyd itself.
package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/format"
	"github.com/spf13/cobra"

	"github.com/postern-cri/postern/policy/decision"
	"github.com/postern-cri/postern/policy/engine"
	"github.com/postern-cri/postern/policy/input"
)

// Command returns `postern policy`.
func Command() *cobra.Command {
	c := &cobra.Command{
		Use:   "policy",
		Short: "Check, test and try the rules of a policy directory",
		Example: `  postern policy check /etc/postern/policy
  postern policy eval -i record.json /etc/postern/policy`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(check(), test(), eval(), fmtCommand(), schema())
	for _, sub := range c.Commands() {
		sub.SilenceUsage, sub.SilenceErrors = true, false
	}
	return c
}

// report prints the problems of a policy beneath its directory's name.
func report(c *cobra.Command, dir string, err error) error {
	var problems engine.Problems
	if !errors.As(err, &problems) {
		return err
	}
	for _, p := range problems {
		if !strings.HasPrefix(p.File, "system/") {
			p.File = filepath.Join(dir, p.File)
		}
		fmt.Fprintln(c.ErrOrStderr(), p.String())
	}
	return fmt.Errorf("%s: %d problem(s); postern-policyd would keep the policy it has", dir, len(problems))
}

func load(c *cobra.Command, dir string) (engine.Files, *engine.Policy, error) {
	files, err := engine.ReadDir(dir)
	if err != nil {
		return nil, nil, err
	}
	p, err := engine.Compile(context.Background(), files)
	if err != nil {
		return nil, nil, report(c, dir, err)
	}
	return files, p, nil
}

func check() *cobra.Command {
	var list bool
	c := &cobra.Command{
		Use:     "check DIR",
		Short:   "Compile a policy directory as postern-policyd would",
		Example: `  postern policy check --list /etc/postern/policy`,
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			_, p, err := load(c, args[0])
			if err != nil {
				return err
			}
			if list {
				for _, r := range p.Rules {
					fmt.Fprintf(c.OutOrStdout(), "%-24s %-8s %s:%d %s\n", r.ID, r.Severity, r.File, r.Line, r.Message)
				}
			}
			fmt.Fprintf(c.OutOrStdout(), "ok: %d deny rules, revision %s\n", len(p.Rules), p.Revision)
			return nil
		},
	}
	c.Flags().BoolVarP(&list, "list", "l", false, "list the deny rules")
	return c
}

func test() *cobra.Command {
	var verbose bool
	c := &cobra.Command{
		Use:     "test DIR",
		Short:   "Run the *_test.rego files of a policy directory",
		Example: `  postern policy test -v /etc/postern/policy`,
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			files, _, err := load(c, args[0])
			if err != nil {
				return err
			}
			rep, err := engine.Test(context.Background(), files)
			if err != nil {
				return report(c, args[0], err)
			}
			failed := 0
			for _, t := range rep.Tests {
				word := "ok  "
				if !t.Pass {
					failed++
					word = "FAIL"
				}
				if !t.Pass || verbose {
					fmt.Fprintf(c.OutOrStdout(), "%s %s:%d %s\n", word, filepath.Join(args[0], t.File), t.Line, t.Name)
				}
				if t.Err != nil {
					fmt.Fprintf(c.OutOrStdout(), "     %v\n", t.Err)
				}
			}
			for _, r := range rep.Untested {
				fmt.Fprintf(c.OutOrStdout(), "note %s:%d no test makes %s fire\n", filepath.Join(args[0], r.File), r.Line, r.ID)
			}
			fmt.Fprintf(c.OutOrStdout(), "%d tests, %d failed, coverage %.1f%%\n", len(rep.Tests), failed, rep.Coverage)
			if failed > 0 {
				return fmt.Errorf("%d test(s) failed", failed)
			}
			return nil
		},
	}
	c.Flags().BoolVarP(&verbose, "verbose", "v", false, "also list the tests that pass")
	return c
}

// maxInput bounds what eval reads.
const maxInput = 1 << 20

func eval() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "eval --input FILE DIR",
		Short: "Decide one input document, such as one from the audit log",
		Example: `  postern audit tail -n 1000 --json | grep INPUT_SHA256 > record.json
  postern policy eval -i record.json /etc/postern/policy`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			_, p, err := load(c, args[0])
			if err != nil {
				return err
			}
			v, timeNS, method, err := document(c, file)
			if err != nil {
				return err
			}
			start := time.Now()
			res, err := p.Eval(context.Background(), v, timeNS)
			if err != nil {
				return fmt.Errorf("%w (postern-policyd would deny with %s)", err, decision.RuleError)
			}
			took := time.Since(start)
			out := c.OutOrStdout()
			d, err := res.Gate()
			if err != nil {
				return err
			}
			if d.Allow {
				fmt.Fprintf(out, "allow %s\n", method)
			} else {
				fmt.Fprintf(out, "deny %s\n", method)
			}
			for _, v := range res.Violations {
				fmt.Fprintf(out, "  %s %s %s (%s). Fix: %s\n", v.ID, v.Severity, v.Message, v.Field, v.Remediation)
			}
			for _, o := range res.Obligations {
				fmt.Fprintf(out, "  obligation %s %s\n", o.Type, strings.Join(o.Args, " "))
			}
			fmt.Fprintf(c.ErrOrStderr(), "revision %s, %s\n", p.Revision, took.Round(time.Microsecond))
			return nil
		},
	}
	c.Flags().StringVarP(&file, "input", "i", "", "the document, or an audit record with one; - is standard input")
	_ = c.MarkFlagRequired("input")
	return c
}

// document reads a document, alone or within an audit record, strictly.
func document(c *cobra.Command, file string) (v ast.Value, timeNS int64, method string, err error) {
	r := c.InOrStdin()
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, 0, "", err
		}
		defer f.Close()
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, maxInput))
	if err != nil {
		return nil, 0, "", err
	}
	var rec struct {
		Schema string          `json:"schema"`
		Input  json.RawMessage `json:"input"`
	}
	if err := json.Unmarshal(b, &rec); err != nil {
		return nil, 0, "", fmt.Errorf("%s: %w", file, err)
	}
	if rec.Schema != input.Schema && rec.Input != nil {
		b = rec.Input
	}
	var d input.Document
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		return nil, 0, "", fmt.Errorf("%s is no %s document: %w", file, input.Schema, err)
	}
	if d.Schema != input.Schema {
		return nil, 0, "", fmt.Errorf("%s: schema %q, want %q", file, d.Schema, input.Schema)
	}
	return d.Value(), d.Request.TimeNS, d.Request.Method, nil
}

func fmtCommand() *cobra.Command {
	var write bool
	c := &cobra.Command{
		Use:     "fmt DIR",
		Short:   "List the files that are not in canonical form, or write them so",
		Example: `  postern policy fmt -w ./rules`,
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			files, err := engine.ReadDir(args[0])
			if err != nil {
				return err
			}
			var names []string
			for n := range files {
				if strings.HasSuffix(n, ".rego") {
					names = append(names, n)
				}
			}
			sort.Strings(names)
			for _, n := range names {
				path := filepath.Join(args[0], n)
				out, err := format.SourceWithOpts(path, files[n], format.Opts{RegoVersion: ast.RegoV1})
				if err != nil {
					return fmt.Errorf("%s: %w", path, err)
				}
				if bytes.Equal(out, files[n]) {
					continue
				}
				fmt.Fprintln(c.OutOrStdout(), path)
				if write {
					if err := os.WriteFile(path, out, 0o644); err != nil {
						return err
					}
				}
			}
			return nil
		},
	}
	c.Flags().BoolVarP(&write, "write", "w", false, "write the files")
	return c
}

func schema() *cobra.Command {
	return &cobra.Command{
		Use:     "schema",
		Short:   "Print the JSON schema of the input document",
		Example: `  postern policy schema > input.schema.json`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := c.OutOrStdout().Write(input.SchemaJSON)
			return err
		},
	}
}
