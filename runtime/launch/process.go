//go:build linux && cgo && seccomp

package launch

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/opencontainers/runc/libcontainer"

	"github.com/postern-cri/postern/privsep/plan"
)

// savedProcess is what an exec takes over from the container's first process and
// libcontainer does not keep. It is stored as a label of the container's state,
// in a directory that only root can enter.
type savedProcess struct {
	Env    []string `json:"env"`
	Cwd    string   `json:"cwd"`
	UID    int      `json:"uid"`
	GID    int      `json:"gid"`
	Groups []int    `json:"groups"`
}

const (
	processLabel = "postern.process="
	defaultPath  = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

func processOf(p *plan.Plan) *savedProcess {
	s := &savedProcess{Env: p.Env, Cwd: p.Cwd, UID: int(p.User.UID), GID: int(p.User.GID)}
	if s.Cwd == "" {
		s.Cwd = "/"
	}
	for _, g := range p.User.Groups {
		s.Groups = append(s.Groups, int(g))
	}
	// Without a PATH a bare command name could not be looked up at all.
	if !slices.ContainsFunc(s.Env, func(e string) bool { return strings.HasPrefix(e, "PATH=") }) {
		s.Env = append([]string{defaultPath}, s.Env...)
	}
	return s
}

func (s *savedProcess) labels() ([]string, error) {
	b, err := json.Marshal(s)
	return []string{processLabel + string(b)}, err
}

func loadProcess(labels []string) (*savedProcess, error) {
	for _, l := range labels {
		if v, ok := strings.CutPrefix(l, processLabel); ok {
			s := &savedProcess{}
			return s, json.Unmarshal([]byte(v), s)
		}
	}
	return nil, errors.New("container state does not say what an exec runs as")
}

func (s *savedProcess) process(args []string) *libcontainer.Process {
	// Warnings alone: unset would be every step, formatted, sent and parsed.
	return &libcontainer.Process{Args: args, Env: s.Env, Cwd: s.Cwd, UID: s.UID, GID: s.GID, AdditionalGroups: s.Groups, LogLevel: "3"}
}
