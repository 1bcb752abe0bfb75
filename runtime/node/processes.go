// Package node is one installation: its directories, users and configuration
// files, the list of processes that postern-init starts, what can be checked
// before, and what is seen of it while it runs.
package node

import (
	"encoding/json"
	"path/filepath"

	"github.com/postern-cri/postern/privsep/layout"
	"github.com/postern-cri/postern/privsep/tree"
	"github.com/postern-cri/postern/runtime/config"
)

// processes lists the daemons in the order of their start: each after what it
// reports to. They are stopped in reverse.
func processes(root, bin string, l layout.Layout, u layout.Users, c config.Config) tree.Config {
	none := layout.ID{}
	socket := func(path string, mode uint32, owner layout.ID) tree.FD {
		return tree.FD{Type: "seqpacket", Path: path, Mode: mode, UID: int(owner.UID), GID: int(owner.GID)}
	}
	process := func(name, program, kind string, limit int, args []string, fds ...tree.FD) tree.Process {
		return tree.Process{Name: name, Path: filepath.Join(bin, program), Kind: kind, Max: limit,
			Args: append([]string{"--root", root}, args...), Log: filepath.Join(l.Log, name+".log"), FDs: fds}
	}
	role := func(r string) []string { return []string{"--role", r} }
	var ulimits []string
	for _, u := range c.Container.Ulimits {
		ulimits = append(ulimits, "--ulimit", u)
	}
	cri := tree.FD{Type: "stream", Path: l.CRISocket(), Mode: 0o660}
	return tree.Config{
		KillAll: c.Stop.OnStop == "kill",
		Parked:  parkedFile(l),
		Processes: []tree.Process{
			// Everybody asks these two; they ask each peer who it is.
			process("postern-auditd", "postern-auditd", tree.Always, 0, nil, socket(l.AuditSocket(), 0o666, none)),
			process("postern-policyd", "postern-policyd", tree.Always, 0, nil, socket(l.PolicySocket(), 0o666, none)),
			process("postern-logd", "postern-logd", tree.Always, 0, nil,
				socket(l.LogSocket(), 0o600, u.Front), tree.FD{Type: "restore"}),
			process("postern-helper", "postern-helper", tree.Always, 0, nil,
				socket(l.HelperSocket(), 0o600, u.Front), tree.FD{Type: "keeper"}),
			process("postern-imaged-convert", "postern-imaged", tree.PerConnection, 3, role("convert"),
				socket(l.ConvertSocket(), 0o600, u.Verify)),
			process("postern-imaged-verify", "postern-imaged", tree.PerConnection, 9, role("verify"),
				socket(l.VerifySocket(), 0o600, u.Fetch)),
			process("postern-imaged-fetch", "postern-imaged", tree.OnDemand, 0, role("fetch"),
				socket(l.FetchSocket(), 0o600, u.Front)),
			process("postern-streamd", "postern-streamd", tree.OnDemand, 0, nil,
				socket(l.StreamSocket(), 0o600, u.Front), tree.FD{Type: "tcp", Path: c.Stream.Address}),
			process("posternd", "posternd", tree.Always, 0, ulimits,
				cri, tree.FD{Type: "exits"}, socket(l.GrantSocket(), 0o600, u.Stream)),
		},
	}
}

func parkedFile(l layout.Layout) string { return filepath.Join(l.Run, "parked") }

// writeInit writes run/init.json.
func writeInit(path string, c tree.Config) error {
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	return replaceFile(path, append(b, '\n'), 0o600)
}
