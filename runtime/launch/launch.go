//go:build linux && cgo && seccomp

package launch

import (
	"encoding/json"
	"errors"
	"fmt"
	"golang.org/x/sys/unix"
	"io"
	"os"

	_ "github.com/opencontainers/cgroups/devices" // device rules, without which create fails
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"

	"github.com/postern-cri/postern/privsep/spec"
)

// The descriptors that the launch process is started with.
const (
	requestFD = 3
	resultFD  = 4
	consoleFD = 5

	maxRequest = 4 << 20
)

// Main reads the request, does it, writes the result, and returns the exit
// status: 0 whenever a result was delivered.
func Main() int {
	in, out := os.NewFile(requestFD, "request"), os.NewFile(resultFD, "result")
	if in == nil || out == nil {
		return 2
	}
	unix.Umask(0o022) // of what is made for the container: its cgroup's statistics are for all to read
	var l spec.Launch
	b, err := io.ReadAll(io.LimitReader(in, maxRequest+1))
	in.Close()
	switch {
	case err != nil:
	case len(b) > maxRequest:
		err = errors.New("is larger than 4 MiB")
	default:
		err = json.Unmarshal(b, &l)
	}
	var r spec.Result
	if err != nil {
		r.Error = fmt.Sprintf("request: %v", err)
	} else {
		r = Do(&l)
	}
	if b, err = json.Marshal(r); err != nil {
		return 2
	}
	if _, err := out.Write(b); err != nil {
		return 2
	}
	return 0
}

// Do does one operation.
func Do(l *spec.Launch) spec.Result {
	op := &operation{Launch: l}
	// libcontainer warns on stderr, which is the container's.
	logrus.SetOutput(io.Discard)
	logrus.SetLevel(logrus.WarnLevel)
	logrus.AddHook(op)
	if l.Op == spec.Create || l.Op == spec.Exec {
		go warm()
	}
	var err error
	switch {
	case l.ID == "" || l.StateDir == "":
		err = errors.New("no container named")
	case l.Op == spec.Create:
		err = op.create()
	case l.Op == spec.Exec:
		err = op.exec()
	case l.Op == spec.Update:
		err = op.update()
	case l.Op == spec.Delete:
		err = op.delete()
	case l.Op == spec.Start:
		err = op.start()
	case l.Op == spec.Kill:
		err = op.kill()
	case l.Op == spec.Signal:
		err = unix.PidfdSendSignal(consoleFD, unix.Signal(l.Signal), nil, 0)
	default:
		err = fmt.Errorf("unknown operation %q", l.Op)
	}
	if err != nil {
		op.result.PID = 0
		op.result.Error = err.Error()
		if field, text, remedy := mistake(err); field != "" {
			op.result.Field, op.result.Error, op.result.Remedy = field, text, remedy
		}
	}
	return op.result
}

// operation is one request with the result it is building.
type operation struct {
	*spec.Launch
	result spec.Result
	filter *specs.LinuxSeccomp // what cfg.Seccomp is made of
}

// note records that something was lowered to what the machine permits.
func (o *operation) note(format string, args ...any) {
	const most, longest = 32, 512
	if len(o.result.Notes) < most {
		n := fmt.Sprintf(format, args...)
		o.result.Notes = append(o.result.Notes, n[:min(len(n), longest)])
	}
}

// Levels makes the operation a hook of libcontainer's log.
func (o *operation) Levels() []logrus.Level { return []logrus.Level{logrus.WarnLevel} }

// Fire turns a warning of libcontainer's into a note.
func (o *operation) Fire(e *logrus.Entry) error {
	o.note("%s", e.Message)
	return nil
}
