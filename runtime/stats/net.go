package stats

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Interface are the counters of one network interface.
type Interface struct {
	Name                                    string
	RxBytes, RxPackets, RxErrors, RxDropped uint64
	TxBytes, TxPackets, TxErrors, TxDropped uint64
}

// NetDev reads the interface counters in r, a /proc/net/dev, but loopback's.
func NetDev(r io.Reader) ([]Interface, error) {
	var out []Interface
	s := bufio.NewScanner(io.LimitReader(r, 1<<20))
	for n := 0; s.Scan(); n++ {
		name, rest, ok := strings.Cut(s.Text(), ":")
		if !ok {
			continue // the two header lines
		}
		f := strings.Fields(rest)
		if len(f) < 16 {
			return nil, errors.New("a line of net/dev has too few fields")
		}
		i := Interface{Name: strings.TrimSpace(name)}
		for at, p := range []*uint64{0: &i.RxBytes, 1: &i.RxPackets, 2: &i.RxErrors, 3: &i.RxDropped,
			8: &i.TxBytes, 9: &i.TxPackets, 10: &i.TxErrors, 11: &i.TxDropped} {
			if p == nil {
				continue
			}
			v, err := strconv.ParseUint(f[at], 10, 64)
			if err != nil {
				return nil, fmt.Errorf("net/dev of %s: %w", i.Name, err)
			}
			*p = v
		}
		if i.Name != "lo" {
			out = append(out, i)
		}
	}
	return out, s.Err()
}
