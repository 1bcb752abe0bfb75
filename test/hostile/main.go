// Command hostile is a compromised front end: with posternd's uid it says to the
// helper what posternd never would, and prints how the helper takes it. It exits
// with 0 when the attack was refused, and with 1 when it worked.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"sort"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/client"
	"github.com/postern-cri/postern/privsep/layout"
	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/seqpacket"
	"github.com/postern-cri/postern/privsep/wire"
	"github.com/postern-cri/postern/profiles/paths"
)

// attacks are refused either by an answer or by the end of the connection.
var attacks = map[string]func(layout.Layout) error{
	"unverified-image": withPod(func(c *client.Client, pod string) error {
		p := container()
		p.Image = "sha256:" + strings.Repeat("ab", 32)
		_, err := c.CtrCreate(ctx(), pod, p, claims("CreateContainer"))
		return err
	}),
	"host-path": withPod(func(c *client.Client, pod string) error {
		p := container()
		p.Mounts = []plan.Mount{{From: plan.Place{Root: plan.RootHostPath, Name: "root", Rel: "etc"}, To: "/host", Propagation: plan.Private}}
		_, err := c.CtrCreate(ctx(), pod, p, claims("CreateContainer"))
		return err
	}),
	"privileged": withPod(func(c *client.Client, pod string) error {
		p := container()
		p.Class, p.Privileged, p.CapsBounding = plan.System, true, 1<<41-1
		_, err := c.CtrCreate(ctx(), pod, p, claims("CreateContainer"))
		return err
	}),
	"climbing-log": withPod(func(c *client.Client, pod string) error {
		p := container()
		p.Log = "../../../etc/cron.d/x"
		_, err := c.CtrCreate(ctx(), pod, p, claims("CreateContainer"))
		return err
	}),
	"foreign-pod": func(l layout.Layout) error {
		c, err := client.Dial(l.HelperSocket())
		if err != nil {
			return err
		}
		_, err = c.CtrCreate(ctx(), strings.Repeat("0", 64), container(), claims("CreateContainer"))
		return err
	},
	// The log directory of another pod, whose uid the end of this one's is.
	"foreign-log": pod(func(p *plan.PodPlan) {
		p.UID, p.Logs = "web_uid-2", plan.Place{Root: plan.RootLog, Name: "pods", Rel: "ns_web_uid-2"}
	}),
	// A cgroup whose name fits into no answer: LIST would fail from then on.
	"endless-cgroup": pod(func(p *plan.PodPlan) {
		p.CgroupParent = plan.Place{Root: plan.RootCgroup, Name: "postern", Rel: strings.Repeat("x/", 1000) + "x"}
	}),
	"crowd":        crowd,
	"early-verb":   raw(false, message(wire.List, &wire.ListRequest{})),
	"unknown-verb": raw(true, message(wire.Verb(4711), &wire.ListRequest{})),
	"odd-verb":     raw(true, message(wire.List+1, &wire.ListRequest{})),
	"truncated":    raw(true, message(wire.CtrStart, &wire.CtrStartRequest{Container: strings.Repeat("0", 64)})[:30]),
	"too-long":     raw(true, append(message(wire.List, &wire.ListRequest{}), bytes.Repeat([]byte{0}, wire.MaxRequest)...)),
	"extra-fd":     raw(true, message(wire.List, &wire.ListRequest{}), 0, 1),
	"unsealed-memfd": func(l layout.Layout) error {
		fd, err := unix.MemfdCreate("x", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
		if err != nil {
			return err
		}
		if _, err := unix.Pwrite(fd, []byte("xxxxxxxx"), 0); err != nil {
			return err
		}
		return raw(true, message(wire.PodCreate, &wire.PodCreateRequest{}), fd)(l)
	},
}

// ctx needs no deadline of its own: the client has one, and this process is
// short.
func ctx() context.Context { return context.Background() }

func claims(method string) plan.Claims {
	return plan.Claims{RequestID: "hostile", Method: method, PodName: "hostile", Namespace: "kube-system", PodUID: "hostile", Container: "c"}
}

func container() plan.Plan {
	return plan.Plan{
		Class: plan.Baseline, Image: "sha256:" + strings.Repeat("cd", 32), Args: []string{"/bin/sh"}, Cwd: "/", PID: plan.NamespaceContainer,
		Seccomp: plan.Profile{Kind: plan.ProfileRuntimeDefault}, AppArmor: plan.Profile{Kind: plan.ProfileRuntimeDefault},
		MaskedPaths: paths.Masked(), ReadOnlyPaths: paths.ReadOnly(),
	}
}

// withPod runs f with a harmless pod, which is allowed.
func withPod(f func(*client.Client, string) error) func(layout.Layout) error {
	return func(l layout.Layout) error {
		c, err := client.Dial(l.HelperSocket())
		if err != nil {
			return err
		}
		pod, err := c.PodCreate(ctx(), plan.PodPlan{
			Class: plan.Baseline, UID: "hostile", Hostname: "hostile", Network: plan.NamespacePod, PID: plan.NamespaceContainer, IPC: plan.NamespacePod,
		}, claims("RunPodSandbox"))
		if err != nil {
			return fmt.Errorf("the harmless pod was refused: %w", err)
		}
		defer c.PodDelete(ctx(), pod.Pod)
		return f(c, pod.Pod)
	}
}

// pod asks for a pod that is harmless but for one change.
func pod(change func(*plan.PodPlan)) func(layout.Layout) error {
	return func(l layout.Layout) error {
		c, err := client.Dial(l.HelperSocket())
		if err != nil {
			return err
		}
		p := plan.PodPlan{Class: plan.Baseline, UID: "hostile", Hostname: "hostile", Network: plan.NamespacePod, PID: plan.NamespaceContainer, IPC: plan.NamespacePod}
		change(&p)
		made, err := c.PodCreate(ctx(), p, claims("RunPodSandbox"))
		if err == nil {
			c.PodDelete(ctx(), made.Pod)
		}
		return err
	}
}

// crowd opens more connections than the helper has places, and keeps them.
func crowd(l layout.Layout) error {
	for range 500 {
		c, err := seqpacket.Dial(l.HelperSocket())
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		if err = c.Send(message(wire.Hello, &wire.HelloRequest{Version: wire.Version})); err == nil {
			_, _, err = c.Recv(make([]byte, wire.MaxAnswer))
		}
		if errors.Is(err, seqpacket.ErrEOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) {
			return errClosed
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func message(v wire.Verb, m wire.Message) []byte {
	b, err := wire.Encode(v, 1, m)
	if err != nil {
		panic(err)
	}
	return b
}

var errClosed = errors.New("the helper closed the connection")

// raw sends bytes as they are, after HELLO or before it.
func raw(greet bool, b []byte, fds ...int) func(layout.Layout) error {
	return func(l layout.Layout) error {
		c, err := seqpacket.Dial(l.HelperSocket())
		if err != nil {
			return err
		}
		defer c.Close()
		buf := make([]byte, wire.MaxAnswer)
		if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return err
		}
		if greet {
			if err := c.Send(message(wire.Hello, &wire.HelloRequest{Version: wire.Version})); err != nil {
				return err
			}
			if _, _, err := c.Recv(buf); err != nil {
				return err
			}
		}
		if err := c.Send(b, fds...); err != nil {
			return err
		}
		_, _, err = c.Recv(buf)
		if errors.Is(err, seqpacket.ErrEOF) || errors.Is(err, unix.ECONNRESET) {
			return errClosed
		}
		return err
	}
}

func main() {
	root := flag.String("root", "", "directory of the installation to attack")
	flag.Usage = func() {
		var names []string
		for n := range attacks {
			names = append(names, n)
		}
		sort.Strings(names)
		fmt.Fprintf(flag.CommandLine.Output(), "usage: hostile --root DIR ATTACK\n\nAttacks: %s\n", strings.Join(names, ", "))
	}
	flag.Parse()
	attack, ok := attacks[flag.Arg(0)]
	if !ok {
		flag.Usage()
		os.Exit(2)
	}
	l := layout.New(*root)
	users, err := layout.ReadUsers(l.UsersFile())
	if err != nil {
		fmt.Fprintln(os.Stderr, "hostile:", err)
		os.Exit(2)
	}
	// From here on exactly the rights of a taken-over posternd.
	for _, err := range []error{syscall.Setgroups(nil), syscall.Setresgid(int(users.Front.GID), int(users.Front.GID), int(users.Front.GID)), syscall.Setresuid(int(users.Front.UID), int(users.Front.UID), int(users.Front.UID))} {
		if err != nil {
			fmt.Fprintln(os.Stderr, "hostile: becoming posternd:", err)
			os.Exit(2)
		}
	}
	err = attack(l)
	var e *client.Error
	switch {
	case err == nil:
		fmt.Println("NOT REFUSED")
		os.Exit(1)
	case errors.Is(err, errClosed), errors.As(err, &e), errors.Is(err, wire.ErrViolation):
		fmt.Println("refused:", err)
	default:
		fmt.Println("no refusal, but:", err)
		os.Exit(1)
	}
}
