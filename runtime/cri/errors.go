package cri

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/postern-cri/postern/privsep/gate"
	"github.com/postern-cri/postern/privsep/wire"
	"github.com/postern-cri/postern/runtime/store"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxErrorText bounds what the kubelet puts into an event.
const maxErrorText = 1000

// deniedByPolicy is the text that a pod's author sees.
func deniedByPolicy(method string, d gate.Decision) error {
	return denied("policy", method, wire.Denial{
		Rule: d.Rule, Message: d.Message, Field: d.Field, Remedy: d.Remedy, DecisionID: d.ID, Revision: d.Revision, More: d.More,
	})
}

func denied(by, method string, d wire.Denial) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s denied %s:", by, method)
	for _, s := range []string{d.Rule, d.Message} {
		if s != "" {
			b.WriteString(" " + s)
		}
	}
	if d.Field != "" {
		fmt.Fprintf(&b, " (%s)", d.Field)
	}
	b.WriteString(".")
	if d.Remedy != "" {
		fmt.Fprintf(&b, " Fix: %s", d.Remedy)
	}
	tail := ""
	if d.DecisionID != "" {
		tail = " [decision " + d.DecisionID
		if d.Revision != "" {
			tail += " rev " + d.Revision
		}
		tail += "]"
	}
	if d.More > 0 {
		tail += fmt.Sprintf(" (+%d more)", d.More)
	}
	return status.Error(codes.PermissionDenied, strings.ToValidUTF8(clip(b.String(), maxErrorText-len(tail)), "")+tail)
}

// deniedByImage is a verification failure: the kubelet looks for this prefix,
// and for a code that it does not take for its own mistake.
func deniedByImage(d wire.Denial) error {
	m := d.Message
	if !strings.HasPrefix(m, "SignatureValidationFailed: ") && !strings.HasPrefix(m, "RegistryUnavailable: ") {
		m = "SignatureValidationFailed: " + m
	}
	if d.Remedy != "" {
		m += ". Fix: " + d.Remedy
	}
	return status.Error(codes.Unknown, clip(m, maxErrorText))
}

// fail turns an error of another process or of the store into a gRPC status.
func fail(method string, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	switch {
	case errors.Is(err, store.ErrNotFound):
		return status.Error(codes.NotFound, err.Error())
	case errors.Is(err, store.ErrAmbiguous):
		return status.Error(codes.InvalidArgument, err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return status.Errorf(codes.DeadlineExceeded, "%s: %v", method, err)
	case errors.Is(err, context.Canceled):
		return status.Errorf(codes.Canceled, "%s: %v", method, err)
	}
	code, message, denial, ok := helperError(err)
	if !ok {
		return status.Errorf(codes.Unavailable, "%s: %v", method, err)
	}
	switch code {
	case wire.Denied:
		if denial.By == "image" {
			return deniedByImage(denial)
		}
		by := "policy"
		if denial.By == "ceiling" {
			by = "ceiling"
		}
		return denied(by, method, denial)
	case wire.Invalid:
		return status.Errorf(codes.InvalidArgument, "%s: %s", method, message)
	case wire.NotFound:
		return status.Errorf(codes.NotFound, "%s: %s", method, message)
	case wire.Exists:
		return status.Errorf(codes.FailedPrecondition, "%s: %s", method, message)
	case wire.Exhausted:
		return status.Errorf(codes.ResourceExhausted, "%s: %s", method, message)
	case wire.Unavailable:
		return status.Errorf(codes.Unavailable, "%s: %s", method, message)
	}
	return status.Errorf(codes.Internal, "%s: %s", method, message)
}

// isHelper reports whether err is the helper's answer with this code.
func isHelper(err error, want wire.Code) bool {
	code, _, _, ok := helperError(err)
	return ok && code == want
}

func invalid(format string, a ...any) error {
	return status.Errorf(codes.InvalidArgument, format, a...)
}
