package container

import (
	"strconv"
	"strings"

	"github.com/postern-cri/postern/privsep/plan"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Signal numbers of CRI's enum, by its number: the names of the enum have
// changed once already while the numbers stayed.
var signals = [...]uint8{
	1: 6, 2: 14, 3: 7, 4: 17, 5: 17, 6: 18, 7: 8, 8: 1, 9: 4, 10: 2, 11: 29, 12: 6, 13: 9, 14: 13, 15: 29,
	16: 27, 17: 30, 18: 3, 19: 11, 20: 16, 21: 19, 22: 31, 23: 15, 24: 5, 25: 20, 26: 21, 27: 22, 28: 23,
	29: 10, 30: 12, 31: 26, 32: 28, 33: 24, 34: 25, 35: 34, 36: 35, 37: 36, 38: 37, 39: 38, 40: 39, 41: 40,
	42: 41, 43: 42, 44: 43, 45: 44, 46: 45, 47: 46, 48: 47, 49: 48, 50: 49, 51: 50, 52: 51, 53: 52, 54: 53,
	55: 54, 56: 55, 57: 56, 58: 57, 59: 58, 60: 59, 61: 60, 62: 61, 63: 62, 64: 63, 65: 64,
}

// names of the signals as an image's StopSignal may write them.
var names = map[string]uint8{
	"HUP": 1, "INT": 2, "QUIT": 3, "ILL": 4, "TRAP": 5, "ABRT": 6, "IOT": 6, "BUS": 7, "FPE": 8, "KILL": 9,
	"USR1": 10, "SEGV": 11, "USR2": 12, "PIPE": 13, "ALRM": 14, "TERM": 15, "STKFLT": 16, "CHLD": 17, "CLD": 17,
	"CONT": 18, "STOP": 19, "TSTP": 20, "TTIN": 21, "TTOU": 22, "URG": 23, "XCPU": 24, "XFSZ": 25, "VTALRM": 26,
	"PROF": 27, "WINCH": 28, "IO": 29, "POLL": 29, "PWR": 30, "SYS": 31,
}

// SignalNumber returns the Linux number of CRI's signal; 0 is "not said".
func SignalNumber(s cri.Signal) (uint8, bool) {
	if s < 0 || int(s) >= len(signals) {
		return 0, false
	}
	return signals[s], true
}

// SignalEnum returns CRI's value for a Linux signal number.
func SignalEnum(n uint8) cri.Signal {
	for i, v := range signals {
		if i > 0 && v == n {
			return cri.Signal(i)
		}
	}
	return cri.Signal_SIGNAL_RUNTIME_DEFAULT
}

// ParseSignal reads the StopSignal of an image: a number, or a name with or
// without SIG, real-time signals as RTMIN+n and RTMAX-n.
func ParseSignal(s string) (uint8, bool) {
	if n, err := strconv.ParseUint(s, 10, 8); err == nil {
		return uint8(n), n >= 1 && n <= 64
	}
	s = strings.TrimPrefix(strings.ToUpper(s), "SIG")
	if n, ok := names[s]; ok {
		return n, true
	}
	for _, rt := range []struct {
		prefix string
		base   int
		sign   int
	}{{"RTMIN+", 34, 1}, {"RTMAX-", 64, -1}} {
		if rest, ok := strings.CutPrefix(s, rt.prefix); ok {
			n, err := strconv.ParseUint(rest, 10, 8)
			if err == nil && n <= 30 {
				return uint8(rt.base + rt.sign*int(n)), true
			}
		}
	}
	switch s {
	case "RTMIN":
		return 34, true
	case "RTMAX":
		return 64, true
	}
	return 0, false
}

func stopSignal(p *plan.Plan, in *Input) error {
	n, ok := SignalNumber(in.Config.StopSignal)
	if !ok {
		return refuse("stop_signal", "unknown signal %d", in.Config.StopSignal)
	}
	if n == 0 && in.Image.StopSignal != "" {
		if n, ok = ParseSignal(in.Image.StopSignal); !ok {
			return refuse("image config StopSignal", "%q is no signal", in.Image.StopSignal)
		}
	}
	p.StopSignal = n
	return nil
}
