package fetch

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/postern-cri/postern/privsep/record"
	"github.com/postern-cri/postern/runtime/image"
)

// store is the index of the images on this node. It is a convenience: what may
// run is decided from the verification records, which this uid cannot write.
type store struct {
	dir string
	mu  sync.Mutex
	by  map[string]*entry // by manifest digest
}

type entry struct {
	Info   image.ImageInfo `json:"info"`
	Pulled time.Time       `json:"pulled"`
}

type storeFile struct {
	Version int      `json:"version"`
	Images  []*entry `json:"images"`
}

func openStore(dir string) (*store, error) {
	s := &store{dir: dir, by: map[string]*entry{}}
	if err := os.MkdirAll(filepath.Join(dir, "evidence"), 0o700); err != nil {
		return nil, fmt.Errorf("opening the image index: %w", err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "images.json"))
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("opening the image index: %w", err)
	}
	var f storeFile
	if err := json.Unmarshal(b, &f); err != nil {
		// Without it images are pulled again; with an error nothing could be.
		fmt.Fprintln(os.Stderr, "postern-imaged: fetch: the image index is damaged, and begun anew:", err)
		return s, nil
	}
	if f.Version != 1 {
		return nil, fmt.Errorf("image index: version %d", f.Version)
	}
	for _, e := range f.Images {
		s.by[e.Info.ManifestDigest] = e
	}
	return s, nil
}

// save writes the index so that a crash leaves the old or the new one.
func (s *store) save() error {
	f := storeFile{Version: 1}
	for _, e := range s.by {
		f.Images = append(f.Images, e)
	}
	sort.Slice(f.Images, func(i, j int) bool {
		return f.Images[i].Info.ManifestDigest < f.Images[j].Info.ManifestDigest
	})
	b, err := json.Marshal(f)
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(s.dir, "images.json"), b); err != nil {
		return fmt.Errorf("writing the image index: %w", err)
	}
	return nil
}

// writeFile replaces a file durably.
func writeFile(path string, b []byte) error {
	f, err := os.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// put adds a pulled image, or what a further pull of it adds. A tag points to
// one image: another one that had it loses it.
func (s *store) put(info image.ImageInfo, job []byte) (image.ImageInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, err := record.Hex(info.ManifestDigest)
	if err != nil {
		return info, err
	}
	if err := s.keep(h, job); err != nil {
		return info, err
	}
	for m, e := range s.by {
		if m != info.ManifestDigest {
			e.Info.RepoTags = slices.DeleteFunc(e.Info.RepoTags, func(t string) bool { return slices.Contains(info.RepoTags, t) })
		}
	}
	if old := s.by[info.ManifestDigest]; old != nil {
		info.RepoTags = union(old.Info.RepoTags, info.RepoTags)
		info.RepoDigests = union(old.Info.RepoDigests, info.RepoDigests)
		if info.IndexDigest == "" {
			info.IndexDigest = old.Info.IndexDigest
		}
	}
	s.by[info.ManifestDigest] = &entry{info, time.Now()}
	return info, s.save()
}

// begin keeps the evidence of an image whose layers are still to come.
func (s *store) begin(manifest string, job []byte) error {
	h, err := record.Hex(manifest)
	if err != nil {
		return err
	}
	return s.keep(h, job)
}

// keep writes evidence. It is not synced: without it the image is pulled again
// when trust changes.
func (s *store) keep(hex string, job []byte) error {
	if err := os.WriteFile(filepath.Join(s.dir, "evidence", hex+".json"), job, 0o600); err != nil {
		return fmt.Errorf("keeping the evidence: %w", err)
	}
	return nil
}

// wanted says whether an image is here, or began to be pulled less than age ago.
func (s *store) wanted(manifest string, age time.Duration) bool {
	if _, ok := s.get(manifest); ok {
		return true
	}
	h, err := record.Hex(manifest)
	if err != nil {
		return true // nothing that could be removed
	}
	st, err := os.Stat(filepath.Join(s.dir, "evidence", h+".json"))
	return err == nil && time.Since(st.ModTime()) < age
}

func union(a, b []string) []string {
	out := slices.Clone(a)
	for _, x := range b {
		if !slices.Contains(out, x) {
			out = append(out, x)
		}
	}
	return out
}

// list returns the images by id. Two manifests with one configuration are one
// image to the CRI: the names of both are shown, the layers of the newer. One
// that has one of the names in pinned is pinned.
func (s *store) list(pinned []string) []image.ImageInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	byID := map[string]*entry{}
	for _, e := range s.by {
		o := byID[e.Info.ID]
		if o == nil {
			c := *e
			byID[e.Info.ID] = &c
			continue
		}
		newer, older := *o, *e
		if e.Pulled.After(o.Pulled) {
			newer, older = *e, *o
		}
		newer.Info.RepoTags = union(newer.Info.RepoTags, older.Info.RepoTags)
		newer.Info.RepoDigests = union(newer.Info.RepoDigests, older.Info.RepoDigests)
		byID[e.Info.ID] = &newer
	}
	var out []image.ImageInfo
	for _, e := range byID {
		is := func(n string) bool { return slices.Contains(pinned, n) }
		e.Info.Pinned = slices.ContainsFunc(e.Info.RepoTags, is) || slices.ContainsFunc(e.Info.RepoDigests, is)
		out = append(out, e.Info)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].ID < out[j].ID })
	return out
}

// manifests returns the manifests of an image, by its id or one of theirs.
func (s *store) manifests(id string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for m, e := range s.by {
		if e.Info.ID == id || m == id {
			out = append(out, m)
		}
	}
	sort.Strings(out)
	return out
}

// get returns the image with a manifest.
func (s *store) get(manifest string) (image.ImageInfo, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.by[manifest]; e != nil {
		return e.Info, true
	}
	return image.ImageInfo{}, false
}

// evidence returns the job by which an image was verified.
func (s *store) evidence(manifest string) ([]byte, error) {
	h, err := record.Hex(manifest)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(filepath.Join(s.dir, "evidence", h+".json"))
}

// drop forgets images.
func (s *store) drop(manifests ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range manifests {
		delete(s.by, m)
		if h, err := record.Hex(m); err == nil {
			os.Remove(filepath.Join(s.dir, "evidence", h+".json"))
		}
	}
	return s.save()
}

// keepOnly forgets images that were there before since and have no record.
func (s *store) keepOnly(have []string, since time.Time) error {
	s.mu.Lock()
	var gone []string
	for m, e := range s.by {
		if e.Pulled.Before(since) && !slices.Contains(have, m) {
			gone = append(gone, m)
		}
	}
	s.mu.Unlock()
	if len(gone) == 0 {
		return nil
	}
	return s.drop(gone...)
}
