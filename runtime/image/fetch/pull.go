package fetch

import (
	"context"
	"errors"
	"runtime"
	"time"

	"github.com/containers/image/v5/docker/reference"

	"github.com/postern-cri/postern/policy/facts"
	"github.com/postern-cri/postern/privsep/gate"
	"github.com/postern-cri/postern/privsep/record"
	"github.com/postern-cri/postern/runtime/image"
	"github.com/postern-cri/postern/runtime/image/manifest"
	"github.com/postern-cri/postern/verify/evidence"
)

// platform is the architecture that images are chosen for.
const platform = runtime.GOARCH

// pull is the whole of PullImage: resolve, hash, ask policy, collect evidence,
// have it verified, ask policy again with what was verified, commit the decision
// to the audit log, and only then fetch layers, by digest.
func (s *Server) pull(ctx context.Context, r image.Request, progress func(image.Progress)) (info image.ImageInfo, err error) {
	name, err := parseReference(r.Ref, s.ShortNames)
	if err != nil {
		return info, err
	}
	q := &request{started: time.Now(), facts: facts.Facts{RequestID: r.RequestID, Image: &facts.Image{
		Requested: r.Ref, Registry: reference.Domain(name), Repository: name.Name(), Tag: tagOf(name), Platform: "linux/" + platform}}}
	if r.Pod != nil {
		q.facts.Pod = &facts.Pod{Namespace: r.Pod.Namespace, Name: r.Pod.Name, UID: r.Pod.UID}
	}
	progress(image.Progress{Stage: "resolve"})
	src, err := openSource(ctx, s.Paths, r.Auth, name)
	if err != nil {
		return info, err
	}
	defer src.Close()
	job := &evidence.Job{Repository: name.Name()}
	top, topType, err := src.manifest(ctx, digestOf(name))
	if err != nil {
		return info, err
	}
	digest := manifest.Digest(top)
	job.Requested = trimDigest(r.Ref) + "@" + digest
	q.facts.Image.Digest = digest
	m, index, err := manifest.Parse(top, topType)
	if err != nil {
		return info, image.Errorf(image.Invalid, "%s: %v", job.Requested, err)
	}
	if _, err := s.decide(ctx, q, nil); err != nil {
		return info, err
	}
	// The verifier's process starts while the evidence is collected.
	type dialled struct {
		v   *verifier
		err error
	}
	dial := make(chan dialled, 1)
	dialCtx, stopDialling := context.WithCancel(ctx)
	defer stopDialling()
	go func() {
		v, err := s.dialVerifier(dialCtx, s.pulls)
		dial <- dialled{v, err}
	}()
	var v *verifier
	defer func() {
		if v == nil {
			stopDialling()
			if d := <-dial; d.v != nil {
				d.v.close()
			}
			return
		}
		v.close()
	}()
	digests := []string{digest}
	job.Manifest, job.Type = top, topType
	if index != nil {
		child, err := index.Choose(platform)
		if err != nil {
			return info, image.Errorf(image.Invalid, "%s: %v", job.Requested, err)
		}
		job.Index, job.IndexType = top, topType
		if job.Manifest, job.Type, err = src.manifest(ctx, child.Digest); err != nil {
			return info, err
		}
		digests = append(digests, child.Digest)
		if m, _, err = manifest.Parse(job.Manifest, job.Type); err != nil || m == nil {
			return info, image.Errorf(image.Invalid, "%s: its manifest %s: %v", job.Requested, child.Digest, errors.Join(err))
		}
	}
	if err := m.Check(); err != nil {
		return info, image.Errorf(image.Invalid, "%s: %v", job.Requested, err)
	}
	progress(image.Progress{Stage: "verify", Digest: digest})
	config := make(chan error, 1)
	go func() {
		var err error
		job.Config, err = src.smallBlob(ctx, m.Config.Digest, manifest.MaxSize)
		config <- err
	}()
	err = src.collect(ctx, job, digests)
	if cerr := <-config; err == nil {
		err = cerr
	}
	if err != nil {
		return info, err
	}
	encoded, err := job.Encode()
	if err != nil {
		return info, err
	}
	d := <-dial
	dial <- dialled{}
	if v = d.v; d.err != nil {
		return info, image.AsError(d.err)
	}
	busy := s.lockOf(manifest.Digest(job.Manifest))
	busy.RLock()
	defer busy.RUnlock()
	rec, raw, missing, err := v.verify(encoded)
	if err != nil {
		q.facts.Image.Verification = &facts.Verification{Status: "failed"}
		_ = s.commit(ctx, gate.StageDecision, q, gate.Decision{Message: image.AsError(err).Message}, nil, false)
		return info, err
	}
	if err := s.store.begin(rec.Manifest, encoded); err != nil {
		return info, err
	}
	q.facts.Image.Verification = verification(rec)
	decision, err := s.decide(ctx, q, raw)
	if err != nil {
		return info, err
	}
	if err := s.commit(ctx, gate.StageDecision, q, decision, nil, false); err != nil {
		return info, image.Errorf(image.Internal, "PullImage: the decision could not be recorded: %v", err)
	}
	defer func() {
		_ = s.commit(context.WithoutCancel(ctx), gate.StageComplete, q, decision, err, true)
	}()
	if len(missing) > 0 {
		if err = s.layers(ctx, src, v, rec, missing, progress); err != nil {
			return info, err
		}
	}
	if info, err = describe(job, m, rec, name, digest); err != nil {
		return info, err
	}
	info, err = s.store.put(info, encoded)
	return info, err
}

func verification(rec *record.Record) *facts.Verification {
	v := &facts.Verification{Status: string(rec.Status), Epoch: rec.Epoch}
	for _, a := range rec.Authorities {
		v.Authorities = append(v.Authorities, a.Name)
	}
	return v
}

// describe builds what the CRI shows of an image. An artifact has no
// configuration of its own that could be its id: all have the same empty one.
func describe(job *evidence.Job, m *manifest.Manifest, rec *record.Record, name reference.Named, digest string) (image.ImageInfo, error) {
	info := image.ImageInfo{ID: rec.Config, ManifestDigest: rec.Manifest, IndexDigest: rec.Index,
		Size: int64(len(job.Manifest) + len(job.Config)), Status: string(rec.Status), RepoDigests: []string{name.Name() + "@" + digest}}
	if m.Artifact() {
		info.ID, info.Artifact = rec.Manifest, true
	} else {
		config, _, err := manifest.ParseConfig(job.Config)
		if err != nil {
			return image.ImageInfo{}, image.Errorf(image.Invalid, "%s: %v", job.Requested, err)
		}
		info.Config = config
	}
	if rec.Manifest != digest {
		info.RepoDigests = append(info.RepoDigests, name.Name()+"@"+rec.Manifest)
	}
	if tagOf(name) != "" {
		info.RepoTags = []string{name.String()}
	}
	for _, l := range rec.Layers {
		info.Size += l.Size
		info.Layers = append(info.Layers, l.DiffID)
	}
	return info, nil
}

func trimDigest(ref string) string {
	for i := range ref {
		if ref[i] == '@' {
			return ref[:i]
		}
	}
	return ref
}
