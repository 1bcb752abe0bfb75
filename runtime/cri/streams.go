package cri

import (
	"context"
	"time"

	"github.com/postern-cri/postern/policy/facts"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/runtime/ipc"
	"github.com/postern-cri/postern/runtime/store"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// mintTimeout covers a streaming server that must be started first.
const mintTimeout = 10 * time.Second

type (
	mintRequest = ipc.MintRequest
	mintAnswer  = ipc.MintAnswer
)

func (s *Server) mint(g *grant) (string, error) {
	id := s.grants.add(g)
	url, err := s.callMint(mintRequest{
		Op: "mint", Grant: id, Kind: g.kind, TTY: g.tty, Stdin: g.stdin, Stdout: g.stdout, Stderr: g.stderr, Ports: g.ports,
	})
	if err != nil {
		s.grants.drop(id)
		return "", status.Errorf(codes.Unavailable, "the streaming server: %v", err)
	}
	return url, nil
}

func (s *Server) callMint(r mintRequest) (string, error) {
	c, err := ipc.Dial(s.stream)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if r.Ports == nil {
		r.Ports = []int32{}
	}
	var a mintAnswer
	if _, err := c.Call(mintTimeout, r, &a, 0); err != nil {
		return "", err
	}
	if !a.OK {
		return "", status.Error(codes.Internal, a.Error)
	}
	return a.URL, nil
}

func checkStreams(tty, stdin, stdout, stderr bool) error {
	if tty && stderr {
		return invalid("tty and stderr cannot both be true: a terminal has one output")
	}
	if !stdin && !stdout && !stderr {
		return invalid("one of stdin, stdout and stderr must be true")
	}
	return nil
}

// Exec returns a URL; the process is started, and decided at the boundary, when
// the client arrives there.
func (s *Server) Exec(ctx context.Context, r *cri.ExecRequest) (*cri.ExecResponse, error) {
	c, err := s.running(r.ContainerId)
	if err != nil {
		return nil, fail("Exec", err)
	}
	if len(r.Cmd) == 0 {
		return nil, invalid("cmd: empty")
	}
	if err := checkStreams(r.Tty, r.Stdin, r.Stdout, r.Stderr); err != nil {
		return nil, err
	}
	url, err := s.mint(&grant{
		kind: "exec", ctx: context.WithoutCancel(ctx), container: c.ID, tty: r.Tty, stdin: r.Stdin, stdout: r.Stdout, stderr: r.Stderr,
		exec: plan.ExecPlan{Args: r.Cmd, TTY: r.Tty, Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr && !r.Tty},
	})
	if err != nil {
		return nil, err
	}
	return &cri.ExecResponse{Url: url}, nil
}

// Attach returns a URL to the streams of a running container. Nothing is started
// for it, so it is decided here.
func (s *Server) Attach(ctx context.Context, r *cri.AttachRequest) (*cri.AttachResponse, error) {
	f := facts.Facts{Exec: &facts.Exec{TTY: r.Tty, Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr}}
	c, err := s.store.Container(r.ContainerId)
	if err == nil {
		f.Container = containerFacts(c)
		if p, err := s.store.Pod(c.Pod); err == nil {
			f.Pod = podFacts(p)
		}
	}
	done, aerr := s.ask(ctx, "Attach", f)
	if aerr != nil {
		return nil, aerr
	}
	url, err := s.attach(ctx, r)
	if err := done(fail("Attach", err)); err != nil {
		return nil, err
	}
	return &cri.AttachResponse{Url: url}, nil
}

func (s *Server) attach(ctx context.Context, r *cri.AttachRequest) (string, error) {
	c, err := s.running(r.ContainerId)
	if err != nil {
		return "", err
	}
	if err := checkStreams(r.Tty, r.Stdin, r.Stdout, r.Stderr); err != nil {
		return "", err
	}
	if r.Tty != c.TTY {
		return "", invalid("tty: the container has %v", c.TTY)
	}
	return s.mint(&grant{
		kind: "attach", ctx: context.WithoutCancel(ctx), container: c.ID, tty: c.TTY, stdin: r.Stdin && c.Stdin, stdout: r.Stdout, stderr: r.Stderr,
	})
}

// PortForward returns a URL; every connection into the pod is decided at the
// boundary, where its socket is made. A pod in the host's network namespace
// needs no such socket, so that one is decided here.
func (s *Server) PortForward(ctx context.Context, r *cri.PortForwardRequest) (*cri.PortForwardResponse, error) {
	p, err := s.store.Pod(r.PodSandboxId)
	if err != nil {
		return nil, fail("PortForward", err)
	}
	if p.State != store.Running {
		return nil, status.Errorf(codes.FailedPrecondition, "pod_sandbox_id: pod %s is not ready: it was stopped; run another", p.ID)
	}
	for _, n := range r.Port {
		if n < 1 || n > 65535 {
			return nil, invalid("port: %d is no port", n)
		}
	}
	done := func(err error) error { return err }
	if p.Network == plan.NamespaceNode {
		done, err = s.askFor(ctx, "PortForward", facts.Facts{Pod: podFacts(p), PortForward: &facts.PortForward{Ports: r.Port}})
		if err != nil {
			return nil, err
		}
	}
	url, err := s.mint(&grant{kind: "portforward", ctx: context.WithoutCancel(ctx), pod: p.ID, ports: r.Port})
	if err := done(err); err != nil {
		return nil, err
	}
	return &cri.PortForwardResponse{Url: url}, nil
}
