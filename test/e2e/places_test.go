package e2e

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// usual starts a node without --root, on copies of the system's directories that
// go with the mount namespace. What is there already is used: registries.conf, CNI
// configuration, and plugins in two directories.
const usual = `
set -eu
bin=$1 docs=$2
for d in etc opt var/log var/lib; do
  mkdir -p "$t/$d/up" "$t/$d/work"
  mount -t overlay -o "lowerdir=/$d,upperdir=$t/$d/up,workdir=$t/$d/work" overlay "/$d"
done
mkdir -p /etc/postern/trust.d /etc/containers /etc/cni/net.d /opt/cni/bin /var/lib/postern
rm -f /etc/cni/net.d/*
mount -t tmpfs -o mode=755 tmpfs /run; mount -t tmpfs -o mode=755 tmpfs /var/lib/postern
"$bin/test/registry" --addr 127.0.0.1:5000 --dir /run/registry & registry=$!
until [ -s /run/registry/addr ]; do sleep 0.1; done
cp /run/registry/demo.pub /etc/postern/trust.d/; cp "$docs/trust.toml" /etc/postern/
cp "$docs/registries.conf" /etc/containers/; cp "$docs/10-bridge.conflist" /etc/cni/net.d/
cp /usr/lib/cni/bridge /opt/cni/bin/ # one of the plugins here, the others in /usr/lib/cni
"$bin/postern" check
! "$bin/postern" status
"$bin/postern" up > /run/up.out 2>&1 & up=$!
until grep -q ^ready /run/up.out; do sleep 0.1; kill -0 $up || { cat /run/up.out; exit 1; }; done
cat /run/up.out
! "$bin/postern" up
echo 'timeout: 30' > /run/crictl.yaml
cri() { "$bin/tools/crictl" -c /run/crictl.yaml -r unix:///run/postern/postern.sock "$@"; }
cri pull 127.0.0.1:5000/demo/signed:1
pod=$(cri runp "$docs/pod.json"); ctr=$(cri create "$pod" "$docs/ctr.json" "$docs/pod.json"); cri start "$ctr" > /run/started
cri exec "$ctr" ip addr show eth0 | grep 10.223.
"$bin/postern" status; "$bin/postern" audit verify
cri rmp -fa
kill -TERM $up; wait $up
kill $registry
echo all is well
`

// TestUsualPlaces is postern up as the system's own.
func TestUsualPlaces(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: namespaces, cgroups, mounts")
	}
	docs := t.TempDir()
	if out, err := exec.Command("cp", "-r", "../../docs/example/.", docs).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	script := "t=$3; mount -t tmpfs tmpfs \"$t\"\n" + usual
	out, err := exec.Command("unshare", "--mount", "--propagation", "private", "timeout", "300", "bash", "-c", script, "bash", bin, docs, t.TempDir()).CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"ok: profile baseline, configuration /etc/postern/postern.toml", "error: no process of Postern runs there",
		"kubelet   --container-runtime-endpoint=unix:///run/postern/postern.sock", "error: postern is running already on this system: see postern status",
		"Image is up to date", "inet 10.223.", "postern-helper ", "ok: ", "all is well",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("it does not say %q", want)
		}
	}
}
