#!/usr/bin/env bash
# demo.sh  The main job, end to end, as a transcript: every line that starts with "ok" was checked, and the first thing
# that is not as promised ends the demo with status 1. Runs in a mount and a network namespace of its own, so that the
# bridge, the addresses and the firewall rules of the pods never touch the host's. Needs root; make demo prepares it.
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ "${1:-}" != --inside ]; then exec unshare --mount --net --propagation slave -- "$0" --inside; fi
bin=$PWD/bin; crictl=$bin/tools/crictl; t=$(mktemp -d /tmp/postern-demo.XXXXXX); chmod 711 "$t"; pids=(); started=$SECONDS; logs=/var/log/pods
bold() { printf '\n\033[1m%s\033[0m\n' "$*"; }
ok() { printf 'ok   %s\n' "$*"; }
die() { printf 'FAIL %s\n' "$*" >&2; for f in "$t"/*/log/*.log; do [ -s "$f" ] && { echo "--- $f"; tail -n 15 "$f"; }; done >&2; exit 1; }
show() { local w="$*"; w=${w/#c /crictl }; w=${w/#cri b /crictl }; w=${w/#cri c /crictl }; printf '     $ %s\n' "${w//$bin/bin}"; }
# expect PATTERN COMMAND...: the command's output must match; expect_no wants it to fail as well.
expect() { local want=$1 out; shift; show "$@" ; out=$("$@" 2>&1) || die "exit $? of: $* : $out"; grep -qE -- "$want" <<<"$out" || die "wanted /$want/, got: $out"; sed 's/^/       /' <<<"$out" | tail -n "${LINES_SHOWN:-6}"; }
refused() { local want=$1 out; shift; show "$@"; if out=$("$@" 2>&1); then die "was not refused: $*: $out"; fi; grep -qE -- "$want" <<<"$out" || die "refused, but wanted /$want/, got: $out"; sed 's/^/       /' <<<"$out" | tail -n 3 | cut -c -900; }
wait_for() { for _ in $(seq 200); do "$@" >/dev/null 2>&1 && return; sleep 0.05; done; die "timed out: $*"; }
cleanup() { set +e; rm -rf "$logs"/demo_*_demo-*-uid; for r in a b c; do [ -S "$t/$r/run/postern.sock" ] && "$crictl" -c "$t/crictl.yaml" -r "unix://$t/$r/run/postern.sock" rmp -fa >/dev/null 2>&1; done; for p in "${pids[@]}"; do kill -TERM "$p" 2>/dev/null; done; for p in "${pids[@]}"; do wait "$p" 2>/dev/null; done; [ -n "${KEEP:-}" ] || rm -rf --one-file-system "$t"; }
trap cleanup EXIT
ip link set lo up; echo 'timeout: 30' > "$t/crictl.yaml"; cri() { "$crictl" -c "$t/crictl.yaml" -r "unix://$t/$1/run/postern.sock" "${@:2}"; }

bold "A registry on loopback: one image signed with the demo key, one unsigned, one signed with another key"
"$bin/test/registry" --addr 127.0.0.1:0 --dir "$t/registry" & pids+=($!)
wait_for test -s "$t/registry/addr"; reg=$(cat "$t/registry/addr"); log=$t/registry/access.log
printf '[[registry]]\nlocation = "%s"\ninsecure = true\n' "$reg" > "$t/registries.conf"
mkdir "$t/net.d"; cat > "$t/net.d/10-demo.conflist" <<N
{"cniVersion":"1.0.0","name":"demo","plugins":[{"type":"bridge","bridge":"demo0","isGateway":true,"ipMasq":true,
"ipam":{"type":"host-local","dataDir":"$t/ipam","ranges":[[{"subnet":"10.222.0.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}},{"type":"portmap","capabilities":{"portMappings":true}}]}
N
config() { cat <<C
[image]
registries_conf = "$t/registries.conf"
[network]
conf_dir = "$t/net.d"
bin_dirs = ["/opt/cni/bin", "/usr/lib/cni"]
$1
C
}
config "" > "$t/postern.toml"
mkdir -p "$t/a/etc/trust.d"; cp "$t/registry/demo.pub" "$t/a/etc/trust.d/demo.pub"
cat > "$t/a/etc/trust.toml" <<T
default = "reject"
[authorities.demo]
keys = ["trust.d/demo.pub"]
[[rules]]
scope = ["$reg/**"]
threshold = { of = ["demo"], need = 1 }
T
sed 's/^/       /' "$t/a/etc/trust.toml"
up() { "$bin/postern" up --root "$1" --profile baseline --config "$2" > "$1.out" 2>&1 & pids+=($!); uppid=$!; wait_for cri "$(basename "$1")" version; }
c() { cri a "$@"; }; cc() { expect "$1" c "${@:2}"; }; ccno() { refused "$1" c "${@:2}"; } # shown as "c", which is crictl on the first tree

bold "postern up --profile baseline"
show "bin/postern up --root $t/a --profile baseline --config $t/postern.toml"
cp "$t/postern.toml" "$t/a.toml"; up "$t/a" "$t/a.toml"; first=$uppid
sed 's/^/       /' "$t/a.out"; cc 'RuntimeName: *postern' version

bold "Pull the signed image"
cc "Image is up to date|sha256" pull "$reg/demo/signed:1"
grep -q 'GET /v2/demo/signed/blobs/' "$log" || die "the access log shows no layer of the signed image"
ok "the layers were fetched after the signature was verified"

bold "Unsigned and wrongly signed images are refused before any layer is requested"
ccno 'SignatureValidationFailed: .*UNSIGNED' pull "$reg/demo/unsigned:1"
ccno 'SignatureValidationFailed: ' pull "$reg/demo/wrong:1"
ccno 'code = Unknown desc = SignatureValidationFailed: ' pull "$reg/demo/unsigned:1"
for i in unsigned wrong; do
  for d in $(cat "$t/registry/$i.layers"); do ! grep -q "$d" "$log" || die "a layer of $i was requested"; done
done
ok "the registry's access log has no layer of either"

bold "Run a pod from it"
pod() { cat <<P
{"metadata":{"name":"$1","namespace":"demo","uid":"demo-$1-uid","attempt":0},"hostname":"$1","log_directory":"$logs/demo_$1_demo-$1-uid","linux":{"cgroup_parent":"/postern","security_context":{"namespace_options":{"network":0,"pid":1,"ipc":0}${2:-}}}}
P
}
ctr() { cat <<P
{"metadata":{"name":"web"},"image":{"image":"$reg/demo/signed:1"},"command":["/bin/sh","-c"],"args":["echo hello from the pod; echo to stderr >&2; mkdir -p /tmp/www; echo it works > /tmp/www/index.html; exec httpd -f -p 8080 -h /tmp/www"],"log_path":"web.log","linux":{"resources":{"memory_limit_in_bytes":67108864},"security_context":{"namespace_options":{"network":0,"pid":1,"ipc":0}${1:-}}}${2:-}}
P
}
pod web > "$t/pod.json"; ctr > "$t/ctr.json"
show "crictl runp pod.json; crictl create; crictl start"
p=$(c runp "$t/pod.json" 2>/dev/null) || die runp; k=$(c create "$p" "$t/ctr.json" "$t/pod.json" 2>/dev/null) || die create; c start "$k" >/dev/null || die start
cc 'web' ps; cc '"ip": "10.222' inspectp "$p" >/dev/null; said() { c logs "$k" 2>/dev/null | grep -q hello; }; wait_for said
cc 'hello from the pod' logs "$k"

bold "exec: not root's capabilities, a seccomp filter, no inheritable capability"
cc 'Seccomp:.*2' exec -s "$k" grep -E 'CapEff|CapInh|NoNewPrivs|Seccomp:' /proc/self/status
cc 'interactive' exec "$k" echo "interactive, through postern-streamd"

bold "port-forward"
show "crictl port-forward POD 18080:8080 & curl http://127.0.0.1:18080/"
c port-forward "$p" 18080:8080 >/dev/null 2>&1 & pf=$!; pids+=($pf); wait_for curl -fsS http://127.0.0.1:18080/
expect 'it works' curl -fsS http://127.0.0.1:18080/; kill $pf; wait $pf 2>/dev/null || true

bold "A privileged pod is refused: rule, field and remedy"
pod evil ',"privileged":true' > "$t/evil.json"
ccno 'ceiling denied RunPodSandbox: CEIL-PRIV .*privileged.* Fix: ' runp "$t/evil.json"
ctr ',"privileged":true' > "$t/evilctr.json"; sed -i 's/"name":"web"/"name":"evil"/' "$t/evilctr.json"
ccno 'privileged: the pod was not created as privileged' create "$p" "$t/evilctr.json" "$t/pod.json"

bold "The same under the widest ceiling: there the policy refuses it"
config "[ceiling]
file = \"$PWD/profiles/ceiling/conformance.toml\"" > "$t/c.toml"; mkdir -p "$t/c/etc"; cp -r "$t/a/etc/trust.toml" "$t/a/etc/trust.d" "$t/c/etc/"
up "$t/c" "$t/c.toml"; refused 'policy denied RunPodSandbox: PSS-B-PRIV.* Fix: .*decision' cri c runp "$t/evil.json"
kill -TERM "$uppid"; wait "$uppid" || die "postern up exited with $?"

bold "A host path outside the ceiling is refused by the helper even under an allow-all policy"
config $'[policy]\npack = "allow-all"' > "$t/b.toml"; mkdir -p "$t/b/etc"; cp -r "$t/a/etc/trust.toml" "$t/a/etc/trust.d" "$t/b/etc/"
up "$t/b" "$t/b.toml"; cri b pull "$reg/demo/signed:1" >/dev/null; pb=$(cri b runp "$t/pod.json" 2>/dev/null) || die "runp under allow-all"
ctr | sed 's|"log_path"|"mounts":[{"host_path":"/etc","container_path":"/host"}],"log_path"|' > "$t/mount.json"
refused '/etc' cri b create "$pb" "$t/mount.json" "$t/pod.json"
expect 'CEIL-MOUNT' "$bin/test/hostile" --root "$t/b" host-path
cri b rmp -fa >/dev/null 2>&1; kill -TERM "$uppid"; wait "$uppid" || die "postern up exited with $?"

bold "A raw client that speaks to the helper's socket as posternd would"
expect 'IMG-NORECORD' "$bin/test/hostile" --root "$t/a" unverified-image

bold "The audit trail of all this"
show "bin/postern audit tail --root $t/a -n 200 --denied"; LINES_SHOWN=12 expect 'CEIL-PRIV' "$bin/postern" audit tail --root "$t/a" -n 400 --denied
expect 'records' "$bin/postern" audit verify --root "$t/a"
cp -r "$t/a/lib/audit" "$t/tampered"; seg=$(ls "$t/tampered"/*.wal | head -n 1)
at=$(($(stat -c %s "$seg") / 2)); old=$(dd if="$seg" bs=1 skip=$at count=1 status=none | od -An -tu1); printf "\\$(printf %o $((old ^ 1)))" | dd of="$seg" bs=1 seek=$at conv=notrunc status=none
refused 'seq|record' "$bin/postern" audit verify --dir "$t/tampered"; ok "one flipped byte: the verification names the record"

bold "Who runs with what"
LINES_SHOWN=40 expect 'postern-helper' "$bin/postern" status --root "$t/a"

bold "Clean stop: nothing is left behind"
# Every pod and container is in the trail; others on this machine are not ours.
cgroups() { find /sys/fs/cgroup -type d 2>/dev/null | grep -E '[0-9a-f]{64}$' | grep -Ff <(cat "$t"/*/lib/audit/*.wal | grep -aoE '[0-9a-f]{64}' | sort -u) || true; }
nets=$(for g in $(cgroups); do for p in $(cat "$g/cgroup.procs"); do readlink "/proc/$p/ns/net"; done; done | sort -u); [ -n "$nets" ] || die "no pod is there to be stopped"
c rmp -fa >/dev/null || die "rmp"; kill -TERM $first; wait $first || die "postern up exited with $?"
! grep -q "$t" /proc/self/mountinfo || die "mounts left: $(grep "$t" /proc/self/mountinfo)"; ok "no mount"
left=$(cgroups); [ -z "$left" ] || die "cgroups left: $left"; ok "no cgroup"
left=$(pgrep -af "^$bin/postern" | grep -F "$t" || true); [ -z "$left" ] || die "processes left: $left"; ok "no process"
left=$(for n in /proc/[0-9]*/ns/net; do readlink "$n" 2>/dev/null || true; done | grep -xFf <(echo "$nets") || true); [ -z "$left" ] || die "network namespaces left: $left"; left=$(ip -o link | grep -c veth || true); [ "$left" = 0 ] || die "veth left"; ok "no network namespace, no veth"
bold "Done in $((SECONDS - started)) seconds"
