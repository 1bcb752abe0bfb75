package ceiling

import "strings"

// capabilities are the names in the order of their bits (linux/capability.h).
var capabilities = strings.Fields(`CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP
LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT
SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE
AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE`)

// capabilityMask is the mask of one name; "ALL" is every one.
func capabilityMask(name string) (uint64, bool) {
	if name == "ALL" {
		return 1<<len(capabilities) - 1, true
	}
	for i, n := range capabilities {
		if n == name {
			return 1 << i, true
		}
	}
	return 0, false
}

// capabilityNames lists the capabilities of a mask.
func capabilityNames(mask uint64) string {
	var out []string
	for i, n := range capabilities {
		if mask&(1<<i) != 0 {
			out = append(out, n)
		}
	}
	return strings.Join(out, ", ")
}
