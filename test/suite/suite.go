// Package suite reads what an upstream suite did, and holds it against the list
// of its specs that may do otherwise than pass.
package suite

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
)

// suite is the part of Ginkgo's JSON report that matters here.
type suite struct {
	SpecReports []struct {
		ContainerHierarchyTexts []string
		LeafNodeType            string
		LeafNodeText            string
		State                   string
		Failure                 struct{ Message string }
	}
}

// Report says of the suite called name, whose report is file, how many specs
// passed, failed and skipped, and fails where one did not pass that the file
// expected does not name. A spec that it names and that passed is told: the list
// should shrink. Fewer specs than atLeast are a failure as well.
func Report(w io.Writer, name, file, expected string, atLeast int) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var suites []suite
	if err := json.Unmarshal(b, &suites); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	may, err := readExpected(expected)
	if err != nil {
		return err
	}
	var passed, failed, skipped, left, bad int
	var lines []string
	for _, s := range suites {
		for _, r := range s.SpecReports {
			spec := strings.Join(append(r.ContainerHierarchyTexts, r.LeafNodeText), " ")
			kind := ""
			switch {
			case r.State == "passed" && r.LeafNodeType == "It":
				passed++
				if may["fail "+spec] || may["skip "+spec] {
					lines = append(lines, fmt.Sprintf("%-10s %s: take it off the list", "passes", spec))
				}
			case r.State == "passed":
			case r.State == "skipped" && r.Failure.Message == "":
				left++ // not chosen: a benchmark, or not in the flags' focus
			case r.State == "skipped":
				skipped, kind = skipped+1, "skip"
			default: // failed, timedout, interrupted, panicked, and a failed BeforeSuite
				failed, kind = failed+1, "fail"
			}
			if kind == "" {
				continue
			}
			mark := "expected"
			if !may[kind+" "+spec] {
				mark = "UNEXPECTED"
				bad++
			}
			lines = append(lines, fmt.Sprintf("%-10s %s  %s: %s", mark, kind, spec, firstLine(r.Failure.Message)))
		}
	}
	sort.Strings(lines)
	for _, l := range lines {
		fmt.Fprintln(w, l)
	}
	fmt.Fprintf(w, "%s: %d passed, %d failed, %d skipped, %d not chosen; %d unexpected\n", name, passed, failed, skipped, left, bad)
	switch ran := passed + failed + skipped; {
	case bad > 0:
		return fmt.Errorf("%d specs did not do what %s says", bad, expected)
	case passed == 0 || ran < atLeast:
		return fmt.Errorf("%d specs ran, %d of them passed; wanted %d to run", ran, passed, max(atLeast, 1))
	}
	return nil
}

func firstLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 400 {
		s = s[:400]
	}
	return s
}

// readExpected reads lines "fail NAME # reason" and "skip NAME # reason".
func readExpected(file string) (map[string]bool, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	may := map[string]bool{}
	for i, l := range strings.Split(string(b), "\n") {
		what, reason, _ := strings.Cut(l, "#")
		if what = strings.TrimSpace(what); what == "" {
			continue
		}
		if !strings.HasPrefix(what, "fail ") && !strings.HasPrefix(what, "skip ") || strings.TrimSpace(reason) == "" {
			return nil, fmt.Errorf("%s:%d: want \"fail NAME # reason\" or \"skip NAME # reason\"", file, i+1)
		}
		may[what] = true
	}
	return may, nil
}
