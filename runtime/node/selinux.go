package node

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/label"
	"github.com/postern-cri/postern/profiles/selinux"
)

const labelAttr = "security.selinux"

// labelTree gives everything at and beneath path, which is root's, its type.
func labelTree(path, kind string) error {
	return filepath.WalkDir(path, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return labelFile(p, kind)
	})
}

// labelFile gives a file or directory its type, where the machine has SELinux
// with our policy.
func labelFile(path, kind string) error {
	if kind == "" || !label.Enabled() || !known("system_u:system_r:"+selinux.Helper+":s0") {
		return nil
	}
	if typeOf(path) == kind {
		return nil
	}
	if err := unix.Lsetxattr(path, labelAttr, []byte("system_u:object_r:"+kind+":s0"), 0); err != nil {
		return fmt.Errorf("labelling %s %s: %w", path, kind, err)
	}
	return nil
}

// typeOf reads the type of a file's label, "" for none.
func typeOf(path string) string {
	b := make([]byte, 256)
	n, err := unix.Lgetxattr(path, labelAttr, b)
	if err != nil {
		return ""
	}
	if part := strings.Split(strings.TrimRight(string(b[:n]), "\x00"), ":"); len(part) > 2 {
		return part[2]
	}
	return ""
}

// known asks the kernel whether its policy has a label.
func known(context string) bool {
	f, err := os.OpenFile("/sys/fs/selinux/context", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	_, err = f.Write([]byte(context))
	return err == nil
}

// checkSELinux says what would keep containers and our own processes from their
// labels.
func (n *Node) checkSELinux() (out []Finding) {
	if !label.Enabled() {
		return nil
	}
	const load = "semodule -i container.cil postern.cil (profiles/selinux; container.cil only where container-selinux is not there)"
	if _, err := os.Stat("/sys/fs/selinux/context"); err != nil {
		return []Finding{{Error: true, What: "SELinux", Text: "the kernel has it, but selinuxfs is not mounted: no container can be created",
			Remedy: "mount -t selinuxfs selinuxfs /sys/fs/selinux"}}
	}
	if !known("system_u:system_r:" + selinux.Container + ":s0") {
		return []Finding{{Error: true, What: "SELinux", Text: "the policy does not know " + selinux.Container + ": no container can be created", Remedy: load}}
	}
	if !known("system_u:system_r:" + selinux.Helper + ":s0") {
		return []Finding{{What: "SELinux", Text: "the policy does not know " + selinux.Helper + ": Postern's own processes are not confined by it", Remedy: load}}
	}
	var wrong []string
	for _, p := range append([]string{"postern-init", "postern-launch", "postern-cni"}, n.programs()...) {
		path := filepath.Join(n.Bin, p)
		if _, err := os.Stat(path); err == nil && typeOf(path) != selinux.Program(p) {
			wrong = append(wrong, p)
		}
	}
	if len(wrong) > 0 {
		out = append(out, Finding{Error: true, What: "SELinux", Text: "not labelled, and so not confined when executed: " + strings.Join(wrong, ", ") + " in " + n.Bin,
			Remedy: "restorecon -F " + n.Bin + "/* in a directory that the policy names, or chcon -t " + selinux.Program(wrong[0]) + " " + filepath.Join(n.Bin, wrong[0]) + " and so on"})
	}
	return out
}

// processLabel reads the label of a process by whichever module gives it one:
// an SELinux context or an AppArmor profile.
func processLabel(proc string) string {
	b, err := os.ReadFile(filepath.Join(proc, "attr/current"))
	if err != nil {
		return ""
	}
	return strings.TrimRight(string(b), "\x00\n")
}
