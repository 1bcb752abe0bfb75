// Command critest holds what the upstream CRI validation suite needs beside
// itself: a registry on loopback with the images that it asks for, made on the
// fly from this machine's Debian packages, and a reader of its report.
//
//	critest serve --dir DIR --busybox FILE   writes DIR/addr once it serves, and runs until SIGTERM
//	critest report FILE EXPECTED             counts the specs, and fails where one failed or skipped that EXPECTED does not name
//
// It is also what two of the images run: started as /nnp or /pause it is that.
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/postern-cri/postern/test/fixtures"
	"github.com/postern-cri/postern/test/suite"
)

func main() {
	switch os.Args[0] {
	case "/nnp": // setuid root in its image: tells what no_new_privs made of that
		fmt.Printf("Effective uid: %d\n", os.Geteuid())
		return
	case "/pause":
		fixtures.Wait()
		return
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "critest:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 3 && args[0] == "report" {
		return suite.Report(os.Stdout, "critest", args[1], args[2], 1)
	}
	if len(args) == 0 || args[0] != "serve" {
		return fmt.Errorf("usage: critest serve --dir DIR --busybox FILE | critest report FILE EXPECTED")
	}
	f := flag.NewFlagSet("serve", flag.ContinueOnError)
	dir := f.String("dir", "", "directory for addr and access.log")
	busybox := f.String("busybox", "", "busybox of Debian's package of that name")
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	return fixtures.Serve("127.0.0.1:0", *dir, func(r *fixtures.Registry) error { return pushAll(r, *busybox) })
}
