package fetch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/postern-cri/postern/privsep/layout"
	"github.com/postern-cri/postern/privsep/seqpacket"
	"github.com/postern-cri/postern/runtime/image"
	"github.com/postern-cri/postern/runtime/image/admit"
	"github.com/postern-cri/postern/runtime/ipc"
)

// Idle is how long the process stays when nobody asks anything of it.
const Idle = 30 * time.Second

// Options are the fetch role's configuration.
type Options struct {
	Layout     layout.Layout
	Front      layout.ID // who may ask
	Paths      Paths
	ShortNames string
	Pinned     []string
	Parallel   int
	Policy     Policy
	Audit      Audit
}

// Server is the fetch role.
type Server struct {
	Options
	store *store
	parts *parts

	mu      sync.Mutex
	flights map[string]*flight
	images  map[string]*sync.RWMutex // by manifest: pulls share, a removal is alone
	pulls   chan struct{}            // verifying processes in use
	other   chan struct{}
	busy    int
	last    time.Time
}

// NewServer opens the index and clears what nobody will go on with.
func NewServer(o Options) (*Server, error) {
	dir := o.Layout.FetchState()
	pt, err := openParts(filepath.Join(dir, "spool"))
	if err != nil {
		return nil, err
	}
	st, err := openStore(dir)
	if err != nil {
		return nil, err
	}
	for i, p := range o.Pinned {
		n, err := parseReference(p, "docker.io")
		if err != nil {
			return nil, fmt.Errorf("image.pinned: %w", err)
		}
		o.Pinned[i] = n.String()
	}
	return &Server{Options: o, store: st, parts: pt, flights: map[string]*flight{}, images: map[string]*sync.RWMutex{},
		pulls: make(chan struct{}, maxPulls), other: make(chan struct{}, 1), last: time.Now()}, nil
}

// Serve answers connections until nobody has asked for Idle.
func (s *Server) Serve(l *seqpacket.Listener) error {
	go func() {
		if _, err := s.sync(); err != nil {
			fmt.Fprintln(os.Stderr, "postern-imaged: fetch:", err)
		}
	}()
	for {
		if err := l.SetDeadline(time.Now().Add(Idle / 4)); err != nil {
			return err
		}
		c, err := l.Accept()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if s.idle() {
				return nil
			}
			continue
		}
		if err != nil {
			return err
		}
		go s.serve(c)
	}
}

func (s *Server) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.busy == 0 && time.Since(s.last) >= Idle
}

func (s *Server) work(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy += n
	s.last = time.Now()
}

func (s *Server) serve(c *seqpacket.Conn) {
	conn := ipc.New(c)
	defer conn.Close()
	if p, err := c.Peer(); err != nil || p.Uid != s.Front.UID && p.Uid != 0 {
		return
	}
	for {
		var r image.Request
		if _, err := conn.Recv(&r, 0); err != nil {
			return
		}
		s.work(1)
		a := s.answer(conn, r)
		s.work(-1)
		if err := conn.Send(a); err != nil || r.Op == "pull" {
			return
		}
	}
}

func (s *Server) answer(conn *ipc.Conn, r image.Request) (a image.Answer) {
	// A library that panics over what a registry sent ends one request.
	defer func() {
		if p := recover(); p != nil {
			a = image.Answer{Error: image.Errorf(image.Internal, "%s: %v", r.Op, p)}
		}
	}()
	fail := func(err error) image.Answer { return image.Answer{Error: image.AsError(err)} }
	switch r.Op {
	case "pull":
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		go func() {
			// The peer says nothing more on this connection: that it can be read from means
			// that nobody waits any more.
			var nothing image.Request
			conn.Recv(&nothing, 0)
			cancel()
		}()
		info, err := s.pull(ctx, r, func(p image.Progress) { _ = conn.Send(image.Answer{Progress: &p}) })
		if err != nil {
			return fail(err)
		}
		return image.Answer{Image: &info}
	case "list":
		return s.page(r.After)
	case "remove":
		if err := s.remove(r.ID); err != nil {
			return fail(err)
		}
		return image.Answer{OK: true}
	case "usage":
		u, err := s.sync()
		if err != nil {
			return fail(err)
		}
		return image.Answer{Usage: u}
	case "reverify":
		info, err := s.reverify(r.Manifest)
		if err != nil {
			return fail(err)
		}
		return image.Answer{Image: &info}
	}
	return fail(image.Errorf(image.Invalid, "unknown operation %q", r.Op))
}

// page is a part of the list that fits in one message.
func (s *Server) page(after string) image.Answer {
	a := image.Answer{OK: true}
	size := 0
	for _, i := range s.store.list(s.Pinned) {
		if i.ID <= after {
			continue
		}
		n := weigh(&i)
		if size += n; size > ipc.MaxMessage*3/4 && len(a.Images) > 0 {
			a.More = true
			break
		}
		a.Images = append(a.Images, i)
	}
	return a
}

// weigh is at least the length of an image's JSON.
func weigh(i *image.ImageInfo) int {
	n := 1024 + 6*(len(i.Config.User)+len(i.Config.WorkingDir)+len(i.Config.StopSignal))
	for _, list := range [][]string{i.RepoTags, i.RepoDigests, i.Layers, i.Config.Env, i.Config.Entrypoint, i.Config.Cmd, i.Config.Volumes} {
		for _, s := range list {
			n += 8 + 2*len(s)
		}
	}
	for k, v := range i.Config.Labels {
		n += 16 + 2*(len(k)+len(v))
	}
	return n
}

func (s *Server) remove(id string) error {
	manifests := s.store.manifests(id)
	if len(manifests) == 0 {
		return image.Errorf(image.NotFound, "image %.100q is not here", id)
	}
	v, err := s.dialVerifier(context.Background(), s.other)
	if err != nil {
		return err
	}
	defer v.close()
	for _, m := range manifests {
		if err := s.removeOne(v, m); err != nil {
			return err
		}
	}
	// Whoever removes an image wants its space, and more of it than that of pulls
	// that may never be tried again.
	_, err = s.collect(v, 0)
	return err
}

func (s *Server) removeOne(v *verifier, manifest string) error {
	l := s.lockOf(manifest)
	l.Lock()
	defer l.Unlock()
	// The record goes first: from then on nothing can be created from the image.
	if _, err := v.call(admit.Request{Op: "remove", Manifest: manifest}); err != nil {
		return err
	}
	return s.store.drop(manifest)
}

// lockOf keeps a removal from taking away what a pull of the same image has just
// been told is there.
func (s *Server) lockOf(manifest string) *sync.RWMutex {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.images[manifest]
	if l == nil {
		l = &sync.RWMutex{}
		s.images[manifest] = l
	}
	return l
}

// sync clears what has no record and tells what the layers take.
func (s *Server) sync() (*image.Usage, error) {
	since := time.Now()
	v, err := s.dialVerifier(context.Background(), s.other)
	if err != nil {
		return nil, err
	}
	defer v.close()
	a, err := s.collect(v, partAge)
	if err != nil {
		return nil, err
	}
	have := slices.DeleteFunc(a.Manifests, func(m string) bool { return slices.Contains(a.Broken, m) })
	return a.Usage, s.store.keepOnly(have, since)
}

// collect removes what pulls left that did not come to their end and were not
// tried again for a while: parts of blobs, and records with the layers that did
// come.
func (s *Server) collect(v *verifier, age time.Duration) (admit.Answer, error) {
	if err := s.parts.clear(age); err != nil {
		return admit.Answer{}, err
	}
	a, err := v.call(admit.Request{Op: "sync"})
	if err != nil {
		return a, err
	}
	for _, m := range a.Manifests {
		if s.store.wanted(m, age) {
			continue
		}
		l := s.lockOf(m)
		if !l.TryLock() {
			continue // being pulled
		}
		var err error
		if !s.store.wanted(m, age) {
			if _, err = v.call(admit.Request{Op: "remove", Manifest: m}); err == nil {
				err = s.store.drop(m)
			}
		}
		l.Unlock()
		if err != nil {
			return a, err
		}
	}
	return a, nil
}

// reverify judges an image again by what was kept of its evidence: after the
// trust configuration changed, its record is of another epoch.
func (s *Server) reverify(manifest string) (image.ImageInfo, error) {
	info, ok := s.store.get(manifest)
	if !ok {
		return info, image.Errorf(image.NotFound, "image %.100q is not here", manifest)
	}
	job, err := s.store.evidence(manifest)
	if err != nil {
		return info, image.Errorf(image.NotFound, "the evidence of %s is not here: pull it again", manifest)
	}
	v, err := s.dialVerifier(context.Background(), s.other)
	if err != nil {
		return info, err
	}
	defer v.close()
	rec, _, missing, err := v.verify(job)
	if err != nil {
		return info, err
	}
	if len(missing) > 0 {
		return info, image.Errorf(image.NotFound, "%d layers of %s are not here: pull it again", len(missing), manifest)
	}
	if rec.Manifest != manifest {
		return info, image.Errorf(image.Internal, "the evidence of %s speaks of %s", manifest, rec.Manifest)
	}
	info.Status = string(rec.Status)
	return s.store.put(info, job)
}
