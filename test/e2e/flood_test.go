package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestFillsDisk: a writable layer has no limit, and its size is reported, in bytes
// and inodes, so that the kubelet can evict.
func TestFillsDisk(t *testing.T) {
	tr := startTree(t, "baseline", "")
	tr.pull()
	const size, files = 24 << 20, 300
	pod, ctr := tr.run("fills", fmt.Sprintf("head -c %d /dev/zero > /big; mkdir /many; for i in $(seq %d); do : > /many/$i; done; exec sleep 1000", size, files))
	tr.eventually(patience, "the usage is reported", func() error {
		s, err := tr.rt.ContainerStats(ctx(t), &cri.ContainerStatsRequest{ContainerId: ctr})
		if err != nil {
			return err
		}
		l := s.Stats.GetWritableLayer()
		if l.GetUsedBytes().GetValue() < size || l.GetInodesUsed().GetValue() < files || l.GetFsId().GetMountpoint() == "" {
			return fmt.Errorf("%v", l)
		}
		return nil
	})
	p, err := tr.rt.PodSandboxStats(ctx(t), &cri.PodSandboxStatsRequest{PodSandboxId: pod})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range p.Stats.GetLinux().GetContainers() {
		if c.GetWritableLayer().GetUsedBytes().GetValue() < size {
			t.Errorf("the pod's statistics: %v", c.GetWritableLayer())
		}
	}
	if _, err := tr.rt.StopContainer(ctx(t), &cri.StopContainerRequest{ContainerId: ctr}); err != nil {
		t.Fatal(err)
	}
	if _, err := tr.rt.RemoveContainer(ctx(t), &cri.RemoveContainerRequest{ContainerId: ctr}); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(filepath.Join(tr.root, "lib/box/ctr")); err != nil || len(left) != 0 {
		t.Errorf("its bytes are left: %v, %v", left, err)
	}
}

// TestFloodsLog: a container that writes without end is rotated under, costs the log
// process no memory, and keeps others' lines from nobody.
func TestFloodsLog(t *testing.T) {
	tr := startTree(t, "baseline", "")
	tr.pull()
	memory := func() int64 {
		for name, u := range tr.measure() {
			if name == "postern-logd/0" {
				return u.pss
			}
		}
		t.Fatal("no postern-logd")
		return 0
	}
	before := memory()
	_, flood := tr.run("flood", "exec yes this line is written without end")
	log := filepath.Join(tr.logDir("flood"), "c.log")
	for range 3 {
		tr.eventually(patience, "the log grows", func() error {
			if st, err := os.Stat(log); err != nil || st.Size() < 4<<20 {
				return fmt.Errorf("%v, %v", st, err)
			}
			return nil
		})
		if err := os.Rename(log, log+".old"); err != nil { // as the kubelet does, which then drops it
			t.Fatal(err)
		}
		if _, err := tr.rt.ReopenContainerLog(ctx(t), &cri.ReopenContainerLogRequest{ContainerId: flood}); err != nil {
			t.Fatal(err)
		}
	}
	tr.run("quiet", "echo heard; exec sleep 1000")
	tr.eventually(patience, "another's line", func() error {
		if l := tr.logLines("quiet", "c"); len(l) != 1 || l[0] != "stdout F heard" {
			return fmt.Errorf("%q", l)
		}
		return nil
	})
	if now := memory(); now > before+8<<20 {
		t.Errorf("postern-logd has %d KiB, and had %d", now>>10, before>>10)
	}
	if _, err := tr.rt.StopContainer(ctx(t), &cri.StopContainerRequest{ContainerId: flood}); err != nil {
		t.Fatal(err)
	}
	tr.exited(flood, 137)
	size := func() int64 {
		st, err := os.Stat(log)
		if err != nil {
			t.Fatal(err)
		}
		return st.Size()
	}
	for last := int64(-1); last != size(); time.Sleep(200 * time.Millisecond) {
		last = size()
	}
}
