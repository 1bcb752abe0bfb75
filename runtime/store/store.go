package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// ErrNotFound says that there is no such pod or container.
var ErrNotFound = errors.New("not found")

// ErrAmbiguous says that a shortened id fits several.
var ErrAmbiguous = errors.New("several ids begin like this")

var (
	podBucket = []byte("pods")
	ctrBucket = []byte("containers")
)

// Store is the state of one node.
type Store struct {
	db    *bbolt.DB
	write sync.Mutex // one writer at a time; readers never wait for it

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

// Open opens the state in the file at path. A file that cannot be read, as a
// power cut can leave it, is moved aside: nothing of what it spoke of still
// runs, and what does is found at the helper.
func Open(path string) (*Store, error) {
	s, err := open(path)
	if err == nil {
		return s, nil
	}
	if errors.Is(err, os.ErrPermission) || errors.Is(err, berrors.ErrTimeout) {
		return nil, err
	}
	if rerr := os.Rename(path, path+".bad"); rerr != nil {
		return nil, errors.Join(err, rerr)
	}
	return open(path)
}

func open(path string) (s *Store, err error) {
	defer func() {
		// bbolt panics on a torn page.
		if r := recover(); r != nil {
			err = fmt.Errorf("the state in %s is damaged: %v", path, r)
		}
	}()
	// Every write reaches the page cache before it is answered, so a killed
	// process loses nothing; the disk follows within syncDelay. fsync per change
	// would cost more than all else in starting a pod, and after a power cut
	// nothing that this file speaks of is alive.
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout: 5 * time.Second, NoSync: true, NoGrowSync: true, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType,
	})
	if err != nil {
		return nil, fmt.Errorf("opening the state: %w", err)
	}
	s = &Store{
		db: db, pods: map[string]*Pod{}, ctrs: map[string]*Container{}, name: map[string]string{},
		flights: map[string]*flight{}, dirty: make(chan struct{}, 1), done: make(chan struct{}),
	}
	if err := s.load(); err != nil {
		db.Close()
		return nil, err
	}
	s.wg.Add(1)
	go s.syncer()
	return s, nil
}

func (s *Store) load() error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		pods, err := tx.CreateBucketIfNotExists(podBucket)
		if err != nil {
			return err
		}
		ctrs, err := tx.CreateBucketIfNotExists(ctrBucket)
		if err != nil {
			return err
		}
		if err := pods.ForEach(func(k, v []byte) error {
			var p Pod
			if err := json.Unmarshal(v, &p); err != nil || p.ID != string(k) {
				return fmt.Errorf("pod %q in the state is damaged: %v", k, err)
			}
			s.pods[p.ID], s.name[p.Key()] = &p, p.ID
			return nil
		}); err != nil {
			return err
		}
		return ctrs.ForEach(func(k, v []byte) error {
			var c Container
			if err := json.Unmarshal(v, &c); err != nil || c.ID != string(k) {
				return fmt.Errorf("container %q in the state is damaged: %v", k, err)
			}
			s.ctrs[c.ID], s.name[c.Key()] = &c, c.ID
			return nil
		})
	})
}

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
		_ = s.db.Sync() // the next change tries again
	}
}

// Close writes everything to the disk and closes the file.
func (s *Store) Close() error {
	s.closing.Do(func() { close(s.done) })
	s.wg.Wait()
	s.write.Lock()
	defer s.write.Unlock()
	return errors.Join(s.db.Sync(), s.db.Close())
}

func (s *Store) put(bucket []byte, id string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding the state: %w", err)
	}
	return s.change(func(tx *bbolt.Tx) error { return tx.Bucket(bucket).Put([]byte(id), b) })
}

func (s *Store) change(f func(*bbolt.Tx) error) error {
	if err := s.db.Update(f); err != nil {
		return fmt.Errorf("writing the state: %w", err)
	}
	select {
	case s.dirty <- struct{}{}:
	default:
	}
	return nil
}

// AddPod stores a new pod.
func (s *Store) AddPod(p *Pod) error {
	s.write.Lock()
	defer s.write.Unlock()
	if err := s.put(podBucket, p.ID, p); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pods[p.ID], s.name[p.Key()] = p, p.ID
	return nil
}

// AddContainer stores a new container.
func (s *Store) AddContainer(c *Container) error {
	s.write.Lock()
	defer s.write.Unlock()
	if err := s.put(ctrBucket, c.ID, c); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ctrs[c.ID], s.name[c.Key()] = c, c.ID
	return nil
}

// UpdatePod replaces the pod by what f makes of a copy; f returns false to
// leave it. The new value is in memory even where the disk refuses it: what
// happened has happened.
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
	s.mu.Lock()
	s.pods[id] = n
	s.mu.Unlock()
	return n, s.put(podBucket, id, n)
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
	s.mu.Lock()
	s.ctrs[id] = n
	s.mu.Unlock()
	return n, s.put(ctrBucket, id, n)
}

// RemovePod forgets a pod.
func (s *Store) RemovePod(id string) error {
	s.write.Lock()
	defer s.write.Unlock()
	s.mu.Lock()
	if p, ok := s.pods[id]; ok {
		delete(s.pods, id)
		delete(s.name, p.Key())
	}
	s.mu.Unlock()
	return s.change(func(tx *bbolt.Tx) error { return tx.Bucket(podBucket).Delete([]byte(id)) })
}

// RemoveContainer forgets a container.
func (s *Store) RemoveContainer(id string) error {
	s.write.Lock()
	defer s.write.Unlock()
	s.mu.Lock()
	if c, ok := s.ctrs[id]; ok {
		delete(s.ctrs, id)
		delete(s.name, c.Key())
	}
	s.mu.Unlock()
	return s.change(func(tx *bbolt.Tx) error { return tx.Bucket(ctrBucket).Delete([]byte(id)) })
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
