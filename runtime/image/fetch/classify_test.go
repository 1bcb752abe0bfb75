package fetch

import (
	"context"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/runtime/image"
)

// TestClassify: what is the node's own fault is not said to be the registry's.
func TestClassify(t *testing.T) {
	full := fmt.Errorf("copying: %w", &fs.PathError{Op: "write", Path: "/var/lib/postern/fetch/spool/x", Err: unix.ENOSPC})
	for _, tt := range []struct {
		err  error
		code image.Code
		want string
	}{
		{full, image.Internal, "spool/x: no space left"},
		{&stallError{time.Minute}, image.Unavailable, "did not answer for 1m0s"},
		{image.Errorf(image.Policy, "no"), image.Policy, "no"},
		{errTooMuch, image.Unavailable, "too large"},
	} {
		e := image.AsError(classify("r.test/a", tt.err))
		if e.Code != tt.code || !strings.Contains(e.Message, tt.want) {
			t.Errorf("%v: %s %s", tt.err, e.Code, e.Message)
		}
	}
	if err := classify("r.test/a", context.Canceled); err != context.Canceled {
		t.Errorf("%v", err)
	}
}

// TestServerAddress: for whom credentials are.
func TestServerAddress(t *testing.T) {
	for _, server := range []string{"", "r.test", "https://r.test", "http://R.test/v2/", "r.test:443", "r.test/team"} {
		if !meantFor(server, "r.test") {
			t.Errorf("%q is not for r.test", server)
		}
	}
	for _, server := range []string{"r.test.evil", "evil/r.test", "https://r.test@evil", "https://r.test:8443", "evil", "https:///r.test", "r.test#x", "notr.test"} {
		if meantFor(server, "r.test") {
			t.Errorf("%q is for r.test", server)
		}
	}
	if !meantFor("https://index.docker.io/v1/", "docker.io") {
		t.Error("Docker Hub by its old name")
	}
}
