package confine

import "golang.org/x/sys/unix"

const (
	nativeArch = unix.AUDIT_ARCH_AARCH64
	compatArch = unix.AUDIT_ARCH_ARM
	x32Bit     = 0
)

var (
	archBasics      = callSet{}
	archStat        = callSet{unix.SYS_FSTATAT}
	archFiles       = callSet{unix.SYS_RENAMEAT}
	archKilled      = []uint32{unix.SYS_KEXEC_FILE_LOAD}
	archDeniedToAll = []uint32{unix.SYS_KEXEC_FILE_LOAD}

	// arm: init_module, finit_module, delete_module, kexec_load, kexec_file_load,
	// swapon, swapoff, acct, settimeofday, clock_settime, clock_settime64.
	deniedToAllCompat = []uint32{128, 379, 129, 347, 401, 87, 115, 51, 79, 262, 404}
)
