package store

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// ErrNotFound says that there is no such pod or container.
var ErrNotFound = errors.New("not found")

// ErrAmbiguous says that a shortened id fits several.
var ErrAmbiguous = errors.New("several ids begin like this")

// Store is the state of one node.
type Store struct {
	log   *slog.Logger
	write sync.Mutex // one writer at a time; readers never wait for it
	j     *journal
	owed  map[string]bool // ids whose last change could not be written yet

	mu   sync.RWMutex
	pods map[string]*Pod
	ctrs map[string]*Container
	name map[string]string // Key to id

	flightMu sync.Mutex
	flights  map[string]*flight

	dirty   chan struct{}
	done    chan struct{}
	closing sync.Once
	wg      sync.WaitGroup
}

// Open opens the state in the file at path. What a power cut left unreadable at
// its end is dropped: nothing of what it spoke of still runs, and what does is
// found at the helper.
func Open(path string, log *slog.Logger) (*Store, error) {
	s, err := open(path, log)
	if err == nil {
		s.wg.Add(1)
		go s.syncer()
	}
	return s, err
}

func open(path string, log *slog.Logger) (*Store, error) {
	s := &Store{
		log: log, owed: map[string]bool{}, pods: map[string]*Pod{}, ctrs: map[string]*Container{}, name: map[string]string{},
		flights: map[string]*flight{}, dirty: make(chan struct{}, 1), done: make(chan struct{}),
	}
	j, lost, err := openJournal(path, s.replay)
	if err != nil {
		return nil, err
	}
	if lost > 0 {
		log.Warn("the end of the state was unreadable and is dropped, as after a power cut", "file", path, "bytes", lost)
	}
	s.j = j
	return s, nil
}

func (s *Store) replay(e entry) {
	switch {
	case e.Pod != nil:
		s.setPod(e.Pod)
	case e.Ctr != nil:
		s.setContainer(e.Ctr)
	case e.Gone != "":
		s.unset(e.Gone)
	}
}

func (s *Store) setPod(p *Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pods[p.ID], s.name[p.Key()] = p, p.ID
}

func (s *Store) setContainer(c *Container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ctrs[c.ID], s.name[c.Key()] = c, c.ID
}

func (s *Store) unset(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.pods[id]; ok {
		delete(s.pods, id)
		delete(s.name, p.Key())
	}
	if c, ok := s.ctrs[id]; ok {
		delete(s.ctrs, id)
		delete(s.name, c.Key())
	}
}

// entryOf is how the journal is told of an id as it is now.
func (s *Store) entryOf(id string) entry {
	if p, ok := s.pod(id); ok {
		return entry{Pod: p}
	}
	if c, ok := s.container(id); ok {
		return entry{Ctr: c}
	}
	return entry{Gone: id}
}

// syncDelay is how far the disk may be behind, and how often a full one is tried.
const syncDelay = 200 * time.Millisecond

func (s *Store) syncer() {
	defer s.wg.Done()
	for {
		select {
		case <-s.done:
			return
		case <-s.dirty:
		}
		select {
		case <-s.done:
			return
		case <-time.After(syncDelay):
		}
		s.settle()
	}
}

// settle writes what is owed, the file anew where it is mostly history, and has
// all of it reach the disk, for which nobody waits.
func (s *Store) settle() {
	s.tidy()
	if err := s.j.sync(); err != nil {
		s.log.Error("the state did not reach the disk", "error", err)
	}
}

func (s *Store) tidy() {
	s.write.Lock()
	defer s.write.Unlock()
	if len(s.owed) > 0 {
		var all []entry
		for _, id := range slices.Sorted(maps.Keys(s.owed)) {
			all = append(all, s.entryOf(id))
		}
		if s.j.append(all...) != nil {
			s.touch()
			return
		}
		s.log.Info("the state is written again", "changes", len(all))
		clear(s.owed)
	}
	if s.j.size > s.j.next {
		if err := s.j.rewrite(s.live()); err != nil {
			s.log.Error("the state is kept in a file that grows", "error", err)
		}
	}
}

func (s *Store) live() []entry {
	var all []entry
	for _, p := range s.Pods() {
		all = append(all, entry{Pod: p})
	}
	for _, c := range s.Containers("") {
		all = append(all, entry{Ctr: c})
	}
	return all
}

func (s *Store) touch() {
	select {
	case s.dirty <- struct{}{}:
	default:
	}
}

// Close writes what is left and closes the file.
func (s *Store) Close() error {
	s.closing.Do(func() { close(s.done) })
	s.wg.Wait()
	s.settle()
	s.write.Lock()
	defer s.write.Unlock()
	return s.j.close()
}

// keep writes what is so already. Where it cannot be written, it is owed: a full
// disk keeps nothing from ending.
func (s *Store) keep(id string) {
	err := s.j.append(s.entryOf(id))
	switch {
	case err == nil:
		delete(s.owed, id)
	case len(s.owed) == 0:
		s.log.Error("changes are kept in memory until they can be written", "error", err)
		fallthrough
	default:
		s.owed[id] = true
	}
	s.touch()
}

// AddPod adds a pod, or fails.
func (s *Store) AddPod(p *Pod) error {
	s.write.Lock()
	defer s.write.Unlock()
	if err := s.j.append(entry{Pod: p}); err != nil {
		return err
	}
	s.setPod(p)
	s.touch()
	return nil
}

// AddContainer adds a container, or fails.
func (s *Store) AddContainer(c *Container) error {
	s.write.Lock()
	defer s.write.Unlock()
	if err := s.j.append(entry{Ctr: c}); err != nil {
		return err
	}
	s.setContainer(c)
	s.touch()
	return nil
}

// UpdatePod replaces a pod by a changed copy; f returns false to leave it. The
// only error is that there is none.
func (s *Store) UpdatePod(id string, f func(*Pod) bool) (*Pod, error) {
	s.write.Lock()
	defer s.write.Unlock()
	p, ok := s.pod(id)
	if !ok {
		return nil, fmt.Errorf("pod %s: %w", id, ErrNotFound)
	}
	n := p.Clone()
	if !f(n) {
		return p, nil
	}
	s.setPod(n)
	s.keep(id)
	return n, nil
}

// UpdateContainer is UpdatePod for a container.
func (s *Store) UpdateContainer(id string, f func(*Container) bool) (*Container, error) {
	s.write.Lock()
	defer s.write.Unlock()
	c, ok := s.container(id)
	if !ok {
		return nil, fmt.Errorf("container %s: %w", id, ErrNotFound)
	}
	n := c.Clone()
	if !f(n) {
		return c, nil
	}
	s.setContainer(n)
	s.keep(id)
	return n, nil
}

// Remove forgets a pod or a container.
func (s *Store) Remove(id string) {
	s.write.Lock()
	defer s.write.Unlock()
	s.unset(id)
	s.keep(id)
}

func (s *Store) pod(id string) (*Pod, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	p, ok := s.pods[id]
	return p, ok
}

func (s *Store) container(id string) (*Container, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	c, ok := s.ctrs[id]
	return c, ok
}

// Pod returns the pod whose id is or begins with id.
func (s *Store) Pod(id string) (*Pod, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return byPrefix("pod", s.pods, id)
}

// Container returns the container whose id is or begins with id.
func (s *Store) Container(id string) (*Container, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return byPrefix("container", s.ctrs, id)
}

func byPrefix[T any](kind string, m map[string]*T, id string) (*T, error) {
	if v, ok := m[id]; ok {
		return v, nil
	}
	var found *T
	if len(id) >= 4 && len(id) < 64 {
		for k, v := range m {
			if strings.HasPrefix(k, id) {
				if found != nil {
					return nil, fmt.Errorf("%s %q: %w", kind, id, ErrAmbiguous)
				}
				found = v
			}
		}
	}
	if found == nil {
		return nil, fmt.Errorf("%s %q: %w", kind, id, ErrNotFound)
	}
	return found, nil
}

// Pods returns all pods, ordered by id.
func (s *Store) Pods() []*Pod {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return sorted(s.pods)
}

// Containers returns all containers, or those of one pod, ordered by id.
func (s *Store) Containers(pod string) []*Container {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if pod == "" {
		return sorted(s.ctrs)
	}
	some := map[string]*Container{}
	for id, c := range s.ctrs {
		if c.Pod == pod {
			some[id] = c
		}
	}
	return sorted(some)
}
