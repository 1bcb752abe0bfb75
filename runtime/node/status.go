package node

import (
	"bufio"
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Process is what /proc says of one of an installation's processes.
type Process struct {
	Name    string        `json:"name"`
	PID     int           `json:"pid"`
	UID     int           `json:"uid"`
	Caps    uint64        `json:"caps"` // effective
	Bound   uint64        `json:"bounding"`
	NNP     bool          `json:"no_new_privs"`
	Seccomp int           `json:"seccomp"` // 0 none, 2 filter
	PSS     int64         `json:"pss"`     // bytes
	Uptime  time.Duration `json:"uptime"`
	Label   string        `json:"label,omitempty"` // SELinux context or AppArmor profile
}

// CapsText says the effective capabilities in a word.
func (p Process) CapsText() string {
	switch n := bits.OnesCount64(p.Caps); {
	case n == 0:
		return "none"
	default:
		return strconv.Itoa(n)
	}
}

// Processes finds the processes of the installation at root that run from the
// directory bin.
func Processes(root, bin string) ([]Process, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var out []Process
	for _, d := range dirs {
		name, ok := belongs(d, root, bin)
		if !ok {
			continue
		}
		p := Process{Name: name}
		p.PID, _ = strconv.Atoi(filepath.Base(d))
		p.read(d)
		out = append(out, p)
	}
	return out, nil
}

// belongs reads the name of a process of ours from its command line.
func belongs(proc, root, bin string) (name string, ok bool) {
	b, err := os.ReadFile(proc + "/cmdline")
	if err != nil {
		return "", false
	}
	args := strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
	exe, err := os.Readlink(proc + "/exe")
	if err != nil || len(args) < 3 || filepath.Dir(exe) != bin || !strings.HasPrefix(filepath.Base(exe), "postern") {
		return "", false
	}
	name = strings.TrimSuffix(filepath.Base(exe), " (deleted)")
	if name == "postern" || args[1] != "--root" || args[2] != root {
		return "", false
	}
	for i, a := range args {
		if a == "--role" && i+1 < len(args) {
			name += "-" + args[i+1]
		}
	}
	if name == "postern-init" && !contains(args, "--tree") {
		name = "postern-init (foreground)"
	}
	return name, true
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

func (p *Process) read(proc string) {
	if f, err := os.Open(proc + "/status"); err == nil {
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan(); {
			key, v, _ := strings.Cut(s.Text(), ":")
			v = strings.TrimSpace(v)
			switch key {
			case "Uid":
				fmt.Sscanf(v, "%d", &p.UID)
			case "CapEff":
				p.Caps, _ = strconv.ParseUint(v, 16, 64)
			case "CapBnd":
				p.Bound, _ = strconv.ParseUint(v, 16, 64)
			case "NoNewPrivs":
				p.NNP = v == "1"
			case "Seccomp":
				p.Seccomp, _ = strconv.Atoi(v)
			}
		}
	}
	if b, err := os.ReadFile(proc + "/smaps_rollup"); err == nil {
		for _, l := range strings.Split(string(b), "\n") {
			var kb int64
			if n, _ := fmt.Sscanf(l, "Pss: %d kB", &kb); n == 1 {
				p.PSS = kb << 10
			}
		}
	}
	p.Label = processLabel(proc)
	if st, err := os.Stat(proc); err == nil {
		p.Uptime = time.Since(st.ModTime()).Round(time.Second)
	}
	if b, err := os.ReadFile(proc + "/stat"); err == nil {
		if up, ok := started(string(b)); ok {
			p.Uptime = up
		}
	}
}

// started reads how long ago a process started from its stat line.
func started(stat string) (time.Duration, bool) {
	_, rest, ok := strings.Cut(stat, ") ")
	field := strings.Fields(rest)
	if !ok || len(field) < 20 {
		return 0, false
	}
	ticks, err := strconv.ParseInt(field[19], 10, 64)
	b, err2 := os.ReadFile("/proc/uptime")
	var up float64
	if n, _ := fmt.Sscanf(string(b), "%f", &up); err != nil || err2 != nil || n != 1 {
		return 0, false
	}
	return (time.Duration(up*1000)*time.Millisecond - time.Duration(ticks)*10*time.Millisecond).Round(time.Second), true
}
