package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// commands returns the indented lines of a section of a document.
func commands(t *testing.T, file, section string) (lines []string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(b), "\n## "+section+"\n")
	if !ok {
		t.Fatalf("%s has no section %q", file, section)
	}
	rest, _, _ = strings.Cut(rest, "\n## ")
	for _, l := range strings.Split(rest, "\n") {
		if l, ok := strings.CutPrefix(l, "    "); ok {
			lines = append(lines, l)
		}
	}
	return lines
}

// TestReadme types what README.md says, with another directory for /tmp/p, and
// then signs an image as docs/VERIFY.md says.
func TestReadme(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: namespaces, cgroups, mounts")
	}
	dir, err := os.MkdirTemp("/tmp", "postern-e2e.")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	p := filepath.Join(dir, "p")
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := exec.Command("cp", "-r", "../../docs", "../../bin", dir).Run(); err != nil { // postern.toml names /tmp/p
		t.Fatal(err)
	}
	defer os.RemoveAll("/var/log/pods/default_web_web-1")
	bash := func(script string) *exec.Cmd {
		c := exec.Command("bash", "-ec", strings.NewReplacer("/tmp/p", p, "sleep 2", "until [ -s "+p+"/registry/addr ]; do sleep 0.1; done").Replace(script))
		c.Dir = dir
		c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		return c
	}
	// As if somebody sat before it.
	typed := `script -qec "crictl exec -it $ctr sh -c 'tty; echo typed'" /dev/null`
	for _, name := range []string{"postern.toml", "crictl.yaml", "10-bridge.conflist"} {
		example := filepath.Join(dir, "docs/example", name)
		b, err := os.ReadFile(example)
		if err != nil {
			t.Fatal(err)
		}
		b = bytes.ReplaceAll(b, []byte("/tmp/p/"), []byte(p+"/"))
		b = bytes.ReplaceAll(b, []byte(`"host-local",`), []byte(`"host-local", "dataDir": "`+dir+`/ipam",`)) // not the machine's own
		if err := os.WriteFile(example, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}

	var first, second []string
	shell := &first
	for _, l := range commands(t, "../../README.md", "By hand") {
		switch {
		case strings.HasPrefix(l, "make "):
			continue // this is the build that is tested
		case strings.HasPrefix(l, "export ") && shell == &first:
			shell = &second
		}
		*shell = append(*shell, strings.Replace(l, "crictl exec -it $ctr sh", typed, 1))
	}
	if len(first) < 3 || !strings.HasPrefix(first[len(first)-1], "bin/postern up ") || len(second) < 5 {
		t.Fatalf("README.md, By hand: want lines that end in postern up, then lines for another shell: %q, %q", first, second)
	}
	var said bytes.Buffer
	up := bash(strings.Join(first, "\n"))
	up.Stdout, up.Stderr = &said, &said
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { up.Wait(); close(ended) }()
	defer func() {
		if out, err := bash(second[0] + "\ncrictl rmp -fa").CombinedOutput(); err != nil {
			t.Errorf("removing what is left: %v: %s", err, out)
		}
		syscall.Kill(-up.Process.Pid, syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(limit(patience)):
			t.Errorf("the first shell does not end:\n%s", said.String())
			syscall.Kill(-up.Process.Pid, syscall.SIGKILL)
		}
	}()
	for start := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		if _, err := os.Stat(p + "/run/postern.sock"); err == nil {
			break
		}
		if time.Since(start) > limit(patience) {
			t.Fatalf("postern up is not ready: %s", said.String())
		}
	}
	out, err := bash(strings.Join(second, "\n")).CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatalf("the second shell: %v", err)
	}
	for _, want := range []string{"SignatureValidationFailed: 127.0.0.1:5000/demo/unsigned:1@", "Image is up to date", "\nhello\n", "/dev/pts/0", "typed", "postern-helper", "RunPodSandbox", "ok: "} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the second shell does not say %q", want)
		}
	}
	if strings.Contains(string(out), "level=warning") {
		t.Error("the examples make crictl warn")
	}

	// A key of one's own, without cosign.
	out, err = bash(second[0] + `
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out mine.key
openssl pkey -in mine.key -pubout -out /tmp/p/etc/trust.d/mine.pub
HTTP=1 docs/example/sign.sh mine.key 127.0.0.1:5000/demo/unsigned:1
! crictl pull 127.0.0.1:5000/demo/unsigned:1
sed -i 's#"trust.d/demo.pub"#"trust.d/demo.pub", "trust.d/mine.pub"#' /tmp/p/etc/trust.toml
crictl pull 127.0.0.1:5000/demo/unsigned:1`).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "KEY_MISMATCH") {
		t.Errorf("signing without cosign: %v: %s", err, out)
	}
}
