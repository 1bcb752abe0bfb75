#!/usr/bin/env bash
# critest.sh [critest flags]  The upstream CRI validation suite against Postern with --profile conformance, in a mount and
# a network namespace of its own. Ends with the counts, and with status 1 if a spec fails or skips that expected.txt
# (expected-apparmor.txt, expected-selinux.txt where the kernel has one of them) does not name. Flags go to critest, for example: critest.sh -ginkgo.focus 'OOMKilled', critest.sh -websocket-exec.
# RUNTIME=crun or runc runs the pods under that OCI runtime. "critest.sh --build" only builds what it needs. PARALLEL=n runs n specs at a time; KEEP=1 keeps the directory with the logs.
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ "${1:-}" != --inside ]; then
  test/install.sh critest
  mkdir -p bin/tools bin/test
  for c in crictl:build:sigs.k8s.io/cri-tools/cmd/crictl critest:test:sigs.k8s.io/cri-tools/cmd/critest ginkgo:build:github.com/onsi/ginkgo/v2/ginkgo; do
    IFS=: read -r name how pkg <<<"$c"
    [ -x "bin/tools/$name" ] || { [ "$name" = ginkgo ] && [ "${PARALLEL:-1}" = 1 ]; } && continue
    echo "building $name (pinned in test/tools/go.mod)"
    [ "$how" = test ] && how="test -c"
    (cd test/tools && CGO_ENABLED=0 go $how -o "../../bin/tools/$name" "$pkg")
  done
  CGO_ENABLED=0 go build -tags containers_image_openpgp,grpcnotrace -o bin/test/critest-images ./test/critest
  if [ ! -x bin/test/busybox ]; then # it conflicts with busybox-static, which the other tests need: taken out of its package
    d=$(mktemp -d /tmp/postern-busybox.XXXXXX); chmod 755 "$d"
    (cd "$d" && apt-get download -qq busybox && dpkg -x busybox_*.deb .) && install -m 755 "$d/bin/busybox" bin/test/busybox; rm -rf "$d"
  fi
  [ "${1:-}" != --build ] || exit 0
  exec unshare --mount --net --propagation slave -- "$0" --inside "$@"
fi
shift
expected=expected.txt
[ ! -e /sys/kernel/security/apparmor ] || expected=expected-apparmor.txt
[ ! -e /sys/fs/selinux/enforce ] || expected=expected-selinux.txt
bin=$PWD/bin; here=$PWD/test/critest; source test/node.sh; t=$(mktemp -d /tmp/postern-critest.XXXXXX); chmod 711 "$t"; pids=(); crictl="$bin/tools/crictl"
cleanup() {
  set +e
  "$crictl" -c "$t/crictl.yaml" rmp -fa >/dev/null 2>&1
  for ((i=${#pids[@]}-1; i>=0; i--)); do kill -TERM "${pids[$i]}" 2>/dev/null; wait "${pids[$i]}" 2>/dev/null; done
  [ -n "${KEEP:-}" ] && echo "kept: $t" || rm -rf --one-file-system "$t"
}
trap cleanup EXIT
wait_for() { for _ in $(seq 600); do "$@" >/dev/null 2>&1 && return; sleep 0.05; done; echo "timed out: $*" >&2; tail -n 20 "$t"/*.log "$t"/p/log/*.log >&2; exit 1; }
ip link set lo up
if [ -n "${RUNTIME:-}" ] && [ -e /sys/fs/cgroup/unified ]; then # Debian's crun works with either version of cgroups, not with both
  mkdir "$t/cgroup"; mount --make-rprivate /sys/fs/cgroup; mount --rbind /sys/fs/cgroup "$t/cgroup"; mount --make-rprivate "$t/cgroup"
  mount -t tmpfs tmpfs /sys/fs/cgroup
  for d in "$t"/cgroup/*; do
    n=/sys/fs/cgroup/${d##*/}
    if [ -h "$d" ]; then cp -P "$d" "$n"; elif [ "${d##*/}" != unified ]; then mkdir "$n"; mount --move "$d" "$n"; fi
  done
  mount -o remount,ro /sys/fs/cgroup; umount -l "$t/cgroup"
fi
printf 'runtime-endpoint: "unix://%s/p/run/postern.sock"\ntimeout: 60\n' "$t" > "$t/crictl.yaml"

"$bin/test/critest-images" serve --dir "$t/registry" --busybox "$bin/test/busybox" & pids+=($!)
wait_for test -s "$t/registry/addr"; reg=$(cat "$t/registry/addr")
for r in registry.k8s.io k8s.gcr.io gcr.io; do
  printf '[[registry]]\nprefix = "%s"\nlocation = "%s"\ninsecure = true\n' "$r" "$reg"
done > "$t/registries.conf"
node_config "$t" critest0 10.225.0.0/16
if [ -n "${RUNTIME:-}" ]; then
  { cat profiles/ceiling/conformance.toml; printf '[[handler]]\nname = "%s"\npath = "%s"\nuser_namespaces = true\nrecursive_read_only = true\n' \
    "$RUNTIME" "$(command -v "$RUNTIME")"; } > "$t/ceiling.toml"
  printf '[ceiling]\nfile = "%s"\n' "$t/ceiling.toml" >> "$t/postern.toml"; set -- -runtime-handler "$RUNTIME" "$@"
fi
"$bin/postern" up --root "$t/p" --profile conformance --config "$t/postern.toml" > "$t/up.log" 2>&1 & pids+=($!)
wait_for "$crictl" -c "$t/crictl.yaml" version
"$crictl" -c "$t/crictl.yaml" version

mkdir "$t/tmp" "$t/bin"; export TMPDIR=$t/tmp PATH=$bin/tools:$t/bin:$PATH; chmod 711 "$t/tmp"
printf '#!/bin/sh\nexec "$@"\n' > "$t/bin/sudo"; chmod 755 "$t/bin/sudo" # the AppArmor specs load their profiles by it; this is root already
parallel=(); [ "${PARALLEL:-1}" = 1 ] || parallel=(-parallel "$PARALLEL")
set +e
"$bin/tools/critest" -config "$t/crictl.yaml" -runtime-endpoint "unix://$t/p/run/postern.sock" -image-endpoint "unix://$t/p/run/postern.sock" \
  "${parallel[@]}" -ginkgo.no-color -ginkgo.timeout 60m -ginkgo.json-report "$t/report.json" "$@" > "$t/critest.log" 2>&1
status=$?
set -e
[ -s "$t/report.json" ] || { tail -n 40 "$t/critest.log"; exit 1; }
"$bin/test/critest-images" report "$t/report.json" "$here/$expected" || { [ -n "${KEEP:-}" ] || cp "$t/critest.log" "${TMPDIR%/*/*}/postern-critest.log"; exit 1; }
