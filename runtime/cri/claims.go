package cri

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"

	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/runtime/store"
	"google.golang.org/protobuf/proto"
)

func (s *Server) claims(ctx context.Context, method string) plan.Claims {
	who := callerOf(ctx)
	return plan.Claims{RequestID: requestID(ctx), Method: method, CallerUID: who.UID, CallerPID: who.PID}
}

func claimPod(c *plan.Claims, p *store.Pod) {
	c.PodName, c.Namespace, c.PodUID, c.PodAttempt = p.Name, p.Namespace, p.UID, p.Attempt
	c.Labels, c.Annotations = pairs(p.Labels), pairs(p.Annotations)
}

func claimContainer(c *plan.Claims, ctr *store.Container) {
	c.Container, c.Attempt, c.ImageRef = ctr.Name, ctr.Attempt, ctr.UserImage
	c.CtrLabels, c.CtrNotes = pairs(ctr.Labels), pairs(ctr.Annotations)
}

// maxClaim is the most bytes of a label's or annotation's value that is told to
// others, and maxClaims of all together: tools keep whole manifests in annotations,
// and Kubernetes allows 256 KiB of them. Of what is cut policy gets the length.
const (
	maxClaim  = 1 << 10
	maxClaims = 32 << 10
)

func claimed(m map[string]string) map[string]string {
	limit := maxClaim
	for ; limit > 1; limit /= 2 {
		size := 0
		for _, v := range m {
			if len(v) <= limit {
				size += len(v)
			}
		}
		if size <= maxClaims {
			break
		}
	}
	out := make(map[string]string, len(m))
	for k, v := range m {
		if len(v) > limit {
			v = fmt.Sprintf("[%d bytes]", len(v))
		}
		out[k] = v
	}
	return out
}

// pairs sorts a map, so that equal requests have equal bytes.
func pairs(m map[string]string) []plan.KV {
	m = claimed(m)
	out := make([]plan.KV, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, plan.KV{Key: k, Value: m[k]})
	}
	return out
}

// digest names the content of a request, to tell a repeated one from another of
// the same name.
func digest(m proto.Message) string {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return ""
	}
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}
