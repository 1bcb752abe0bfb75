// Postern-init starts the daemons and is the parent of every container. It is
// started by `postern up`, with the lock of the installation as fd 3.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/postern-cri/postern/privsep/tree"
)

func main() {
	runtime.LockOSThread()
	debug.SetGCPercent(20)
	root := flag.String("root", "", "directory of the installation, to be told apart by in a list of processes")
	config := flag.String("config", "/run/postern/init.json", "what to start")
	inner := flag.Bool("tree", false, "be the tree itself, not what waits for it in the foreground")
	state := flag.Int("state", -1, "fd with the state of a former version")
	wake := flag.Int("wake", 0, "pid of a tree that has only containers left")
	flag.Parse()
	args := []string{os.Args[0], "--root", *root, "--config", *config, "--tree"}
	code, err := 0, error(nil)
	if *inner {
		err = tree.Run(*config, *state, args)
	} else {
		code, err = tree.Stand(args, *config, *wake, 3)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "postern-init:", err)
		os.Exit(1)
	}
	os.Exit(code)
}
