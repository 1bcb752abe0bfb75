// Package tree is the process tree of a node without systemd: it starts and
// restarts the daemons, is the parent of every container process, and keeps what
// must not be lost when any other process dies: exit statuses and duplicates of
// the containers' stdio.
//
// It is one loop in one thread. Nothing happens while it waits in poll, so that
// between two turns its state is whole and can be handed to a newer version of
// itself (SIGUSR2). It parses its own root-owned configuration and the fixed-size
// requests of package message, nothing else.
package tree

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Kinds of processes.
const (
	Always        = "always"         // started at once, restarted when it ends
	OnDemand      = "on-demand"      // started when one of its listeners is readable
	PerConnection = "per-connection" // started for each connection of its one listener
)

// Config is run/init.json, written by `postern up`.
type Config struct {
	Processes []Process // in the order of their start; stopped in reverse
	KillAll   bool      // on stop kill every watched process, instead of leaving them
	Parked    string    // file that is there while only containers are left
}

// Process says how one daemon is started.
type Process struct {
	Name string
	Path string // absolute
	Args []string
	Kind string
	Max  int    // of per-connection: most at a time
	Log  string // file for its stderr, opened for appending
	FDs  []FD   // from fd 3 on
}

// FD is one inherited fd. Type is a listener (stream, seqpacket, tcp) or an
// end of a channel to init (keeper, exits, restore).
type FD struct {
	Type     string
	Path     string // of the socket, or host:port
	Mode     uint32
	UID, GID int
}

func (f FD) listens() bool { return f.Type == "stream" || f.Type == "seqpacket" || f.Type == "tcp" }

// Load reads the configuration, which must be root's alone to change.
func Load(path string) (c Config, err error) {
	f, err := os.Open(path)
	if err != nil {
		return c, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return c, err
	}
	if st.Uid != 0 || st.Mode&0o022 != 0 {
		return c, fmt.Errorf("%s: must belong to root and be writable by nobody else", path)
	}
	d := json.NewDecoder(f)
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return c, fmt.Errorf("%s: %w", path, err)
	}
	for _, p := range c.Processes {
		if p.Name == "" || !strings.HasPrefix(p.Path, "/") || p.Kind != Always && p.Kind != OnDemand && p.Kind != PerConnection {
			return c, fmt.Errorf("%s: process %q: bad name, path or kind", path, p.Name)
		}
		if p.Kind == PerConnection && (len(p.FDs) != 1 || !p.FDs[0].listens() || p.Max < 1) {
			return c, fmt.Errorf("%s: process %q: per-connection takes one listener and a max", path, p.Name)
		}
	}
	if len(c.Processes) == 0 {
		return c, errors.New(path + ": no processes")
	}
	return c, nil
}
