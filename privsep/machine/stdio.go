package machine

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/mount"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/seqpacket"
)

// kept is an fd of ours with its name in the log process's language.
type kept struct {
	name string
	file *os.File
}

// stdio are the two sides of a process's standard streams. No file of a
// container is ever read or written here: ours go to postern-logd and, as
// duplicates, to postern-init, or with an exec to the client.
type stdio struct {
	child [3]*os.File // nil is /dev/null
	ours  []kept
}

func (s *stdio) close() {
	for _, f := range s.child {
		if f != nil {
			f.Close()
		}
	}
	for _, k := range s.ours {
		k.file.Close()
	}
}

// pipes makes a pipe for each stream asked for; ours are in the order stdin,
// stdout, stderr.
func (s *stdio) pipes(want ...bool) error {
	for i, name := range []string{"stdin", "stdout", "stderr"} {
		if !want[i] {
			continue
		}
		r, w, err := pipe()
		if err != nil {
			return err
		}
		if i > 0 {
			r, w = w, r
		}
		s.child[i] = r
		s.ours = append(s.ours, kept{name, w})
	}
	return nil
}

// The names of a container's fds beside its streams, in the order in which they
// are handed over.
var journals = [][2]string{{"journal-out-r", "journal-out-w"}, {"journal-err-r", "journal-err-w"}}

// openStdio makes the streams of a container and what its log is kept with: the
// journals hold what is not written yet, the state says where a writer was.
func (m *Machine) openStdio(p *plan.Plan) (*stdio, error) {
	s := &stdio{}
	err := error(nil)
	if !p.TTY {
		err = s.pipes(p.Stdin, true, true)
	}
	for _, names := range journals {
		if err != nil {
			break
		}
		var r, w *os.File
		if r, w, err = pipe(); err == nil {
			s.ours = append(s.ours, kept{names[0], r}, kept{names[1], w})
		}
	}
	if err == nil && p.Log != "" {
		var f *os.File
		if f, err = memFile(make([]byte, 64)); err == nil {
			s.ours = append(s.ours, kept{"state", f})
		}
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// index is the place that a name will have among the kept fds: the log comes
// last, and a terminal is put before all others later.
func (s *stdio) index(name string) int {
	if name != "log" || len(s.ours) == 0 || s.ours[len(s.ours)-1].name != "state" {
		return -1
	}
	n := len(s.ours)
	if s.child[1] == nil { // a terminal
		n++
	}
	return n
}

func (m *Machine) openLog(s *stdio, pod *plan.PodPlan, p *plan.Plan) error {
	if p.Log == "" {
		return nil
	}
	f, err := m.logFile(pod, p)
	if err == nil {
		s.ours = append(s.ours, kept{"log", f})
	}
	return err
}

// logFile opens a container's log beneath its pod's log directory. A log that is
// a link, or has a second name, is somebody else's file.
//
// Expected syscalls: openat2, mkdirat, fstat.
func (m *Machine) logFile(pod *plan.PodPlan, p *plan.Plan) (*os.File, error) {
	dir, _, ok := m.Ceiling.Root(pod.Logs)
	if !ok {
		return nil, errors.New("the pod has no log directory")
	}
	root, err := mount.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer unix.Close(root)
	rel := pod.Logs.Rel + "/" + p.Log
	at := len(rel) - 1
	for rel[at] != '/' {
		at--
	}
	parent, err := mount.MakeDirs(root, rel[:at], false)
	if err != nil {
		return nil, fmt.Errorf("log directory: %w", err)
	}
	defer unix.Close(parent)
	fd, err := unix.Openat2(parent, rel[at+1:], &unix.OpenHow{
		Flags: unix.O_WRONLY | unix.O_APPEND | unix.O_CREAT | unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NONBLOCK, Mode: 0o640,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, fmt.Errorf("opening the log %s: %w", rel, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink != 1 {
		unix.Close(fd)
		return nil, fmt.Errorf("the log %s is no regular file with one name", rel)
	}
	return os.NewFile(uintptr(fd), "log"), nil
}

// logRequest is a request to the log process.
type logRequest struct {
	Op        string   `json:"op"`
	ID        string   `json:"id"`
	TTY       bool     `json:"tty,omitempty"`
	Stdin     bool     `json:"stdin,omitempty"`
	StdinOnce bool     `json:"stdin_once,omitempty"`
	Names     []string `json:"names,omitempty"`
}

// announce hands a container's fds to init, which keeps them for the next log
// process, and to the present one.
func (m *Machine) announce(id string, p *plan.Plan, s *stdio) error {
	r := logRequest{Op: "add", ID: id, TTY: p.TTY, Stdin: p.Stdin, StdinOnce: p.StdinOnce}
	var fds []int
	for _, k := range s.ours {
		r.Names = append(r.Names, k.name)
		fds = append(fds, int(k.file.Fd()))
	}
	meta, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := m.Keeper.Store(id, meta, fds...); err != nil {
		return err
	}
	return m.tellLog(r, fds...)
}

// tellLog asks the log process. One that died meanwhile is asked again: its
// successor was given what init keeps, so a container that it knows is fine.
func (m *Machine) tellLog(r logRequest, fds ...int) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	var answer struct {
		OK    bool   `json:"ok"`
		Error string `json:"error"`
	}
	tries, patience := 3, 10*time.Second
	if r.Op == "remove" { // teardown does not wait for a log process that hangs
		tries, patience = 1, 4*time.Second
	}
	for range tries {
		if answer.Error, err = "", m.askLog(b, fds, patience, &answer); err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err == nil && !answer.OK && !(r.Op == "add" && answer.Error == "container is known already") {
		err = fmt.Errorf("it says %q", answer.Error)
	}
	if err != nil {
		return fmt.Errorf("log process: %s: %w", r.Op, err)
	}
	return nil
}

func (m *Machine) askLog(b []byte, fds []int, patience time.Duration, answer any) error {
	c, err := seqpacket.Dial(m.Layout.LogSocket())
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if err := c.Send(b, fds...); err != nil {
		return err
	}
	buf := make([]byte, 4096)
	n, got, err := c.Recv(buf)
	seqpacket.CloseAll(got)
	if err != nil {
		return err
	}
	return json.Unmarshal(buf[:n], answer)
}

// LogReopen gives the log process a new file of the same name.
func (m *Machine) LogReopen(id string, pod *plan.PodPlan, p *plan.Plan) error {
	at := m.readNote(id).Log
	if at < 0 {
		return errors.New("the container has no log")
	}
	f, err := m.logFile(pod, p)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := m.Keeper.Replace(id, at, int(f.Fd())); err != nil {
		return err
	}
	return m.tellLog(logRequest{Op: "reopen", ID: id}, int(f.Fd()))
}

// forgetLog ends a container's log, after what is left of it was written, and
// drops what init keeps. A log process that is not there is no reason to stop.
func (m *Machine) forgetLog(id string) error {
	if err := m.tellLog(logRequest{Op: "remove", ID: id}); err != nil {
		fmt.Fprintf(os.Stderr, "container %s: %v\n", id, err)
	}
	return m.Keeper.Forget(id)
}
