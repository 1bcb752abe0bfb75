package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"

	"github.com/containers/image/v5/pkg/blobinfocache/none"
	"github.com/containers/image/v5/types"
	"github.com/opencontainers/go-digest"
)

// blobFrom opens a blob at an offset. The library can ask for a range, but what
// it is asked by is of a package of its own, so the call is made by its name; the
// other way would be a second client for the tokens of registries. A registry
// that knows no ranges sends everything, and the library skips the beginning.
func blobFrom(ctx context.Context, src types.ImageSource, blob string, offset, size int64) (io.ReadCloser, error) {
	info := types.BlobInfo{Digest: digest.Digest(blob), Size: -1}
	if offset == 0 {
		r, _, err := src.GetBlob(ctx, info, none.NoCache)
		return r, err
	}
	get := reflect.ValueOf(src).MethodByName("GetBlobAt")
	if !get.IsValid() || get.Type().NumIn() != 3 || get.Type().In(2).Kind() != reflect.Slice {
		return skip(ctx, src, info, offset)
	}
	chunks := reflect.MakeSlice(get.Type().In(2), 1, 1)
	for name, v := range map[string]int64{"Offset": offset, "Length": size - offset} {
		f := chunks.Index(0).FieldByName(name)
		if f.Kind() != reflect.Uint64 {
			return skip(ctx, src, info, offset)
		}
		f.SetUint(uint64(v))
	}
	out := get.Call([]reflect.Value{reflect.ValueOf(ctx), reflect.ValueOf(info), chunks})
	if err, _ := out[2].Interface().(error); err != nil {
		return nil, err
	}
	streams, _ := out[0].Interface().(chan io.ReadCloser)
	errs, _ := out[1].Interface().(chan error)
	if streams == nil || errs == nil {
		return nil, errors.New("the library's answer to a range makes no sense")
	}
	// Both channels close at the end, the one for errors perhaps first.
	for streams != nil || errs != nil {
		select {
		case r, ok := <-streams:
			if ok {
				return &ranged{r, streams, errs}, nil
			}
			streams = nil
		case err, ok := <-errs:
			if ok {
				go drain(streams, nil)
				return nil, err
			}
			errs = nil
		case <-ctx.Done():
			go drain(streams, errs)
			return nil, ctx.Err()
		}
	}
	return nil, io.ErrUnexpectedEOF
}

// ranged is the one stream of a range.
type ranged struct {
	io.ReadCloser
	streams chan io.ReadCloser
	errs    chan error
}

// Close implements io.Closer.
func (r *ranged) Close() error {
	err := r.ReadCloser.Close()
	go drain(r.streams, r.errs)
	return err
}

// drain lets the library's goroutine end, which waits for a reader.
func drain(streams chan io.ReadCloser, errs chan error) {
	for streams != nil || errs != nil {
		select {
		case r, ok := <-streams:
			if ok {
				r.Close()
			} else {
				streams = nil
			}
		case _, ok := <-errs:
			if !ok {
				errs = nil
			}
		}
	}
}

// skip reads what is here already once more.
func skip(ctx context.Context, src types.ImageSource, info types.BlobInfo, offset int64) (io.ReadCloser, error) {
	r, _, err := src.GetBlob(ctx, info, none.NoCache)
	if err != nil {
		return nil, err
	}
	if _, err := io.CopyN(io.Discard, r, offset); err != nil {
		r.Close()
		return nil, fmt.Errorf("reading up to byte %d: %w", offset, err)
	}
	return r, nil
}
