// Package seccomp turns the name of a seccomp profile into its rules: the
// runtime's default one, or a file of the root-owned profile directory.
//
// There is no fallback. A profile that cannot be read, or that would filter
// nothing, is an error, because the container that asked for it must not run
// without it.
package seccomp

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// maxProfile bounds the size of a profile file.
const maxProfile = 1 << 20

// maxName bounds the length of a name.
const maxName = 1024

// Default returns the runtime's default profile for a container with the
// bounding set caps (names with CAP_): calls that only a capability makes
// possible are open where the container has it.
//
// It is Docker's for the native ABI alone. The others are second ways into every
// call, with code of their own in the kernel that hardly an image needs, and
// building their half of the filter costs more than the rest of the container's
// start. With compat, programs of the machine's 32-bit ABI run too.
func Default(caps []string, compat bool) (*specs.LinuxSeccomp, error) {
	p, err := seccomp.GetDefaultProfile(process(caps))
	if err != nil {
		return nil, err
	}
	p.Architectures = slices.DeleteFunc(p.Architectures, func(a specs.Arch) bool {
		switch a {
		case specs.ArchX86, specs.ArchARM:
			return !compat
		case specs.ArchX32:
			return true
		}
		return false
	})
	return finish(p)
}

// Load reads profile name, a path without links, of directory dir. The file must
// be a regular one that belongs to root and that nobody else can write: a profile
// is a promise of the node's administrator.
//
// Expected syscalls: open of the directory, openat2 of the file, fstat, read.
func Load(dir, name string, caps []string) (*specs.LinuxSeccomp, error) {
	if !ValidName(name) {
		return nil, fmt.Errorf("%q is no name of a profile", name)
	}
	body, err := read(dir, name)
	if err != nil {
		return nil, fmt.Errorf("profile %q: %w", name, err)
	}
	p, err := seccomp.LoadProfile(string(body), process(caps))
	if err == nil {
		p, err = finish(p)
	}
	if err != nil {
		return nil, fmt.Errorf("profile %q: %w", name, err)
	}
	return p, nil
}

// ValidName reports whether name can be a profile's: path components of letters,
// digits, dot, underscore and hyphen, each of which starts with a letter or digit.
func ValidName(name string) bool {
	const first = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || len(part) > 128 || !strings.ContainsRune(first, rune(part[0])) || strings.Trim(part, first+"._-") != "" {
			return false
		}
	}
	return len(name) <= maxName
}

func read(dir, name string) ([]byte, error) {
	d, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(d)
	// O_NONBLOCK: a FIFO put there must not hold a container's start.
	fd, err := unix.Openat2(d, name, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Uid != 0 || st.Mode&0o022 != 0 {
		return nil, errors.New("must be a regular file of root's that nobody else can write")
	}
	b, err := io.ReadAll(io.LimitReader(f, maxProfile+1))
	if err == nil && len(b) > maxProfile {
		err = errors.New("is larger than 1 MiB")
	}
	return b, err
}

// finish refuses what is no filter, and what reaches out of the container.
func finish(p *specs.LinuxSeccomp) (*specs.LinuxSeccomp, error) {
	if p == nil || p.DefaultAction == "" {
		return nil, errors.New("has no default action, so it would filter nothing")
	}
	if p.ListenerPath != "" || p.ListenerMetadata != "" || p.DefaultAction == specs.ActNotify {
		return nil, errors.New("asks for a listener, which is not supported")
	}
	for _, s := range p.Syscalls {
		if s.Action == specs.ActNotify {
			return nil, errors.New("asks for a listener, which is not supported")
		}
	}
	if p.Flags == nil {
		// Not nil means "no flags": the libraries would choose SPEC_ALLOW, which
		// switches a speculation mitigation off.
		p.Flags = []specs.LinuxSeccompFlag{}
	}
	return p, nil
}

func process(caps []string) *specs.Spec {
	return &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps}}}
}
