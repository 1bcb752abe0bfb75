package confine

import "golang.org/x/sys/unix"

const (
	nativeArch = unix.AUDIT_ARCH_X86_64
	compatArch = unix.AUDIT_ARCH_I386
	x32Bit     = 0x40000000
)

var (
	archBasics = callSet{unix.SYS_ARCH_PRCTL, unix.SYS_EPOLL_WAIT, unix.SYS_POLL, unix.SYS_SELECT, unix.SYS_TIME,
		unix.SYS_DUP2}
	archStat  = callSet{unix.SYS_NEWFSTATAT}
	archFiles = callSet{unix.SYS_OPEN, unix.SYS_STAT, unix.SYS_LSTAT, unix.SYS_ACCESS, unix.SYS_READLINK,
		unix.SYS_UNLINK, unix.SYS_MKDIR, unix.SYS_RMDIR, unix.SYS_RENAME, unix.SYS_RENAMEAT, unix.SYS_CHMOD, unix.SYS_LINK,
		unix.SYS_SYMLINK}
	archKilled      = []uint32{unix.SYS_KEXEC_FILE_LOAD, unix.SYS_IOPL, unix.SYS_IOPERM, unix.SYS_MODIFY_LDT}
	archDeniedToAll = []uint32{unix.SYS_KEXEC_FILE_LOAD, unix.SYS_IOPL, unix.SYS_IOPERM}

	// i386: init_module, finit_module, delete_module, kexec_load, swapon, swapoff,
	// acct, stime, settimeofday, clock_settime, clock_settime64, ioperm, iopl.
	deniedToAllCompat = []uint32{128, 350, 129, 283, 87, 115, 51, 25, 79, 264, 404, 101, 110}
)
