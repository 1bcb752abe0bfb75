// Package client is how posternd talks to the process that fetches images. The
// list of images is kept here: only posternd changes it, and a process that is
// started on demand should not be started to be asked what has not changed.
package client

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/layout"
	"github.com/postern-cri/postern/runtime/image"
	"github.com/postern-cri/postern/runtime/ipc"
)

// Client asks the fetching process. It is safe for concurrent use; each call has
// a connection of its own.
type Client struct {
	l layout.Layout

	mu    sync.Mutex
	known bool
	gen   int // counts changes, so that a list read before one is not kept
	list  []image.ImageInfo
}

// New returns a client; nothing is connected yet.
func New(l layout.Layout) *Client { return &Client{l: l} }

const shortCall = 30 * time.Second

// call sends one request and returns its last answer.
func (c *Client) call(ctx context.Context, r image.Request, progress func(image.Progress)) (image.Answer, error) {
	conn, err := ipc.Dial(c.l.FetchSocket())
	if err != nil {
		return image.Answer{}, image.Errorf(image.Internal, "the image service is not there: %v", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if r.Op != "pull" {
		conn.SetDeadline(time.Now().Add(shortCall))
	}
	if err := conn.Send(r); err != nil {
		return image.Answer{}, image.Errorf(image.Internal, "asking the image service: %v", err)
	}
	for {
		var a image.Answer
		if _, err := conn.Recv(&a, 0); err != nil {
			if ctx.Err() != nil {
				return a, ctx.Err()
			}
			return a, image.Errorf(image.Internal, "the image service gave no answer: %v", err)
		}
		switch {
		case a.Progress != nil:
			if progress != nil {
				progress(*a.Progress)
			}
		case a.Error != nil:
			return a, a.Error
		default:
			return a, nil
		}
	}
}

func (c *Client) changed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known, c.list = false, nil
	c.gen++
}

// Pull pulls an image. progress may be nil; it is called about every 100 ms.
func (c *Client) Pull(ctx context.Context, requestID, ref string, auth *image.Auth, pod *image.Pod, progress func(image.Progress)) (image.ImageInfo, error) {
	defer c.changed()
	a, err := c.call(ctx, image.Request{Op: "pull", Ref: ref, Auth: auth, Pod: pod, RequestID: requestID}, progress)
	if err != nil {
		return image.ImageInfo{}, err
	}
	if a.Image == nil {
		return image.ImageInfo{}, image.Errorf(image.Internal, "the image service answered a pull without an image")
	}
	return *a.Image, nil
}

// List returns the images by id. The caller must not change what it gets.
func (c *Client) List(ctx context.Context) ([]image.ImageInfo, error) {
	c.mu.Lock()
	if c.known {
		defer c.mu.Unlock()
		return c.list, nil
	}
	gen := c.gen
	c.mu.Unlock()
	var list []image.ImageInfo
	for r := (image.Request{Op: "list"}); ; {
		a, err := c.call(ctx, r, nil)
		if err != nil {
			return nil, err
		}
		list = append(list, a.Images...)
		if !a.More || len(a.Images) == 0 {
			break
		}
		r.After = list[len(list)-1].ID
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gen == gen {
		c.known, c.list = true, list
	}
	return list, nil
}

// Find returns the image that a reference, an id, a prefix of an id, or a digest
// names; the error's code is NotFound where there is none.
func (c *Client) Find(ctx context.Context, ref string) (image.ImageInfo, error) {
	list, err := c.List(ctx)
	if err != nil {
		return image.ImageInfo{}, err
	}
	if i, ok := Match(list, ref); ok {
		return i, nil
	}
	return image.ImageInfo{}, image.Errorf(image.NotFound, "image %.200q is not here", ref)
}

// Match finds a reference in a list.
func Match(list []image.ImageInfo, ref string) (image.ImageInfo, bool) {
	hex := strings.TrimPrefix(ref, "sha256:")
	isID := hex != "" && strings.Trim(hex, "0123456789abcdef") == ""
	if isID {
		var found []image.ImageInfo
		for _, i := range list {
			if i.ID == "sha256:"+hex || i.ManifestDigest == ref {
				return i, true
			}
			if len(hex) >= 10 && strings.HasPrefix(i.ID, "sha256:"+hex) {
				found = append(found, i)
			}
		}
		if len(found) == 1 {
			return found[0], true
		}
	}
	names := Names(ref)
	for _, i := range list {
		for _, n := range names {
			for _, t := range append(append([]string(nil), i.RepoTags...), i.RepoDigests...) {
				if t == n {
					return i, true
				}
			}
		}
	}
	return image.ImageInfo{}, false
}

// Names are the full names that a reference can stand for: with the default tag
// and, for a short one, in Docker Hub's namespace.
func Names(ref string) []string {
	if name, digest, ok := strings.Cut(ref, "@"); ok {
		if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
			name = name[:i]
		}
		ref = name + "@" + digest
	} else if strings.LastIndexByte(ref, ':') <= strings.LastIndexByte(ref, '/') {
		ref += ":latest"
	}
	first, rest, ok := strings.Cut(ref, "/")
	switch {
	case ok && first == "index.docker.io":
		return []string{ref, "docker.io/" + rest}
	case ok && (strings.ContainsAny(first, ".:") || first == "localhost"):
		return []string{ref}
	case ok:
		return []string{ref, "docker.io/" + ref}
	}
	return []string{ref, "docker.io/library/" + ref}
}

// Remove removes an image by its id, with its record and the layers that no
// other image has.
func (c *Client) Remove(ctx context.Context, id string) error {
	defer c.changed()
	_, err := c.call(ctx, image.Request{Op: "remove", ID: id}, nil)
	return err
}

// Reverify has an image judged again after the trust configuration changed.
func (c *Client) Reverify(ctx context.Context, manifest string) (image.ImageInfo, error) {
	defer c.changed()
	a, err := c.call(ctx, image.Request{Op: "reverify", Manifest: manifest}, nil)
	if err != nil || a.Image == nil {
		return image.ImageInfo{}, err
	}
	return *a.Image, nil
}

// Usage tells what the layers take. Their directory may be listed by posternd's
// group, so nobody is woken up for it.
func (c *Client) Usage(ctx context.Context) (image.Usage, error) {
	u := image.Usage{Mountpoint: c.l.Layers()}
	ents, err := os.ReadDir(c.l.Layers())
	if errors.Is(err, os.ErrPermission) {
		a, err := c.call(ctx, image.Request{Op: "usage"}, nil)
		if err != nil || a.Usage == nil {
			return u, err
		}
		return *a.Usage, nil
	}
	if err != nil {
		return u, fmt.Errorf("listing the layers: %w", err)
	}
	for _, e := range ents {
		var st unix.Stat_t
		if unix.Lstat(filepath.Join(c.l.Layers(), e.Name()), &st) == nil {
			u.Bytes += uint64(st.Blocks) * 512
			u.Inodes++
		}
	}
	return u, nil
}
