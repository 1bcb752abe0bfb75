package stream

import (
	"bufio"
	"errors"
	"net"
	"net/http"
	"slices"

	"golang.org/x/net/websocket"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// serveTunnel serves port-forward by SPDY inside of a WebSocket, which is what
// kubectl speaks. The library knows the SPDY: it is given the messages' content
// in place of a connection.
func (s *Server) serveTunnel(w http.ResponseWriter, r *http.Request, n *session, under net.Conn) {
	websocket.Server{
		Handshake: func(c *websocket.Config, _ *http.Request) error {
			if !slices.Contains(c.Protocol, portforward.WebsocketsSPDYTunnelingPortForwardV1) {
				return errors.New("unknown protocol")
			}
			c.Protocol = []string{portforward.WebsocketsSPDYTunnelingPortForwardV1}
			return nil
		},
		Handler: func(ws *websocket.Conn) {
			ws.PayloadType = websocket.BinaryFrame
			inner := r.Clone(r.Context())
			inner.URL.Path, inner.URL.RawPath = n.path, ""
			inner.Header = http.Header{}
			inner.Header.Set(httpstream.HeaderConnection, httpstream.HeaderUpgrade)
			inner.Header.Set(httpstream.HeaderUpgrade, spdy.HeaderSpdy31)
			inner.Header.Set(httpstream.HeaderProtocolVersion, portforward.PortForwardV1Name)
			s.library.ServeHTTP(&tunnel{Conn: ws, under: under, header: http.Header{}}, inner)
		},
	}.ServeHTTP(w, r)
}

// tunnel is a connection inside of a WebSocket, and the answer to the request
// that opens it: of that nothing is sent, the WebSocket's handshake said it all.
type tunnel struct {
	*websocket.Conn
	under  net.Conn
	header http.Header
	taken  bool
}

// Header implements http.ResponseWriter.
func (t *tunnel) Header() http.Header { return t.header }

// WriteHeader implements http.ResponseWriter.
func (t *tunnel) WriteHeader(int) {}

// Write writes a message, and drops the body of a refusal: the client expects
// SPDY.
func (t *tunnel) Write(b []byte) (int, error) {
	if !t.taken {
		return len(b), nil
	}
	return t.Conn.Write(b)
}

// Hijack implements http.Hijacker.
func (t *tunnel) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	t.taken = true
	return t, bufio.NewReadWriter(bufio.NewReader(t), bufio.NewWriter(t)), nil
}

// LocalAddr is the connection's: a WebSocket's own addresses are URLs of the
// client's choice, or none.
func (t *tunnel) LocalAddr() net.Addr { return t.under.LocalAddr() }

// RemoteAddr is the connection's.
func (t *tunnel) RemoteAddr() net.Addr { return t.under.RemoteAddr() }
