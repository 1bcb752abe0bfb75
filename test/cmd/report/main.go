// Command report reads "go test -json" on standard input, prints a line a
// package and the output of what failed, and fails on a skip that
// test/skips.txt does not expect: a skip nobody sees is a test nobody has.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"sort"
	"strings"
)

type event struct {
	Action, Package, Test, Output string
	ImportPath                    string
	Elapsed                       float64
}

type key struct{ pkg, test string }

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: go test -json ./... | report SKIPS.txt")
		os.Exit(2)
	}
	expected, err := readSkips(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(2)
	}
	const module = "github.com/postern-cri/postern/"
	output := map[key][]string{}
	var passed, failed, skipped int
	var bad []string
	s := bufio.NewScanner(os.Stdin)
	s.Buffer(nil, 64<<20)
	for s.Scan() {
		var e event
		if json.Unmarshal(s.Bytes(), &e) != nil {
			fmt.Println(s.Text())
			continue
		}
		pkg := strings.TrimPrefix(e.Package, module)
		k := key{pkg, e.Test}
		switch e.Action {
		case "output", "build-output":
			if e.Action == "build-output" {
				fmt.Print(e.Output)
			}
			output[k] = append(output[k], e.Output)
		case "pass":
			if e.Test != "" {
				passed++
				delete(output, k)
			} else {
				fmt.Printf("ok    %-40s %6.1fs\n", pkg, e.Elapsed)
			}
		case "fail":
			if e.Test != "" {
				failed++
			} else {
				fmt.Printf("FAIL  %-40s %6.1fs\n", pkg, e.Elapsed)
				if failed == 0 {
					failed++ // the package did not build, or died outside a test
				}
			}
			fmt.Print(strings.Join(output[k], ""))
		case "skip":
			if e.Test == "" {
				continue // a package without tests
			}
			skipped++
			reason := strings.TrimSpace(strings.Join(output[k], ""))
			ok := false
			for _, x := range expected {
				if m, _ := path.Match(x, pkg+"."+e.Test); m {
					ok = true
				}
			}
			if !ok {
				bad = append(bad, pkg+"."+e.Test+": "+reason)
			}
		}
	}
	sort.Strings(bad)
	for _, b := range bad {
		fmt.Println("unexpected skip:", b)
	}
	failed += len(bad)
	fmt.Printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped)
	if failed > 0 || passed == 0 || s.Err() != nil {
		os.Exit(1)
	}
}

// readSkips reads the expected skips: lines "pattern # reason".
func readSkips(file string) ([]string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var out []string
	for i, l := range strings.Split(string(b), "\n") {
		pat, reason, _ := strings.Cut(l, "#")
		if pat = strings.TrimSpace(pat); pat == "" {
			continue
		}
		if strings.TrimSpace(reason) == "" {
			return nil, fmt.Errorf("%s:%d: a skip needs a reason behind #", file, i+1)
		}
		if _, err := path.Match(pat, ""); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", file, i+1, err)
		}
		out = append(out, pat)
	}
	return out, nil
}
