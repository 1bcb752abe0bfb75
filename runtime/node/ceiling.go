package node

import (
	"fmt"
	"os"
	"strings"

	"github.com/postern-cri/postern/privsep/ceiling"
	"github.com/postern-cri/postern/privsep/layout"
	"github.com/postern-cri/postern/runtime/config"
)

// checkCeiling validates a ceiling file as the helper will.
func checkCeiling(path string) (out []Finding) {
	b, err := os.ReadFile(path)
	if err != nil {
		return []Finding{{Error: true, What: "ceiling", Text: err.Error()}}
	}
	c, err := ceiling.Parse(path, b)
	if err != nil {
		return []Finding{{Error: true, What: "ceiling", Text: err.Error()}}
	}
	for _, h := range c.Runtimes {
		out = append(out, checkRuntime(h)...)
	}
	return out
}

// bindCeiling makes the ceiling say the directories of postern.toml. The helper
// reads nothing but its ceiling, and the operator should say a thing once.
func bindCeiling(l layout.Layout, c config.Config) (changed bool, err error) {
	b, err := os.ReadFile(l.Ceiling())
	if err != nil {
		return false, err
	}
	out := bound(string(b), c)
	if out == string(b) {
		return false, nil
	}
	return true, replaceFile(l.Ceiling(), []byte(out), 0o644)
}

// bound returns the ceiling's text with these three keys set.
func bound(text string, c config.Config) string {
	kubelet := fmt.Sprintf("kubelet_root = %q", c.Kubelet.Root)
	quoted := make([]string, len(c.Network.BinDirs))
	for i, d := range c.Network.BinDirs {
		quoted[i] = fmt.Sprintf("%q", d)
	}
	network := map[string]string{
		"conf_dir": fmt.Sprintf("conf_dir = %q", c.Network.ConfDir),
		"bin_dirs": "bin_dirs = [" + strings.Join(quoted, ", ") + "]",
	}
	lines := joined(text)
	firstTable, networkTable, table := len(lines), -1, ""
	haveKubelet, have := false, map[string]bool{}
	for i, l := range lines {
		t := strings.TrimSpace(l)
		if strings.HasPrefix(t, "[") {
			firstTable = min(firstTable, i)
			table = strings.Trim(strings.SplitN(t, "#", 2)[0], "[] \t")
			if table == "network" {
				networkTable = i
			}
			continue
		}
		key, _, _ := strings.Cut(t, "=")
		key = strings.TrimSpace(key)
		if table == "" && key == "kubelet_root" {
			lines[i], haveKubelet = kubelet, true
		} else if want, ok := network[key]; ok && table == "network" {
			lines[i], have[key] = want, true
		}
	}
	if networkTable < 0 {
		lines = append(lines, "", "[network]")
		networkTable = len(lines) - 1
	}
	for _, key := range []string{"bin_dirs", "conf_dir"} {
		if !have[key] {
			lines = append(lines[:networkTable+1], append([]string{network[key]}, lines[networkTable+1:]...)...)
		}
	}
	if !haveKubelet {
		lines = append(lines[:firstTable:firstTable], append([]string{kubelet, ""}, lines[firstTable:]...)...)
	}
	return strings.Join(lines, "\n") + "\n"
}

// joined returns the lines of text, with an array that goes over several lines
// made one where it is one of the keys that are set.
func joined(text string) (lines []string) {
	open := false
	for _, l := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if open {
			lines[len(lines)-1] += " " + strings.TrimSpace(l)
		} else {
			lines = append(lines, l)
		}
		key, value, _ := strings.Cut(l, "=")
		if strings.TrimSpace(key) == "bin_dirs" && strings.HasPrefix(strings.TrimSpace(value), "[") {
			open = true
		}
		if strings.Contains(l, "]") {
			open = false
		}
	}
	return lines
}
