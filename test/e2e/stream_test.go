package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// peak is the most memory that a process of the tree has had, in bytes.
func (tr *tree) peak(name string) int64 {
	var most int64
	for _, pid := range tr.processes()[name] {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(b), "VmHWM:")
		var kb int64
		fmt.Sscan(rest, &kb)
		most = max(most, kb<<10)
	}
	return most
}

// TestSlowClients: a command writes a gibibyte, a container a quarter of one, to
// clients that have stopped to read. The command waits, the container does not, and no process
// of ours keeps for them what they do not read.
func TestSlowClients(t *testing.T) {
	const bound = 48 << 20 // of what a process may have grown by
	tr := startTree(t, "baseline", "")
	tr.pull()
	_, ctr := tr.run("slow", "exec sleep 100000")
	p := tr.podConfig("writer")
	pod := tr.runPod(p)
	cfg := tr.ctrConfig("w", "until [ -e /go ]; do sleep 0.1; done; head -c 268435456 /dev/zero; touch /done; exec sleep 100000")
	cfg.LogPath = "" // so many zeros are nothing for a disk
	writer := tr.create(pod, p, cfg)
	tr.start(writer)
	before := map[string]int64{}
	for _, name := range []string{"posternd", "postern-logd", "postern-helper", "postern-init"} {
		before[name] = tr.peak(name)
	}
	_, seen, leave := tr.typist(ctr, `$crictl exec $c head -c 1073741824 /dev/zero | (head -c 1000000 | wc -c; exec sleep 100000)`, false)
	_, attached, leaveToo := tr.typist(writer, `(echo attaching >&2; exec $crictl attach $c) | (head -c 1000 | wc -c; exec sleep 100000)`, false)
	tr.eventually(30*time.Second, "both clients are there", func() error {
		if !strings.Contains(seen(), "1000000") || !strings.Contains(attached(), "attaching") {
			return fmt.Errorf("%q, %q", seen(), attached())
		}
		return nil
	})
	tr.exec(writer, "touch", "/go")
	tr.eventually(2*time.Minute, "the container has written all", func() error {
		if out, code := tr.exec(writer, "ls", "/done"); code != 0 {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	for name, was := range before {
		if grown := tr.peak(name) - was; grown > bound {
			t.Errorf("%s has grown by %d MiB", name, grown>>20)
		}
	}
	if now := tr.peak("postern-streamd"); now == 0 || now > 2*bound {
		t.Errorf("postern-streamd takes %d MiB", now>>20)
	}
	if n := processesOf(ctr); n != 2 {
		t.Errorf("%d processes: the command does not wait for its client", n)
	}
	leave()
	leaveToo()
	tr.eventually(30*time.Second, "the command ends with its client", func() error {
		if n := processesOf(ctr); n != 1 {
			return fmt.Errorf("%d processes", n)
		}
		return nil
	})
}

// TestFailedExecs: execs that come to nothing leave nothing.
func TestFailedExecs(t *testing.T) {
	tr := startTree(t, "baseline", "")
	tr.pull()
	_, ctr := tr.run("failing", "exec sleep 100000")
	fail := func(n int) {
		t.Helper()
		var wg sync.WaitGroup
		slots := make(chan struct{}, max(1, 8/slow))
		for k := range n {
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				c, cancel := context.WithTimeout(t.Context(), limit(2*patience))
				defer cancel()
				var err error
				switch k % 3 {
				case 0: // no such program
					_, err = tr.rt.ExecSync(c, &cri.ExecSyncRequest{ContainerId: ctr, Cmd: []string{"/no/such/program"}, Timeout: 60 * int64(slow)})
				case 1: // no such container
					_, err = tr.rt.ExecSync(c, &cri.ExecSyncRequest{ContainerId: strings.Repeat("0", 64), Cmd: []string{"true"}})
				case 2: // a URL that nobody comes for
					_, err = tr.rt.Exec(c, &cri.ExecRequest{ContainerId: ctr, Cmd: []string{"/no/such/program"}, Stdout: true})
					if err == nil {
						return
					}
					t.Errorf("Exec: %v", err)
				}
				if err == nil {
					t.Errorf("exec %d came to something", k)
				}
			})
		}
		wg.Wait()
	}
	fail(24)
	before := tr.measure()
	fail(240)
	tr.eventually(30*time.Second, "nothing is left of 240 execs", func() error {
		for name, a := range tr.measure() {
			b, ok := before[name]
			if !ok || a.pid != b.pid {
				t.Fatalf("%s was started again", name)
			}
			if a.fds > b.fds+16 || a.threads > b.threads+8 || a.pss > b.pss+b.pss/4+4<<20 {
				return fmt.Errorf("%s: before %v, after %v", name, b, a)
			}
		}
		if n := processesOf(ctr); n != 1 {
			return fmt.Errorf("%d processes in the container", n)
		}
		return nil
	})
}

// TestPortForward to a pod with a network of its own and to one in the host's, by
// both protocols.
func TestPortForward(t *testing.T) {
	tr := startTree(t, "conformance", "")
	tr.pull()
	for name, network := range map[string]cri.NamespaceMode{"own": cri.NamespaceMode_POD, "host": cri.NamespaceMode_NODE} {
		p := tr.podConfig(name)
		p.Linux.SecurityContext.NamespaceOptions.Network = network
		if network == cri.NamespaceMode_NODE {
			p.Hostname = ""
		}
		pod := tr.runPod(p)
		cfg := tr.ctrConfig("c", "mkdir /www; echo this is "+name+" >/www/it; exec httpd -f -p 127.0.0.1:18081 -h /www")
		cfg.Linux.SecurityContext.NamespaceOptions.Network = network
		tr.start(tr.create(pod, p, cfg))
		for _, protocol := range []string{"spdy", "websocket"} {
			out, err := tr.crictl(pod, `$crictl port-forward -r `+protocol+` $c 28081:18081 >/dev/null & p=$!
for i in $(seq 300); do busybox wget -q -O- http://127.0.0.1:28081/it && break; sleep 0.1; done
busybox wget -q -O- http://127.0.0.1:28081/it; kill $p; wait $p || true`, false)
			if err != nil || strings.Count(out, "this is "+name) != 2 {
				t.Errorf("%s by %s: %v: %s", name, protocol, err, out)
			}
		}
	}
}

// TestStreamsEnd: with the container, not before it and not after it.
func TestStreamsEnd(t *testing.T) {
	tr := startTree(t, "baseline", "")
	tr.pull()
	_, ctr := tr.run("ending", "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.1; done")
	type client struct{ name, script string }
	var seen []func() string
	clients := []client{
		{"attach", `$crictl attach $c`}, {"exec", `$crictl exec $c sh -c 'echo line; exec sleep 100000'`},
		{"exec on a terminal", `$crictl exec -it $c sh -c 'echo line; exec sleep 100000'`},
	}
	for k, c := range clients {
		_, s, _ := tr.typist(ctr, c.script+`; echo it has ended`, k == 2)
		seen = append(seen, s)
	}
	for k, c := range clients {
		tr.eventually(30*time.Second, c.name+" shows something", func() error {
			if !strings.Contains(seen[k](), "line") {
				return fmt.Errorf("%q", seen[k]())
			}
			return nil
		})
		if strings.Contains(seen[k](), "it has ended") {
			t.Errorf("%s has ended before the container: %q", c.name, seen[k]())
		}
	}
	if _, err := tr.rt.StopContainer(ctx(t), &cri.StopContainerRequest{ContainerId: ctr}); err != nil {
		t.Fatal(err)
	}
	for k, c := range clients {
		tr.eventually(30*time.Second, c.name+" ends", func() error {
			if !strings.Contains(seen[k](), "it has ended") {
				return fmt.Errorf("%q", seen[k]())
			}
			return nil
		})
	}
}
