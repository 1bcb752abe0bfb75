// postern-helper is the privileged side: it answers the boundary's verbs for
// posternd and does nothing else. docs/PRIVSEP.md says what it holds.
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/ceiling"
	"github.com/postern-cri/postern/privsep/confine"
	"github.com/postern-cri/postern/privsep/gate"
	"github.com/postern-cri/postern/privsep/helper"
	"github.com/postern-cri/postern/privsep/keeper"
	"github.com/postern-cri/postern/privsep/layout"
	"github.com/postern-cri/postern/privsep/machine"
	"github.com/postern-cri/postern/privsep/mount"
	"github.com/postern-cri/postern/privsep/seqpacket"
)

// The fds that init hands over.
const (
	listenFD = 3
	keeperFD = 4
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == machine.PauseArg {
		machine.Pause()
	}
	log.SetFlags(0)
	root := flag.String("root", "", "directory that everything lies beneath, in place of the system's")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: postern-helper [--root DIR]\n\nStarted by postern-init, which hands it the listening socket as fd 3 and its own channel as fd 4.")
		flag.PrintDefaults()
	}
	flag.Parse()
	if err := run(layout.New(*root)); err != nil {
		log.Fatalln("postern-helper:", err)
	}
}

func run(l layout.Layout) error {
	// Root's own file, read this early because it says whether containers are to
	// inherit the filter. Nobody's input was read yet.
	c, err := ceiling.Load(l.Ceiling())
	if err != nil {
		return err
	}
	if err := confine.Enter(confine.Helper, layout.ID{}, confine.Options{KeepFDs: 2, Unfiltered: c.Unfiltered}); err != nil {
		return err
	}
	users, err := layout.ReadUsers(l.UsersFile())
	if err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding our own directory: %w", err)
	}
	init, err := seqpacket.NewConn(keeperFD)
	if err != nil {
		return fmt.Errorf("the channel to init (fd %d): %w", keeperFD, err)
	}
	listener, err := seqpacket.NewListener(listenFD)
	if err != nil {
		return fmt.Errorf("the boundary's socket (fd %d): %w", listenFD, err)
	}
	keep := keeper.NewClient(init)
	// Without init no container can be made, and none removed: a fresh start finds
	// everything again.
	keep.Broken = func(err error) { log.Fatalln("postern-helper:", err) }
	m, err := machine.New(machine.Options{Layout: l, Users: users, Ceiling: c, Keeper: keep, Bin: filepath.Dir(exe)})
	if err != nil {
		return err
	}
	h, err := helper.New(helper.Config{
		Ceiling: c, ClientID: users.Front.UID, Kernel: m, StateDir: filepath.Join(l.BoxState(), "state"),
		Policy: gate.NewPolicy(l.PolicySocket()), Audit: gate.NewAudit(l.AuditSocket()),
	})
	if err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM)
	go func() {
		<-stop // init stops the front end first: no request is under way
		if h.Idle() {
			if err := mount.Unmount(l.Box()); err != nil {
				log.Println("postern-helper:", err)
			}
		}
		os.Exit(0)
	}()
	return h.Serve(listener)
}
