package confine

import (
	"slices"

	"golang.org/x/sys/unix"
)

// Offsets into struct seccomp_data.
const (
	offNr   = 0
	offArch = 4
	offArgs = 16
)

const (
	retAllow = unix.SECCOMP_RET_ALLOW
	retKill  = unix.SECCOMP_RET_KILL_PROCESS
	retEPERM = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	// retENOSYS is for calls newer than this code: a library that probes for them
	// then falls back, where EPERM would be taken for an answer.
	retENOSYS = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)

	// newestCall is the last number when this was written; the same on every
	// architecture since 424.
	newestCall = 470
)

// newNamespaces is every CLONE_NEW* that clone takes.
const newNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS |
	unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET

// Filter returns the seccomp program of a role. Read it top down:
// foreign architectures, unknown numbers, calls that only an attacker makes,
// calls that depend on their arguments, calls that are allowed, EPERM.
func Filter(r Role) []unix.SockFilter {
	p := profiles[r]
	if p.root {
		return inheritedFilter()
	}
	var f program
	f.load(offArch)
	f.unless(nativeArch, retKill)
	f.load(offNr)
	if x32Bit != 0 {
		f.add(unix.BPF_JMP|unix.BPF_JSET|unix.BPF_K, x32Bit, 0, 1)
		f.ret(retKill)
	}
	f.add(unix.BPF_JMP|unix.BPF_JGT|unix.BPF_K, newestCall, 0, 1)
	f.ret(retENOSYS)
	f.when(unix.SYS_CLONE3, retENOSYS) // its flags are behind a pointer: clone's are not
	for _, nr := range killed {
		if p.execIsEPERM && (nr == unix.SYS_EXECVE || nr == unix.SYS_EXECVEAT) {
			continue
		}
		f.when(nr, retKill)
	}
	f.argument(unix.SYS_CLONE, 0, func(f *program) {
		f.bits(newNamespaces, retEPERM)
		f.bits(unix.CLONE_THREAD, retAllow) // threads only: nothing here forks
		f.ret(retEPERM)
	})
	for _, nr := range []uint32{unix.SYS_MMAP, unix.SYS_MPROTECT} {
		// Go needs no new executable memory once it runs.
		f.argument(nr, 2, func(f *program) {
			f.bits(unix.PROT_EXEC, retEPERM)
			f.ret(retAllow)
		})
	}
	f.argument(unix.SYS_IOCTL, 1, func(f *program) {
		f.when(unix.TIOCSTI, retKill) // types into another's terminal
		f.when(unix.TIOCLINUX, retKill)
		f.ret(retAllow)
	})
	for _, nr := range []uint32{unix.SYS_SOCKET, unix.SYS_SOCKETPAIR} {
		f.argument(nr, 0, func(f *program) {
			for _, family := range p.families {
				f.when(uint32(family), retAllow)
			}
			f.ret(retEPERM)
		})
	}
	f.argument(unix.SYS_PRCTL, 0, func(f *program) {
		for _, option := range []uint32{unix.PR_GET_NO_NEW_PRIVS, unix.PR_GET_SECCOMP,
			unix.PR_GET_DUMPABLE, unix.PR_CAPBSET_READ, unix.PR_SET_VMA, unix.PR_SET_NAME} {
			f.when(option, retAllow)
		}
		f.ret(retEPERM)
	})
	var allowed []uint32
	for _, set := range append([]callSet{basics}, p.calls...) {
		allowed = append(allowed, set...)
	}
	slices.Sort(allowed)
	for _, nr := range slices.Compact(allowed) {
		f.when(nr, retAllow)
	}
	f.ret(retEPERM)
	return f.code
}

// inheritedFilter is what the helper and all its descendants live under, each
// container included. It can only name what no container may do in any profile;
// i386 and arm programs run in containers, so their numbers are here too.
func inheritedFilter() []unix.SockFilter {
	var f program
	deny := func(numbers []uint32) *program {
		var d program
		d.load(offNr)
		for _, nr := range numbers {
			d.when(nr, retEPERM)
		}
		d.ret(retAllow)
		return &d
	}
	native := deny(deniedToAll)
	if x32Bit != 0 {
		var x program
		x.load(offNr)
		x.add(unix.BPF_JMP|unix.BPF_JSET|unix.BPF_K, x32Bit, 0, 1)
		x.ret(retENOSYS)
		native.code = append(x.code, native.code...)
	}
	compat := deny(deniedToAllCompat)
	f.load(offArch)
	f.add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, nativeArch, 0, uint8(len(native.code)))
	f.code = append(f.code, native.code...)
	f.add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, compatArch, 0, uint8(len(compat.code)))
	f.code = append(f.code, compat.code...)
	f.ret(retENOSYS)
	return f.code
}

// program is a BPF program in the making.
type program struct{ code []unix.SockFilter }

func (f *program) add(code uint16, k uint32, jt, jf uint8) {
	f.code = append(f.code, unix.SockFilter{Code: code, Jt: jt, Jf: jf, K: k})
}

func (f *program) load(offset uint32) { f.add(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, offset, 0, 0) }

func (f *program) ret(action uint32) { f.add(unix.BPF_RET|unix.BPF_K, action, 0, 0) }

// when returns action where the loaded word is k.
func (f *program) when(k, action uint32) {
	f.add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, k, 0, 1)
	f.ret(action)
}

// unless returns action where the loaded word is not k.
func (f *program) unless(k, action uint32) {
	f.add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, k, 1, 0)
	f.ret(action)
}

// bits returns action where the loaded word has any bit of mask.
func (f *program) bits(mask, action uint32) {
	f.add(unix.BPF_JMP|unix.BPF_JSET|unix.BPF_K, mask, 0, 1)
	f.ret(action)
}

// argument runs body with the low word of argument n loaded, for call nr; body
// must return on every path. The high word does not matter for the arguments
// looked at here: the kernel takes each of them as an int or masks it.
func (f *program) argument(nr uint32, n uint32, body func(*program)) {
	var b program
	b.load(offArgs + 8*n)
	body(&b)
	f.add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, nr, 0, uint8(len(b.code)))
	f.code = append(f.code, b.code...)
}
