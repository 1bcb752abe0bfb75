package machine

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// TestExecutedByNumber: whatever numbers the fds of a started program have, the
// fd that it is executed by stays what it is.
func TestExecutedByNumber(t *testing.T) {
	f, err := os.Open("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	if f, err = high(f); err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := range 200 {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 30+i)
		if err != nil {
			t.Fatal(err)
		}
		given := os.NewFile(uintptr(fd), "given")
		cmd := exec.Cmd{Path: fmt.Sprintf("/proc/self/fd/%d", f.Fd()), ExtraFiles: []*os.File{given, given}}
		if err := cmd.Run(); err != nil {
			t.Fatalf("with fd %d: %v", given.Fd(), err)
		}
		given.Close()
	}
}
