// postern-cni attaches one pod to the node's network, or detaches it, and exits.
// The helper starts it with a request on fd 3 and reads the answer from fd 4.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"time"

	"github.com/postern-cri/postern/privsep/confine"
	"github.com/postern-cri/postern/privsep/layout"
	"github.com/postern-cri/postern/runtime/network"
)

// timeout is less than the helper's own, so that the reason gets out.
const timeout = 55 * time.Second

func main() {
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: started by postern-helper, with a request on fd 3; it takes no arguments")
	}
	flag.Parse()
	debug.SetGCPercent(-1) // gone before a collection would pay
	answer := os.NewFile(4, "answer")
	ips, err := run()
	if err != nil {
		fmt.Fprintln(answer, "error", network.Text(err))
		os.Exit(1)
	}
	for _, ip := range ips {
		fmt.Fprintln(answer, "ip", ip)
	}
	fmt.Fprintln(answer, "ok")
}

func run() ([]string, error) {
	if err := confine.Enter(confine.CNI, layout.ID{}, confine.Options{KeepFDs: 2}); err != nil {
		return nil, err
	}
	var r network.Request
	d := json.NewDecoder(io.LimitReader(os.NewFile(3, "request"), 1<<20))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return nil, fmt.Errorf("decoding the request: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return network.Do(ctx, &r)
}
