//go:build linux && cgo && seccomp

package launch

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// terminal is a socket in the container's private directory, at which an OCI
// runtime delivers the master of a terminal.
type terminal struct {
	name string
	fd   int
}

// listenTerminal makes the socket name in the working directory.
//
// Expected syscalls: socket, bind, listen.
func listenTerminal(name string) (*terminal, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	t := &terminal{name, fd}
	if err = unix.Bind(fd, &unix.SockaddrUnix{Name: name}); err == nil {
		err = unix.Listen(fd, 1)
	}
	if err != nil {
		t.close()
		return nil, fmt.Errorf("terminal: %w", err)
	}
	return t, nil
}

func (t *terminal) close() {
	unix.Close(t.fd)
	os.Remove(t.name)
}

// forward hands the one descriptor that was delivered on. The runtime has ended:
// what it sent is there, and nobody is waited for.
//
// Expected syscalls: accept4, recvmsg, sendmsg.
func (t *terminal) forward(to int) error {
	conn, _, err := unix.Accept4(t.fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
	if err != nil {
		return fmt.Errorf("terminal: the runtime sent none: %w", err)
	}
	defer unix.Close(conn)
	name, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	_, n, flags, _, err := unix.Recvmsg(conn, name, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	var fds []int
	for _, m := range messages {
		got, err := unix.ParseUnixRights(&m)
		if err != nil {
			return fmt.Errorf("terminal: %w", err)
		}
		fds = append(fds, got...)
	}
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	if len(fds) != 1 || flags&unix.MSG_CTRUNC != 0 {
		return errors.New("terminal: want one descriptor of the runtime")
	}
	// One byte: to say nothing would be the end of the socket's file.
	return unix.Sendmsg(to, []byte{0}, unix.UnixRights(fds[0]), nil, 0)
}
