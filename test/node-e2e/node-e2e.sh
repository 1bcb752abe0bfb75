#!/usr/bin/env bash
# node-e2e.sh [ginkgo flags]  The upstream node e2e suite, its kubelet and API server included, against Postern with --profile
# conformance: what upstream's presubmits take, in test/kubelet/pen.sh. Ends with the counts, and with status 1 if a spec fails or
# skips that expected.txt does not name. Flags go to ginkgo, for example: node-e2e.sh --focus 'Pod Lifecycle'.
# PROCS=n runs n specs at a time; KEEP=1 keeps the directory with the logs.
set -euo pipefail
cd "$(dirname "$0")/../.."; here=$PWD/test/node-e2e bin=${POSTERN_BIN:-$PWD/bin}
if [ "${1:-}" != --inside ]; then
  PEN=$(mktemp -d /tmp/postern-node-e2e.XXXXXX); chmod 711 "$PEN"; export PEN
  test/kubelet/pen.sh "$here/node-e2e.sh" --inside "$@" & pen=$!
  trap 'kill -TERM "$pen"' INT TERM
  status=0; wait "$pen" || status=$?
  while kill -0 "$pen" 2>/dev/null; do wait "$pen" || true; done # a signal ends the first wait early
  [ "$status" = 0 ] || cp "$PEN/suite.log" "${TMPDIR:-/tmp}/postern-node-e2e.log" 2>/dev/null || true
  if [ -n "${KEEP:-}" ]; then echo "kept: $PEN"; else rm -rf --one-file-system "$PEN"; fi
  exit "$status"
fi
shift; t=$PEN crictl=$bin/tools/crictl; source test/node.sh
give_up() { echo "$*" >&2; tail -n 20 "$t"/*.log "$t"/p/log/*.log >&2; exit 1; }
wait_for() { for _ in $(seq 1200); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done; give_up "timed out: $*"; }

mkdir "$t/cwd"; echo 'nameserver 10.99.0.1' > "$t/resolv.conf"
echo '10.99.0.1 penned' | cat /etc/hosts - > "$t/hosts"; mount --bind "$t/hosts" /etc/hosts
if s=$(command -v systemd-run); then mount --bind /dev/null "$s"; fi # the suite would ask systemd, which is not the pen's, for the kubelet
porter=$(cd test/node-e2e/tools && go list -m -f '{{.Dir}}/test/images/agnhost/porter' k8s.io/kubernetes)
"$bin/test/node-e2e" serve --dir "$t/registry" --agnhost "$bin/test/agnhost" --porter "$porter" &
wait_for test -s "$t/registry/addr"
printf '[[registry]]\nprefix = "registry.k8s.io"\nlocation = "%s"\ninsecure = true\n' "$(cat "$t/registry/addr")" > "$t/registries.conf"
node_config "$t" pods0 10.85.0.0/16
sed "s|@DIR@|$t|" "$here/kubelet.yaml" > "$t/kubelet.yaml"
printf 'runtime-endpoint: "unix://%s/p/run/postern.sock"\ntimeout: 60\n' "$t" > "$t/crictl.yaml"
setsid "$bin/postern" up --root "$t/p" --profile conformance --config "$t/postern.toml" > "$t/up.log" 2>&1 & up=$!
wait_for "$crictl" -c "$t/crictl.yaml" version

least=1; [ $# != 0 ] || least=432
ln -s "$bin/tools/e2e_node.test" "$bin/tools/kubelet" "$t/cwd/"; set +e # it looks for the kubelet beside itself, and writes its files there
"$bin/tools/ginkgo" run --no-color --output-interceptor-mode=none --poll-progress-after=0 --timeout 3h --procs "${PROCS:-16}" -v \
  --label-filter 'NodeConformance && !Flaky && !Slow && !Serial' --output-dir "$t" --json-report report.json "$@" "$t/cwd/e2e_node.test" -- \
  --container-runtime-endpoint="unix://$t/p/run/postern.sock" --kubelet-config-file="$t/kubelet.yaml" --system-spec-file="$here/system.yaml" \
  --prepull-images=false --node-name=penned --feature-gates=PodAndContainerStatsFromCRI=true --report-dir="$t/report" > "$t/suite.log" 2>&1
set -e
[ -s "$t/report.json" ] || give_up "the suite has left no report"
status=0; "$bin/test/node-e2e" report "$t/report.json" "$here/expected.txt" "$least" || status=$?
kill "$up" && wait "$up" || give_up "postern up did not end well"
exit "$status"
