package cri

import (
	"context"
	"errors"
	"reflect"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/postern-cri/postern/policy/input"
)

type fakeStream struct{ ctx context.Context }

func (f fakeStream) SetHeader(metadata.MD) error  { return nil }
func (f fakeStream) SendHeader(metadata.MD) error { return nil }
func (f fakeStream) SetTrailer(metadata.MD)       {}
func (f fakeStream) Context() context.Context     { return f.ctx }
func (f fakeStream) SendMsg(any) error            { return errors.New("something was sent") }
func (f fakeStream) RecvMsg(any) error            { return nil }

// TestEveryMethodIsDecided calls every method of both services with a policy
// that denies everything. What is asked here must be denied before anything is
// done; what crosses must not be asked here.
func TestEveryMethodIsDecided(t *testing.T) {
	w := newWorld(t)
	pod, ctr := w.runPod(t, "web")
	w.policy.deny = true
	seen := map[string]bool{}
	check := func(method string, call func() error) {
		t.Helper()
		seen[method] = true
		r, ok := rules[method]
		if !ok {
			t.Errorf("%s: in no table", method)
			return
		}
		before := w.helper.asked()
		asked := w.policy.asked[method]
		err := call()
		if r.where == here {
			if status.Code(err) != codes.PermissionDenied {
				t.Errorf("%s: %v, want a denial", method, err)
			}
			if w.policy.asked[method] != asked+1 {
				t.Errorf("%s: policy was asked %d times", method, w.policy.asked[method]-asked)
			}
			if w.helper.asked() != before {
				t.Errorf("%s: the privileged side was asked before policy", method)
			}
		} else if w.policy.asked[method] != asked {
			t.Errorf("%s: asked here, and the table says elsewhere", method)
		}
	}
	for _, sd := range []struct {
		desc *grpc.ServiceDesc
	}{{&cri.RuntimeService_ServiceDesc}, {&cri.ImageService_ServiceDesc}} {
		for _, m := range sd.desc.Methods {
			check(m.MethodName, func() error {
				_, err := m.Handler(w.Server, t.Context(), func(req any) error {
					for field, id := range map[string]string{"PodSandboxId": pod, "ContainerId": ctr} {
						if f := reflect.ValueOf(req).Elem().FieldByName(field); f.IsValid() && rules[m.MethodName].where == here {
							f.SetString(id)
						}
					}
					return nil
				}, nil)
				return err
			})
		}
		for _, st := range sd.desc.Streams {
			check(st.StreamName, func() error { return st.Handler(w.Server, fakeStream{t.Context()}) })
		}
	}
	for m, r := range rules {
		if !seen[m] {
			t.Errorf("%s: in the table and not in the service", m)
		}
		// Policy has a table of its own, since it believes no asker.
		if class, ok := input.ClassOf(m); !ok || class != r.class {
			t.Errorf("%s: class %v here, %v for policy", m, r.class, class)
		}
	}
	if len(seen) != 43 {
		t.Errorf("%d methods, want 43", len(seen))
	}
}

func TestWithoutPolicy(t *testing.T) {
	w := newWorld(t)
	pod, _ := w.runPod(t, "web")
	w.policy.err = errors.New("down")
	ctx := t.Context()
	if _, err := w.runtime.Version(ctx, &cri.VersionRequest{}); err != nil {
		t.Error("root may read without policy:", err)
	}
	if _, err := w.Version(ctx, &cri.VersionRequest{}); status.Code(err) != codes.Unavailable {
		t.Error("a stranger may not:", err)
	}
	if _, err := w.runtime.UpdateRuntimeConfig(ctx, &cri.UpdateRuntimeConfigRequest{}); status.Code(err) != codes.Unavailable {
		t.Error("admin without policy:", err)
	}
	w.audit.err = errors.New("disk full")
	if _, err := w.runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Error("teardown goes on without policy and audit:", err)
	}
	w.policy.err = nil
	if _, err := w.runtime.UpdateRuntimeConfig(ctx, &cri.UpdateRuntimeConfigRequest{}); status.Code(err) != codes.Unavailable {
		t.Error("admin without audit:", err)
	}
}

func TestErrorText(t *testing.T) {
	w := newWorld(t)
	w.policy.deny = true
	_, err := w.runtime.Status(t.Context(), &cri.StatusRequest{})
	want := "policy denied Status: TEST-1 not today (x). Fix: ask [decision 01J rev 7] (+2 more)"
	if status.Code(err) != codes.PermissionDenied || status.Convert(err).Message() != want {
		t.Errorf("%v, want %s", err, want)
	}
}
