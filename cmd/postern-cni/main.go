// Command postern-cni attaches a pod to its network, or takes it off, for
// postern-helper: the request is JSON on descriptor 3, the answer goes to 4. It
// takes no arguments and reads no environment, and keeps of root's capabilities
// the three that network plugins need.
package main

import (
	"fmt"
	"os"
	"runtime"

	"github.com/postern-cri/postern/privsep/confine"
	"github.com/postern-cri/postern/privsep/layout"
	"github.com/postern-cri/postern/runtime/network"
)

// The kernel ties two deaths to threads: this process's to its main thread, and a
// plugin's to the one that started it.
func init() { runtime.LockOSThread() }

func main() {
	if err := confine.Enter(confine.CNI, layout.ID{}, confine.Options{KeepFDs: 2}); err != nil {
		fmt.Fprintln(os.Stderr, "postern-cni:", err)
		os.Exit(1)
	}
	os.Exit(network.Main())
}
