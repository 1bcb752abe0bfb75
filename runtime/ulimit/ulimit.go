// Package ulimit reads the resource limits that the operator gives every container.
package ulimit

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/postern-cri/postern/privsep/plan"
)

var names = strings.Fields("as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack")

// Parse reads a limit of setrlimit(2) as name=soft:hard, or name=both; a value
// is a number or "unlimited".
func Parse(s string) (plan.Rlimit, error) {
	bad := func(why string) (plan.Rlimit, error) {
		return plan.Rlimit{}, fmt.Errorf("%q: %s; want name=soft:hard", s, why)
	}
	name, values, ok := strings.Cut(s, "=")
	if !ok || !slices.Contains(names, name) {
		return bad("no name of " + strings.Join(names, ", "))
	}
	soft, hard, ok := strings.Cut(values, ":")
	if !ok {
		hard = soft
	}
	l := plan.Rlimit{Name: name}
	for _, v := range []struct {
		text string
		into *uint64
	}{{soft, &l.Soft}, {hard, &l.Hard}} {
		if v.text == "unlimited" {
			*v.into = math.MaxUint64
			continue
		}
		n, err := strconv.ParseUint(v.text, 10, 64)
		if err != nil {
			return bad(fmt.Sprintf("%q is no number", v.text))
		}
		*v.into = n
	}
	if l.Soft > l.Hard {
		return bad("the soft limit is above the hard one")
	}
	return l, nil
}
