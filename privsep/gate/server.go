package gate

import (
	"errors"
	"fmt"
	"log"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/seqpacket"
	"github.com/postern-cri/postern/privsep/wire"
)

// Peer maps a connection's credentials to the role of the peer, or refuses it.
type Peer func(*unix.Ucred) (role string, ok bool)

// ServePolicy answers questions on l until it is closed.
func ServePolicy(l *seqpacket.Listener, peer Peer, decide func(role string, q Question) Decision) error {
	return serve(l, peer, func(role string, h wire.Header, body []byte, fds []int) (func(*wire.Coder), error) {
		var q Question
		c := wire.NewDecoder(body)
		q.header(c)
		if err := c.Finish(); err != nil {
			return nil, err
		}
		if h.Verb != verbDecide || len(fds) > 1 {
			return nil, fmt.Errorf("%w: verb %#x with %d fds", wire.ErrViolation, h.Verb, len(fds))
		}
		if len(fds) == 1 {
			b, err := wire.ReadMemfd(fds[0])
			if err != nil {
				return nil, err
			}
			c := wire.NewDecoder(b)
			codeSections(c, &q.Sections)
			if err := c.Finish(); err != nil {
				return nil, err
			}
		}
		d := decide(role, q)
		d.clip()
		return d.code, nil
	})
}

// ServeAudit commits records that arrive on l until it is closed.
func ServeAudit(l *seqpacket.Listener, peer Peer, write func(role string, stage Stage, payload []byte, async bool) (uint64, error)) error {
	return serve(l, peer, func(role string, h wire.Header, body []byte, fds []int) (func(*wire.Coder), error) {
		var m commit
		c := wire.NewDecoder(body)
		m.code(c)
		if err := c.Finish(); err != nil {
			return nil, err
		}
		if h.Verb != verbCommit || len(fds) > 0 {
			return nil, fmt.Errorf("%w: verb %#x with %d fds", wire.ErrViolation, h.Verb, len(fds))
		}
		seq, err := write(role, m.stage, m.payload, m.async)
		done := committed{ok: err == nil, seq: seq}
		if err != nil {
			// Whatever it says, it must arrive: without an answer the asker would
			// try again.
			done.problem = clip(strings.ReplaceAll(strings.ToValidUTF8(err.Error(), "?"), "\x00", "?"))
		}
		return done.code, nil
	})
}

type handler func(role string, h wire.Header, body []byte, fds []int) (answer func(*wire.Coder), err error)

// maxPeers bounds the connections of one uid other than root: eight uids that ask
// leave fds to the helper, whatever each of them does.
const maxPeers = 100

func serve(l *seqpacket.Listener, peer Peer, handle handler) error {
	a := &admission{peers: map[uint32]int{}}
	for {
		c, err := l.Accept()
		if err != nil {
			if errors.Is(err, os.ErrClosed) {
				return nil
			}
			return err
		}
		go serveConn(c, a, peer, handle)
	}
}

// serveConn answers one peer. A violation ends the connection: nothing more that
// this peer says is believed.
func serveConn(c *seqpacket.Conn, a *admission, peer Peer, handle handler) {
	defer c.Close()
	cred, err := c.Peer()
	if err != nil {
		log.Printf("peer credentials: %v", err)
		return
	}
	role, ok := peer(cred)
	if !ok || !a.enter(cred.Uid) {
		a.complain("refused a connection of uid %d, pid %d", cred.Uid, cred.Pid)
		return
	}
	defer a.leave(cred.Uid)
	buf := make([]byte, 4<<10) // grows to what a record needs: most connections are idle
	for {
		n, fds, err := c.RecvGrow(&buf, maxDatagram)
		if err == nil {
			err = serveOne(c, role, buf[:n], fds, handle)
		}
		if err != nil {
			if !errors.Is(err, seqpacket.ErrEOF) {
				log.Printf("connection of %s (pid %d) ends: %v", role, cred.Pid, err)
			}
			return
		}
	}
}

func serveOne(c *seqpacket.Conn, role string, b []byte, fds []int, handle handler) error {
	defer seqpacket.CloseAll(fds)
	h, body, err := wire.DecodeHeader(b)
	if err != nil {
		return err
	}
	answer, err := handle(role, h, body, fds)
	if err != nil {
		return err
	}
	e := wire.NewEncoder()
	v, version := uint16(h.Verb)+1, wire.Version
	e.U16(&v)
	e.U16(&version)
	e.U64(&h.Sequence)
	answer(e)
	out, err := e.Encoded()
	if err != nil {
		return err
	}
	return c.Send(out)
}
