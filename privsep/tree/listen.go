package tree

import (
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// listen makes the listener that f describes. The directory is root's, so
// nobody can put a socket of their own in its place.
func listen(f FD) (fd int, err error) {
	kind := unix.SOCK_STREAM
	if f.Type == "seqpacket" {
		kind = unix.SOCK_SEQPACKET
	}
	var addr unix.Sockaddr = &unix.SockaddrUnix{Name: f.Path}
	family := unix.AF_UNIX
	if f.Type == "tcp" {
		ap, err := netip.ParseAddrPort(f.Path)
		if err != nil {
			return -1, err
		}
		if family = unix.AF_INET6; ap.Addr().Is4() {
			family, addr = unix.AF_INET, &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()}
		} else {
			addr = &unix.SockaddrInet6{Port: int(ap.Port()), Addr: ap.Addr().As16()}
		}
	} else if err := os.Remove(f.Path); err != nil && !os.IsNotExist(err) {
		return -1, err
	}
	if fd, err = unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
		return -1, err
	}
	if f.Type == "tcp" {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	if err == nil {
		err = unix.Bind(fd, addr)
	}
	if err == nil && f.Type != "tcp" {
		// Before listen: until it has its owner and mode nobody can connect.
		if err = os.Chown(f.Path, f.UID, f.GID); err == nil {
			err = os.Chmod(f.Path, os.FileMode(f.Mode))
		}
	}
	if err == nil {
		err = unix.Listen(fd, 128)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("listening at %s: %w", f.Path, err)
	}
	return fd, nil
}
