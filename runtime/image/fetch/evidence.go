package fetch

import (
	"context"
	"errors"
	"strings"
	"sync"

	"github.com/containers/image/v5/docker/reference"

	"github.com/postern-cri/postern/runtime/image"
	"github.com/postern-cri/postern/runtime/image/manifest"
	"github.com/postern-cri/postern/verify/evidence"
)

// collect looks for signatures of the digests. That there is none is an answer;
// that the registry did not say is an error, and the two are never mixed up.
func (s *source) collect(ctx context.Context, j *evidence.Job, digests []string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, evidence.Deadline, &stallError{evidence.Deadline})
	defer cancel()
	found := make([][]evidence.Signature, len(digests))
	more := make([]bool, len(digests))
	errs := make([]error, len(digests))
	var wg sync.WaitGroup
	for i, d := range digests {
		wg.Add(1)
		go func() {
			defer wg.Done()
			found[i], more[i], errs[i] = s.signatures(ctx, d)
		}()
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return image.Errorf(image.Unavailable, "%s: the image was found, but its signatures could not be read: %v", s.name, trim(err))
	}
	total := 0
	for i := range digests {
		j.TooMany = j.TooMany || more[i]
		for _, sig := range found[i] {
			if total += len(sig.Payload); len(j.Signatures) >= evidence.MaxSignatures || total > evidence.MaxBytes {
				j.TooMany = true
				return nil
			}
			j.Signatures = append(j.Signatures, sig)
		}
	}
	return nil
}

// trim takes the word off again that another error will put in front.
func trim(err error) string { return strings.ReplaceAll(err.Error(), "RegistryUnavailable: ", "") }

// signatures reads the tag sha256-<hex>.sig, where cosign puts signatures.
func (s *source) signatures(ctx context.Context, digest string) (list []evidence.Signature, more bool, err error) {
	tag, err := reference.WithTag(reference.TrimNamed(s.name), strings.Replace(digest, ":", "-", 1)+".sig")
	if err != nil {
		return nil, false, err
	}
	sig, err := openSource(ctx, s.paths, s.auth, tag)
	if e := new(image.Error); errors.As(err, &e) && e.Code == image.NotFound {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	defer sig.Close()
	b, _, err := sig.manifest(ctx, "")
	if err != nil {
		return nil, false, err
	}
	// What is not even a manifest is no signature: the image is unsigned, and not
	// in an unknown state.
	m, _, err := manifest.Parse(b, "")
	if err != nil || m == nil {
		return nil, false, nil
	}
	total := int64(0)
	for _, l := range m.Layers {
		value, ok := l.Annotations[evidence.SignatureAnnotation]
		if !ok || l.MediaType != evidence.PayloadType {
			continue
		}
		total += l.Size
		if len(list) >= evidence.MaxSignatures || total > evidence.MaxBytes || l.Size > evidence.MaxPayload || len(value) > 16<<10 {
			return list, true, nil
		}
		payload, err := sig.smallBlob(ctx, l.Digest, evidence.MaxPayload)
		if err != nil {
			return nil, false, err
		}
		list = append(list, evidence.Signature{Payload: payload, Signature: value, For: digest})
	}
	return list, false, nil
}
