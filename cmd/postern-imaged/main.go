// postern-imaged is three roles of one program, each with a uid of its own:
// fetch talks to registries, verify judges what was fetched and lets layers in,
// convert turns a layer's archive into a filesystem image and can open nothing.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/postern-cri/postern/privsep/confine"
	"github.com/postern-cri/postern/privsep/gate"
	"github.com/postern-cri/postern/privsep/layout"
	"github.com/postern-cri/postern/privsep/seqpacket"
	"github.com/postern-cri/postern/runtime/config"
	"github.com/postern-cri/postern/runtime/image/admit"
	"github.com/postern-cri/postern/runtime/image/convert"
	"github.com/postern-cri/postern/runtime/image/fetch"
	"github.com/postern-cri/postern/runtime/ipc"
)

// socket is the inherited one: a listener for fetch, one connection for the
// others.
const socket = 3

func main() {
	role := flag.String("role", "", "fetch, verify or convert")
	root := flag.String("root", "", "directory that everything lies beneath, in place of the system's")
	flag.Parse()
	if err := run(*role, layout.New(*root)); err != nil {
		fmt.Fprintf(os.Stderr, "postern-imaged: %s: %v\n", *role, err)
		os.Exit(1)
	}
}

func run(role string, l layout.Layout) error {
	users, err := layout.ReadUsers(l.UsersFile())
	if err != nil {
		return err
	}
	switch role {
	case "fetch":
		return fetchRole(l, users)
	case "verify":
		if err := confine.Enter(confine.Verify, users.Verify, confine.Options{KeepFDs: 1, Landlock: []confine.Rule{
			{Path: l.Etc, Rights: confine.Read},
			{Path: l.Records(), Rights: confine.All},
			{Path: l.Layers(), Rights: confine.All},
			{Path: l.ConvertSocket(), Rights: confine.Read | confine.Write, Optional: true},
		}}); err != nil {
			return err
		}
		c, err := connection()
		if err != nil {
			return err
		}
		return admit.Serve(c, l)
	case "convert":
		if err := confine.Enter(confine.Convert, users.Convert, confine.Options{KeepFDs: 1}); err != nil {
			return err
		}
		c, err := connection()
		if err != nil {
			return err
		}
		return convert.Serve(c)
	}
	return fmt.Errorf("unknown role %q: want fetch, verify or convert", role)
}

func connection() (*ipc.Conn, error) {
	c, err := seqpacket.NewConn(socket)
	if err != nil {
		return nil, err
	}
	return ipc.New(c), nil
}

func fetchRole(l layout.Layout, users layout.Users) error {
	// Root's file, read before the rights are dropped; no other input is.
	cfg, err := config.Load(l.Config())
	if errors.Is(err, os.ErrNotExist) {
		cfg, err = config.Default(), nil
	}
	if err != nil {
		return err
	}
	credentials, err := fetch.ReadAuth(cfg.Image.AuthFile) // often for root's eyes only
	if err != nil {
		return err
	}
	certificates, err := fetch.ReadCerts(cfg.Image.CertsDir)
	if err != nil {
		return err
	}
	if err := confine.Enter(confine.Fetch, users.Fetch, confine.Options{KeepFDs: 1, Landlock: fetch.Landlock(l, cfg.Image.RegistriesConf)}); err != nil {
		return err
	}
	authFile, err := fetch.KeepAuth(l, credentials)
	if err != nil {
		return err
	}
	certs, err := fetch.KeepCerts(l, certificates)
	if err != nil {
		return err
	}
	s, err := fetch.NewServer(fetch.Options{
		Layout: l, Front: users.Front, ShortNames: cfg.Image.ShortNames, Pinned: cfg.Image.Pinned, Parallel: cfg.Image.MaxParallelLayers,
		Paths: fetch.Paths{RegistriesConf: cfg.Image.RegistriesConf, AuthFile: authFile, Certs: certs, None: l.FetchState() + "/none",
			Stall: cfg.Image.StallTimeout},
		Policy: gate.NewPolicy(l.PolicySocket()), Audit: gate.NewAudit(l.AuditSocket()),
	})
	if err != nil {
		return err
	}
	listener, err := seqpacket.NewListener(socket)
	if err != nil {
		return err
	}
	return s.Serve(listener)
}
