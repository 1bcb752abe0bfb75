// Package network attaches a pod to its network and takes it off, with the CNI
// plugins that the node's administrator installed. It is what postern-cni runs:
// one request, some lines of answer, and done.
//
// Rules of this package:
//   - configuration and plugins belong to root and can be written by nobody else,
//     all the way up to their directory: what they say runs with privilege;
//   - a plugin is a name in a known directory, never a path (CVE-2021-20206);
//   - a plugin gets an environment of its own, 60 seconds, and 64 KiB to answer;
//   - the pod's names are claims: they reach plugins as arguments that cannot be
//     read as more than one.
package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/spec"
)

// The descriptors that the process is started with.
const (
	requestFD = 3
	answerFD  = 4

	maxRequest = 1 << 20
	maxAnswer  = 64 << 10
	maxError   = 1 << 10
)

// Deadlines of the operations; a DEL that follows a failed ADD has its own. The
// helper gives both together 70 seconds, so that an error can name the plugin.
const (
	addTimeout  = 50 * time.Second
	undoTimeout = 15 * time.Second
)

// Operations.
const (
	Add    = "add"
	Del    = "del"
	Status = "status"
)

// Request is one operation.
type Request spec.Network

// Port is one host port of the pod.
type Port = spec.NetworkPort

// Main reads the request, does it and writes the answer: lines "ip <literal>",
// then "ok" or "error <text>". It returns the exit status, 0 whenever an answer
// was delivered.
func Main() int {
	in, out := os.NewFile(requestFD, "request"), os.NewFile(answerFD, "answer")
	if in == nil || out == nil {
		return 2
	}
	// A plugin must not be able to answer in our place.
	syscall.CloseOnExec(requestFD)
	syscall.CloseOnExec(answerFD)
	var lines []string
	b, err := io.ReadAll(io.LimitReader(in, maxRequest+1))
	in.Close()
	if err == nil && len(b) > maxRequest {
		err = errors.New("request is larger than 1 MiB")
	}
	if err == nil {
		var r Request
		if err = json.Unmarshal(b, &r); err == nil && r.Op == Del {
			err = outlive()
		}
		if err == nil {
			lines, err = Do(context.Background(), &r)
		}
	}
	if _, err := io.WriteString(out, Answer(lines, err)); err != nil {
		return 2
	}
	return 0
}

// outlive lets this process, and so its plugin, come to an end though the helper
// dies. A plugin that is killed in the midst of a DEL leaves what it has not come
// to: the bridge plugin knows which addresses to take from the packet filter from
// the pod's interface, which it deletes first. An ADD dies with the helper: the
// DEL that follows finds the whole of it. Only the main thread has the signal,
// which is why main is tied to it; the deadlines hold without it.
//
// Expected: prctl(PR_SET_PDEATHSIG).
func outlive() error {
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("outliving the helper: %w", err)
	}
	return nil
}

// Answer writes the lines of an answer: addresses, then how it went. No error
// text can make a line of its own.
func Answer(addresses []string, err error) string {
	var b strings.Builder
	for _, ip := range addresses {
		if b.Len() > maxAnswer-2*maxError {
			break
		}
		b.WriteString("ip " + ip + "\n")
	}
	if err == nil {
		return b.String() + "ok\n"
	}
	text := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0x85 || r == 0x2028 || r == 0x2029 {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(err.Error(), "?"))
	if len(text) > maxError-8 {
		text = strings.ToValidUTF8(text[:maxError-8], "")
	}
	return "error " + text + "\n"
}

// Do does one operation and returns the pod's addresses.
func Do(ctx context.Context, r *Request) ([]string, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	switch r.Op {
	case Add:
		return r.add(ctx)
	case Del:
		return nil, r.del(ctx)
	case Status:
		return nil, r.status(ctx)
	}
	return nil, fmt.Errorf("unknown operation %q", r.Op)
}
