package suite

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const ran = `[{"SpecReports": [
 {"LeafNodeType": "SynchronizedBeforeSuite", "State": "passed"},
 {"ContainerHierarchyTexts": ["Pods"], "LeafNodeType": "It", "LeafNodeText": "start", "State": "passed"},
 {"ContainerHierarchyTexts": ["Pods"], "LeafNodeType": "It", "LeafNodeText": "fly", "State": "failed", "Failure": {"Message": "no\n wings"}},
 {"ContainerHierarchyTexts": ["Pods"], "LeafNodeType": "It", "LeafNodeText": "swim", "State": "skipped", "Failure": {"Message": "no water"}},
 {"ContainerHierarchyTexts": ["Pods"], "LeafNodeType": "It", "LeafNodeText": "other", "State": "skipped"}]}]`

func TestReport(t *testing.T) {
	for name, c := range map[string]struct {
		report, expected string
		atLeast          int
		fails, says      string
	}{
		"as expected":        {ran, "fail Pods fly # no wings\nskip Pods swim # no water\n# a remark\n", 3, "", "1 passed, 1 failed, 1 skipped, 1 not chosen; 0 unexpected"},
		"unexpected failure": {ran, "skip Pods swim # no water", 0, "1 specs", "UNEXPECTED fail  Pods fly: no wings"},
		"unexpected skip":    {ran, "fail Pods fly # no wings", 0, "1 specs", "UNEXPECTED skip  Pods swim: no water"},
		"a skip is no fail":  {ran, "fail Pods fly # no wings\nfail Pods swim # no water", 0, "1 specs", ""},
		"passes by now":      {ran, "fail Pods start # lame\nfail Pods fly # no wings\nskip Pods swim # no water", 0, "", "passes     Pods start"},
		"too few":            {ran, "fail Pods fly # no wings\nskip Pods swim # no water", 4, "3 specs ran", ""},
		"none":               {`[]`, "", 0, "0 specs ran", ""},
		"suite did not start": {`[{"SpecReports": [{"LeafNodeType": "SynchronizedBeforeSuite", "State": "failed", "Failure": {"Message": "no kubelet"}}]}]`,
			"", 0, "1 specs", "no kubelet"},
		"panic":            {strings.Replace(ran, `"start", "State": "passed"`, `"start", "State": "panicked"`, 1), "fail Pods fly # no wings", 0, "2 specs", "UNEXPECTED fail  Pods start"},
		"without a reason": {ran, "fail Pods fly", 0, "want \"fail NAME # reason\"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			report, expected := filepath.Join(dir, "report"), filepath.Join(dir, "expected")
			if err := os.WriteFile(report, []byte(c.report), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(expected, []byte(c.expected), 0o644); err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			err := Report(&out, "suite", report, expected, c.atLeast)
			if (err == nil) != (c.fails == "") || err != nil && !strings.Contains(err.Error(), c.fails) {
				t.Errorf("error %v, want %q", err, c.fails)
			}
			if !strings.Contains(out.String(), c.says) {
				t.Errorf("want %q in:\n%s", c.says, out.String())
			}
		})
	}
}
