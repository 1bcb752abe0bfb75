// Package stream is the streaming server: what kubectl exec, attach and
// port-forward talk to, through the kubelet.
//
// It holds no right but the fds that it is handed, one session at a time. The
// front end decides and mints a grant; this process turns it into a URL with an
// unguessable token (see table), and when a client comes with it, redeems the
// grant for the fds of exactly that command, container or port. A client that
// breaks it open gets the streams of clients that are connected now, nothing else.
//
// The protocols are the library's (SPDY, and WebSocket to version 4), and
// WebSocket version 5 and SPDY inside of a WebSocket here (see serveV5 and
// serveTunnel).
package stream
