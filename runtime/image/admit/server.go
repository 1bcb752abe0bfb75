package admit

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/layout"
	"github.com/postern-cri/postern/privsep/record"
	"github.com/postern-cri/postern/privsep/seqpacket"
	"github.com/postern-cri/postern/runtime/image"
	"github.com/postern-cri/postern/runtime/image/manifest"
	"github.com/postern-cri/postern/runtime/ipc"
	"github.com/postern-cri/postern/verify"
	"github.com/postern-cri/postern/verify/evidence"
	"github.com/postern-cri/postern/verify/trust"
)

// Server serves one connection.
type Server struct {
	conn    *ipc.Conn
	l       layout.Layout
	records *os.File // directories
	layers  *os.File
	lock    *os.File

	sendMu     sync.Mutex
	record     *record.Record // of this pull
	files      []string       // and, of an artifact, the names of its files
	wg         sync.WaitGroup
	converters *converters
}

// Serve serves conn until its peer hangs up.
func Serve(conn *ipc.Conn, l layout.Layout) error {
	s := &Server{conn: conn, l: l, converters: newConverters(l.ConvertSocket())}
	var err error
	if s.records, err = os.Open(l.Records()); err != nil {
		return fmt.Errorf("opening the records: %w", err)
	}
	defer s.records.Close()
	if s.layers, err = os.Open(l.Layers()); err != nil {
		return fmt.Errorf("opening the layers: %w", err)
	}
	defer s.layers.Close()
	fd, err := unix.Openat(int(s.records.Fd()), ".lock", unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("opening the lock: %w", err)
	}
	s.lock = os.NewFile(uintptr(fd), "lock")
	defer s.lock.Close()
	for {
		var r Request
		fds, err := conn.Recv(&r, 1)
		if errors.Is(err, seqpacket.ErrEOF) {
			s.wg.Wait()
			return nil
		}
		if err != nil {
			return err
		}
		s.dispatch(r, fds)
	}
}

func (s *Server) dispatch(r Request, fds []int) {
	fd := -1
	if len(fds) == 1 {
		fd = fds[0]
	}
	if needs := r.Op == "verify" || r.Op == "admit"; needs != (fd >= 0) {
		seqpacket.CloseAll(fds)
		s.answer(Answer{Op: r.Op, Layer: r.Layer, Error: image.Errorf(image.Invalid, "%q with %d fds", r.Op, len(fds))})
		return
	}
	switch r.Op {
	case "verify":
		s.answer(s.verify(r, fd))
	case "admit":
		// The record is settled before the first blob comes: only admit runs beside
		// others.
		rec, files := s.record, s.files
		s.wg.Add(1)
		go func() {
			defer s.wg.Done()
			a := Answer{Op: r.Op, Layer: r.Layer}
			if err := s.admit(rec, files, r, fd); err != nil {
				a.Error = image.AsError(err)
			}
			s.answer(a)
		}()
	case "remove":
		a := Answer{Op: r.Op}
		if err := s.remove(r.Manifest); err != nil {
			a.Error = image.AsError(err)
		}
		s.answer(a)
	case "sync":
		s.answer(s.sync())
	default:
		s.answer(Answer{Op: r.Op, Error: image.Errorf(image.Invalid, "unknown operation %q", r.Op)})
	}
}

func (s *Server) answer(a Answer) {
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	// A peer that is gone needs no answer; the next Recv ends the process.
	_ = s.conn.Send(a)
}

// verify judges a job and writes the record.
func (s *Server) verify(r Request, fd int) (a Answer) {
	a.Op = r.Op
	b, err := ipc.ReadBlob(fd, evidence.MaxJob)
	if err != nil {
		a.Error = image.Errorf(image.Internal, "reading a job: %v", err)
		return a
	}
	j, err := evidence.Decode(b)
	if err != nil {
		a.Error = image.Errorf(image.Invalid, "%v", err)
		return a
	}
	epoch, err := record.Epoch(s.l.Trust(), s.l.TrustDir())
	if err != nil {
		a.Error = image.Errorf(image.Internal, "%v", err)
		return a
	}
	c, err := trust.Load(s.l.Trust())
	if err != nil {
		a.Error = image.Errorf(image.Internal, "trust configuration: %v", err)
		return a
	}
	// Read between two readings of the epoch, so that the rules are those of it.
	if again, err := record.Epoch(s.l.Trust(), s.l.TrustDir()); err != nil || again != epoch {
		a.Error = image.Errorf(image.Internal, "the trust configuration changed while it was read: try again")
		return a
	}
	rec, failure := verify.Judge(c, epoch, j, time.Now())
	if failure != nil {
		if failure.Code == verify.Invalid {
			a.Error = image.Errorf(image.Invalid, "%s: %s", clip(j.Requested), failure.Reason)
			return a
		}
		a.Error = image.Errorf(image.Signature, "%s: %s", clip(j.Requested), failure.Error())
		return a
	}
	unlock, err := s.hold()
	if err != nil {
		a.Error = image.AsError(err)
		return a
	}
	defer unlock()
	if rec, err = s.writeRecord(rec); err == nil {
		a.Record, err = rec.Encode()
	}
	if err != nil {
		a.Error = image.AsError(err)
		return a
	}
	s.record, s.files = rec, nil
	if m, _, err := manifest.Parse(j.Manifest, j.Type); err == nil && m != nil && m.Artifact() {
		s.files, _ = m.Files() // as Judge has read them
	}
	a.Missing = s.missing(rec)
	return a
}

func clip(s string) string {
	if len(s) > 1024 {
		return s[:1024] + "…"
	}
	return s
}

// hold keeps other processes of this uid from changing records and removing
// layers at the same time.
func (s *Server) hold() (func(), error) {
	fd := int(s.lock.Fd())
	if err := unix.Flock(fd, unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("locking the records: %w", err)
	}
	return func() { unix.Flock(fd, unix.LOCK_UN) }, nil
}

// missing lists the layers of rec that are not here. A layer that is here stays:
// the record names it, and removal reads records under the same lock.
func (s *Server) missing(rec *record.Record) []int {
	var list []int
	for k, l := range rec.Layers {
		h, err := record.Hex(l.DiffID)
		if err != nil {
			continue
		}
		var st unix.Stat_t
		if unix.Fstatat(int(s.layers.Fd()), h+".erofs", &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
			list = append(list, k)
		}
	}
	return list
}
