// Command node-e2e holds what the upstream node e2e suite needs beside itself: a
// registry on loopback with stand-ins for the images that it asks for, made from
// this machine's Debian packages and a built agnhost, and a reader of its report.
//
//	node-e2e serve --dir DIR --agnhost FILE --porter DIR   writes DIR/addr once it serves, and runs until SIGTERM
//	node-e2e report FILE EXPECTED ATLEAST                  fails where a spec did what EXPECTED does not say, or fewer ran
//
// It is also what some of the images run: started by their programs' names it is those.
package main

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/postern-cri/postern/test/fixtures"
	"github.com/postern-cri/postern/test/suite"
)

func main() {
	switch os.Args[0] {
	case "nnp": // setuid root in its image: tells what no_new_privs made of that
		fmt.Printf("Effective uid: %d\n", os.Geteuid())
		return
	case "nmeter": // of busybox's the one use that specs make, of milliseconds; Debian's has none
		fmt.Println(time.Now().UTC().Format("15:04:05.000"))
		return
	case "/pause":
		fixtures.Wait()
		return
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "node-e2e:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 4 && args[0] == "report" {
		n, err := strconv.Atoi(args[3])
		if err != nil {
			return err
		}
		return suite.Report(os.Stdout, "node-e2e", args[1], args[2], n)
	}
	if len(args) == 0 || args[0] != "serve" {
		return fmt.Errorf("usage: node-e2e serve --dir DIR --agnhost FILE --porter DIR | node-e2e report FILE EXPECTED ATLEAST")
	}
	f := flag.NewFlagSet("serve", flag.ContinueOnError)
	dir := f.String("dir", "", "directory for addr and access.log")
	agnhost := f.String("agnhost", "", "agnhost, as built from upstream")
	porter := f.String("porter", "", "directory of upstream's test/images/agnhost/porter, with the certificate that it serves")
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	return fixtures.Serve("127.0.0.1:0", *dir, func(r *fixtures.Registry) error { return pushAll(r, *agnhost, *porter) })
}
