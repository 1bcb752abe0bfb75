package main

import (
	"encoding/json"
	"fmt"
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

// report prints how many specs passed, failed and skipped, and fails where one
// did not pass that the file expected does not name.
func report(file, expected string) error {
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
	var passed, failed, skipped, left int
	var lines []string
	for _, s := range suites {
		for _, r := range s.SpecReports {
			name := strings.Join(append(r.ContainerHierarchyTexts, r.LeafNodeText), " ")
			kind := ""
			switch {
			case r.State == "passed" && r.LeafNodeType == "It":
				passed++
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
			mark := "UNEXPECTED"
			if may[kind+" "+name] {
				mark = "expected"
			}
			lines = append(lines, fmt.Sprintf("%-10s %s  %s: %s", mark, kind, name, firstLine(r.Failure.Message)))
		}
	}
	sort.Strings(lines)
	bad := 0
	for _, l := range lines {
		fmt.Println(l)
		if strings.HasPrefix(l, "UNEXPECTED") {
			bad++
		}
	}
	fmt.Printf("critest: %d passed, %d failed, %d skipped, %d not chosen; %d unexpected\n", passed, failed, skipped, left, bad)
	if bad > 0 || passed == 0 {
		return fmt.Errorf("%d specs did not do what %s says", bad, expected)
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
