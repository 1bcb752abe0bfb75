package cri

import (
	"context"
	"errors"
	"time"

	"github.com/postern-cri/postern/runtime/image"
	"github.com/postern-cri/postern/runtime/ipc"
)

// Fetcher is the ImageClient behind the socket at a path.
type Fetcher string

// Limits of one question. Pulling has the kubelet's own deadline, if any.
const (
	fetchTimeout = 30 * time.Second
	pullTimeout  = time.Hour
)

func (f Fetcher) ask(ctx context.Context, limit time.Duration, r image.Request) (*image.Answer, error) {
	c, err := ipc.Dial(string(f))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := c.Send(r); err != nil {
		return nil, err
	}
	for {
		var a image.Answer
		if _, err := c.Recv(&a, 0); err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return nil, err
		}
		if a.Error != nil {
			return nil, a.Error
		}
		if a.Progress == nil {
			return &a, nil
		}
	}
}

// Pull implements ImageClient.
func (f Fetcher) Pull(ctx context.Context, ref string, auth *image.Auth, pod *image.Pod, requestID string) (*image.ImageInfo, error) {
	a, err := f.ask(ctx, pullTimeout, image.Request{Op: "pull", Ref: ref, Auth: auth, Pod: pod, RequestID: requestID})
	if err != nil {
		return nil, err
	}
	if a.Image == nil {
		return nil, errors.New("the answer to a pull has no image")
	}
	return a.Image, nil
}

// List implements ImageClient.
func (f Fetcher) List(ctx context.Context) ([]image.ImageInfo, error) {
	var out []image.ImageInfo
	r := image.Request{Op: "list"}
	for {
		a, err := f.ask(ctx, fetchTimeout, r)
		if err != nil {
			return nil, err
		}
		out = append(out, a.Images...)
		if !a.More || len(a.Images) == 0 {
			return out, nil
		}
		r.After = a.Images[len(a.Images)-1].ID
	}
}

// Remove implements ImageClient.
func (f Fetcher) Remove(ctx context.Context, id string) error {
	_, err := f.ask(ctx, fetchTimeout, image.Request{Op: "remove", ID: id})
	return err
}

// Usage implements ImageClient.
func (f Fetcher) Usage(ctx context.Context) (image.Usage, error) {
	a, err := f.ask(ctx, fetchTimeout, image.Request{Op: "usage"})
	if err != nil {
		return image.Usage{}, err
	}
	if a.Usage == nil {
		return image.Usage{}, errors.New("the answer about usage is empty")
	}
	return *a.Usage, nil
}
