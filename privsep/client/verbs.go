package client

import (
	"context"
	"errors"
	"os"

	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/seqpacket"
	"github.com/postern-cri/postern/privsep/wire"
)

// PodCreate makes a pod's namespaces, files, cgroup and network.
func (c *Client) PodCreate(ctx context.Context, p plan.PodPlan, claims plan.Claims) (*wire.PodCreateAnswer, error) {
	b, err := plan.EncodePod(p)
	if err != nil {
		return nil, err
	}
	ans := &wire.PodCreateAnswer{}
	_, err = c.callPlan(ctx, wire.PodCreate, &wire.PodCreateRequest{}, ans, 0, b, claims)
	return ans, err
}

// PodDelete tears a pod down; deferred says that its network follows later.
func (c *Client) PodDelete(ctx context.Context, pod string) (deferred bool, err error) {
	ans := &wire.PodDeleteAnswer{}
	_, err = c.call(ctx, wire.PodDelete, &wire.PodDeleteRequest{Pod: pod}, ans, 0)
	return ans.Deferred, err
}

// PodSocket returns an fd made in the pod's network namespace.
func (c *Client) PodSocket(ctx context.Context, pod string, kind wire.SocketKind) (*os.File, error) {
	fds, err := c.call(ctx, wire.PodSocket, &wire.PodSocketRequest{Pod: pod, Kind: kind}, &wire.PodSocketAnswer{}, 1)
	if err != nil {
		return nil, err
	}
	if len(fds) != 1 {
		return nil, errors.New("the helper sent no socket")
	}
	return os.NewFile(uintptr(fds[0]), "pod socket"), nil
}

// CtrCreate creates a container in pod.
func (c *Client) CtrCreate(ctx context.Context, pod string, p plan.Plan, claims plan.Claims) (*wire.CtrCreateAnswer, error) {
	b, err := plan.EncodeContainer(p)
	if err != nil {
		return nil, err
	}
	ans := &wire.CtrCreateAnswer{}
	_, err = c.callPlan(ctx, wire.CtrCreate, &wire.CtrCreateRequest{Pod: pod}, ans, 0, b, claims)
	return ans, err
}

// CtrStart lets a created container run.
func (c *Client) CtrStart(ctx context.Context, id string) error {
	_, err := c.call(ctx, wire.CtrStart, &wire.CtrStartRequest{Container: id}, &wire.CtrStartAnswer{}, 0)
	return err
}

// CtrSignal signals a container's init or an exec's process; with all, SIGKILL
// goes to every process of the container.
func (c *Client) CtrSignal(ctx context.Context, target string, signal uint8, all bool) error {
	_, err := c.call(ctx, wire.CtrSignal, &wire.CtrSignalRequest{Target: target, Signal: signal, All: all}, &wire.CtrSignalAnswer{}, 0)
	return err
}

// CtrExec starts a process in a running container and returns the caller's ends
// of its stdio, in the order stdin, stdout, stderr, or one pty master.
func (c *Client) CtrExec(ctx context.Context, id string, p plan.ExecPlan, claims plan.Claims) (*wire.CtrExecAnswer, []*os.File, error) {
	b, err := plan.EncodeExec(p)
	if err != nil {
		return nil, nil, err
	}
	want := 1
	if !p.TTY {
		want = 0
		for _, v := range []bool{p.Stdin, p.Stdout, p.Stderr} {
			if v {
				want++
			}
		}
	}
	ans := &wire.CtrExecAnswer{}
	fds, err := c.callPlan(ctx, wire.CtrExec, &wire.CtrExecRequest{Container: id}, ans, want, b, claims)
	if err != nil {
		return nil, nil, err
	}
	if len(fds) != want {
		seqpacket.CloseAll(fds)
		return nil, nil, errors.New("the helper sent the wrong number of stdio fds")
	}
	return ans, files(fds, "exec stdio"), nil
}

// CtrUpdate changes a container's limits.
func (c *Client) CtrUpdate(ctx context.Context, id string, r plan.Resources) error {
	b, err := plan.EncodeResources(r)
	if err != nil {
		return err
	}
	_, err = c.call(ctx, wire.CtrUpdate, &wire.CtrUpdateRequest{Container: id, Resources: b}, &wire.CtrUpdateAnswer{}, 0)
	return err
}

// CtrDelete removes a container that does not run.
func (c *Client) CtrDelete(ctx context.Context, id string) error {
	_, err := c.call(ctx, wire.CtrDelete, &wire.CtrDeleteRequest{Container: id}, &wire.CtrDeleteAnswer{}, 0)
	return err
}

// CtrUsage returns the size of the container's writable layer.
func (c *Client) CtrUsage(ctx context.Context, id string) (*wire.CtrUsageAnswer, error) {
	ans := &wire.CtrUsageAnswer{}
	_, err := c.call(ctx, wire.CtrUsage, &wire.CtrUsageRequest{Container: id}, ans, 0)
	return ans, err
}

// LogReopen makes logd write to a new file of the container's log name.
func (c *Client) LogReopen(ctx context.Context, id string) error {
	_, err := c.call(ctx, wire.LogReopen, &wire.LogReopenRequest{Container: id}, &wire.LogReopenAnswer{}, 0)
	return err
}

// List returns every handle that exists.
func (c *Client) List(ctx context.Context) ([]wire.Entry, error) {
	var out []wire.Entry
	after := ""
	for {
		ans := &wire.ListAnswer{}
		if _, err := c.call(ctx, wire.List, &wire.ListRequest{After: after}, ans, 0); err != nil {
			return nil, err
		}
		out = append(out, ans.Entries...)
		if !ans.More || len(ans.Entries) == 0 {
			return out, nil
		}
		after = ans.Entries[len(ans.Entries)-1].Handle
	}
}
