package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"time"

	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
)

// stream is exec and attach: the kubelet proxies both to the URL that the
// runtime gives it.
func (k *kubelet) stream(verb string, args []string) error {
	f := flag.NewFlagSet(verb, flag.ContinueOnError)
	useSPDY := f.Bool("spdy", false, "SPDY, not WebSocket")
	stdin := f.Bool("i", false, "send stdin")
	tty := f.Bool("t", false, "a terminal")
	limit := f.Duration("for", time.Minute, "end after this time")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() < 2 {
		return errUsage
	}
	u, err := url.Parse(k.config.Host + "/" + verb + "/" + f.Arg(0) + "/" + f.Arg(1))
	if err != nil {
		return err
	}
	q := url.Values{"output": {"1"}}
	for _, a := range f.Args()[2:] {
		q.Add("command", a)
	}
	o := remotecommand.StreamOptions{Stdout: os.Stdout, Tty: *tty}
	if *tty {
		q.Set("tty", "1")
	} else {
		q.Set("error", "1")
		o.Stderr = os.Stderr
	}
	if *stdin {
		q.Set("input", "1")
		o.Stdin = os.Stdin
	}
	u.RawQuery = q.Encode()
	var e remotecommand.Executor
	if *useSPDY {
		e, err = remotecommand.NewSPDYExecutor(k.config, http.MethodPost, u)
	} else {
		e, err = remotecommand.NewWebSocketExecutor(k.config, http.MethodGet, u.String())
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), *limit)
	defer cancel()
	return e.StreamWithContext(ctx, o)
}

// fetch forwards a port of the pod, asks for one page through it and stops.
func (k *kubelet) fetch(pod, port, path string) error {
	transport, upgrader, err := spdy.RoundTripperFor(k.config)
	if err != nil {
		return err
	}
	u, err := url.Parse(k.config.Host + "/portForward/" + pod)
	if err != nil {
		return err
	}
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, u)
	stop, ready, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	defer close(stop)
	pf, err := portforward.New(dialer, []string{"0:" + port}, stop, ready, io.Discard, os.Stderr)
	if err != nil {
		return err
	}
	go func() { ended <- pf.ForwardPorts() }()
	select {
	case err := <-ended:
		return fmt.Errorf("port-forward ended: %w", err)
	case <-ready:
	}
	ports, err := pf.GetPorts()
	if err != nil {
		return err
	}
	r, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d%s", ports[0].Local, path))
	if err != nil {
		return err
	}
	defer r.Body.Close()
	_, err = io.Copy(os.Stdout, r.Body)
	return err
}
