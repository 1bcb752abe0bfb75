// Package paths lists what a container may not see or change of the kernel's
// own file systems. The kubelet sends these lists with every unprivileged
// container; they are here for whoever sends none, and as the floor that a
// strict policy can ask for.
package paths

// Masked are hidden: each leaks from, or reaches into, the host's kernel or
// firmware. The powercap and thermal files are power side channels.
func Masked() []string {
	return []string{
		"/proc/acpi",
		"/proc/asound",
		"/proc/interrupts",
		"/proc/kcore",
		"/proc/keys",
		"/proc/latency_stats",
		"/proc/sched_debug",
		"/proc/scsi",
		"/proc/timer_list",
		"/proc/timer_stats",
		"/sys/devices/virtual/powercap",
		"/sys/firmware",
	}
}

// ReadOnly are visible and cannot be written.
func ReadOnly() []string {
	return []string{
		"/proc/bus",
		"/proc/fs",
		"/proc/irq",
		"/proc/sys",
		"/proc/sysrq-trigger",
	}
}
