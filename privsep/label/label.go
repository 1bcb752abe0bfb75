// Package label chooses the SELinux labels of containers: a type of container
// processes and one of container files, with a pair of categories that no other
// live pod has. Categories are what keeps two containers of one type apart.
//
// Where SELinux is there, a label that cannot be had is an error: nothing here
// answers with no label.
package label

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/postern-cri/postern/privsep/plan"
)

// Image is the label of image layers, which all containers share.
const Image = "system_u:object_r:container_ro_file_t:s0"

// Enabled tells whether the kernel labels processes by a policy. It does not
// depend on what is mounted: a kernel whose labels cannot be set is no kernel
// without SELinux.
func Enabled() bool {
	fs, _ := os.ReadFile("/proc/filesystems")
	own, _ := os.ReadFile("/proc/thread-self/attr/current") // "kernel" before a policy is loaded
	return strings.Contains(string(fs), "\tselinuxfs\n") && strings.Count(string(own), ":") > 1
}

// Fresh returns a level with a pair of categories that is none of used, "" where
// none is left.
func Fresh(used map[string]bool) string {
	for range 1 << 16 {
		var b [4]byte
		_, _ = rand.Read(b[:]) // never fails
		x, y := binary.LittleEndian.Uint16(b[:])%1024, binary.LittleEndian.Uint16(b[2:])%1024
		if level := fmt.Sprintf("s0:c%d,c%d", min(x, y), max(x, y)); x != y && !used[Pair(level)] {
			return level
		}
	}
	return ""
}

// Pair is a level as it is compared with others: its categories alone, in order.
// What has more than two, or fewer, is nobody's pair.
func Pair(level string) string {
	_, set, _ := strings.Cut(level[strings.LastIndexByte(level, '-')+1:], ":")
	var x, y uint
	if n, err := fmt.Sscanf(strings.Replace(set, ".", ",", 1), "c%d,c%d", &x, &y); n != 2 || err != nil {
		return ""
	}
	return fmt.Sprint(min(x, y), max(x, y))
}

// Of returns the labels of a container's process and of its files. What the
// container asks for stands before what its pod asks for; level is the pod's own
// and holds where neither names one. A pod without containers asks with none.
func Of(pod, ctr plan.SELinux, level string, privileged bool) (process, file string, err error) {
	first := func(list ...string) string {
		for _, s := range list {
			if s != "" {
				return s
			}
		}
		return ""
	}
	kind, own := "container_t", level
	if privileged { // unconfined, and so not by categories either
		kind, own = "spc_t", "s0"
	}
	process = strings.Join([]string{first(ctr.User, pod.User, "system_u"), first(ctr.Role, pod.Role, "system_r"),
		first(ctr.Type, pod.Type, kind), first(ctr.Level, pod.Level, own)}, ":")
	file = "system_u:object_r:container_file_t:" + first(ctr.Level, pod.Level, level)
	if level == "" {
		return "", "", errors.New("the pod has no categories of its own")
	}
	return process, file, errors.Join(known(process), known(file))
}

// known asks the kernel whether a label is one. What it knows is made of names of
// the policy: it cannot hold a quotation mark or an option of a mount.
func known(label string) error {
	f, err := os.OpenFile("/sys/fs/selinux/context", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("asking for an SELinux label: %w", err)
	}
	defer f.Close()
	if _, err := f.Write([]byte(label)); err != nil {
		return fmt.Errorf("the SELinux policy does not have the label %s: %w", label, err)
	}
	return nil
}
