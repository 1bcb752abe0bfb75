package tree

import (
	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/keeper/message"
)

// set is what is kept under one key; a dropped fd is -1.
type set struct {
	Meta []byte
	FDs  []int
}

func (s *slot) has(channel string) bool {
	for _, f := range s.FDs {
		if f.Type == channel {
			return true
		}
	}
	return false
}

// greet sends a process that just started what was retained for it.
func (t *Tree) greet(s *slot, channel string) {
	switch channel {
	case "exits":
		for _, e := range t.exits {
			t.send(s, packet{b: e.Encode()})
		}
		t.send(s, packet{b: message.Exit{}.Encode()})
	case "restore":
		for key := range t.kept {
			t.send(s, packet{set: key})
		}
		end, _ := message.Request{Op: message.End}.Encode()
		t.send(s, packet{b: end})
	}
}

// events is what to wait for on s's channel. While something waits to be read by
// its other end no request is: one that asks and never reads must not fill us.
func (s *slot) events() int16 {
	if len(s.outbox) > 0 {
		return unix.POLLOUT
	}
	return unix.POLLIN
}

// maxOutbox is more than all that is retained.
const maxOutbox = 2 * (maxExits + maxKept)

// send queues p and sends what there is room for. A process that does not read is
// killed in the end: the next one is sent what is retained.
func (t *Tree) send(s *slot, p packet) {
	if len(s.outbox) >= maxOutbox {
		for pid := range s.PIDs {
			unix.Kill(pid, unix.SIGKILL)
		}
		s.outbox = nil
	}
	s.outbox = append(s.outbox, p)
	t.flush(s)
}

func (t *Tree) flush(s *slot) {
	for ; len(s.outbox) > 0; s.outbox = s.outbox[1:] {
		b, oob := s.outbox[0].b, []byte(nil)
		if key := s.outbox[0].set; key != "" {
			k := t.kept[key]
			if k == nil {
				continue
			}
			var fds []int
			var index []byte
			for i, fd := range k.FDs {
				if fd >= 0 {
					fds, index = append(fds, fd), append(index, byte(i))
				}
			}
			b, _ = message.EncodeSet(key, k.Meta, index)
			if len(fds) > 0 {
				oob = unix.UnixRights(fds...)
			}
		}
		if err := unix.Sendmsg(s.Chan, b, oob, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT); err == unix.EAGAIN || err == unix.EINTR || err == unix.ETOOMANYREFS {
			return
		}
	}
}

// serve answers one request on the channel of s.
func (t *Tree) serve(s *slot) {
	t.flush(s)
	buf, oob := make([]byte, message.MaxRequest+1), make([]byte, unix.CmsgSpace(4*message.MaxFDs))
	n, oobn, flags, _, err := unix.Recvmsg(s.Chan, buf, oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if err != nil || n == 0 {
		if err != unix.EAGAIN && err != unix.EINTR {
			unix.Close(s.Chan) // it ended, or it will see that we hung up
			s.Chan = -1
		}
		return
	}
	var fds []int
	if msgs, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil {
		for i := range msgs {
			got, _ := unix.ParseUnixRights(&msgs[i])
			fds = append(fds, got...)
		}
	}
	status := message.Invalid
	r, err := message.Decode(buf[:n])
	if err == nil && flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) == 0 {
		status = message.Forbidden
		if s.has("keeper") || s.has("restore") && r.Op == message.Drop {
			status, fds = t.do(r, fds)
		}
	}
	closeAll(fds)
	t.send(s, packet{b: []byte{byte(status)}})
}

// do does what r asks and returns the fds that it did not keep.
func (t *Tree) do(r message.Request, fds []int) (message.Status, []int) {
	k := t.kept[r.Key]
	there := k != nil && int(r.Index) < len(k.FDs)
	switch r.Op {
	case message.Watch:
		t.watch(r.Key, int(r.PID), r.Since)
	case message.Forget:
		delete(t.exits, r.Key)
		if k != nil {
			closeAll(k.FDs)
			delete(t.kept, r.Key)
		}
	case message.Store:
		if k == nil && len(t.kept) >= maxKept {
			return message.Full, fds
		}
		if k != nil {
			closeAll(k.FDs)
		}
		t.kept[r.Key] = &set{r.Meta, fds}
		return message.OK, nil
	case message.Replace, message.Drop:
		if (r.Op == message.Replace) != (len(fds) == 1) {
			return message.Invalid, fds
		}
		if !there {
			return message.NotFound, fds
		}
		closeAll(k.FDs[r.Index : r.Index+1])
		k.FDs[r.Index] = append(fds, -1)[0]
		return message.OK, nil
	default:
		return message.Invalid, fds
	}
	return message.OK, fds
}

func closeAll(fds []int) {
	for _, fd := range fds {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}
