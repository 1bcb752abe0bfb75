//go:build linux && cgo && seccomp

// Command postern-launch does one operation on one container for
// postern-helper: the request is JSON on descriptor 3, the result goes to 4. It
// takes no arguments and reads no environment.
//
// "postern-launch init" is libcontainer's own re-execution, inside the new
// container.
package main

import (
	"os"
	"runtime"
	"runtime/debug"

	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter"

	"github.com/postern-cri/postern/runtime/launch"
)

// Inside a container all is done by the first thread: the kernel takes a label
// for keys from no other.
func init() {
	if len(os.Args) == 2 && os.Args[1] == "init" {
		runtime.LockOSThread()
	}
}

func main() {
	// The process lives for milliseconds: collecting would be all it does.
	debug.SetGCPercent(-1)
	if len(os.Args) == 2 && os.Args[1] == "init" {
		libcontainer.Init()
	}
	os.Clearenv()
	os.Exit(launch.Main())
}
