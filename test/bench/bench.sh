#!/usr/bin/env bash
# bench.sh [bench flags]  Ratios against containerd (v2, from the Go proxy), in one run, in namespaces of its own.
# PEER_BIN=directory makes the peer the Postern that was built there: two versions of ours in one run.
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ "${1:-}" != --inside ]; then
  mkdir -p bin/tools bin/test
  for c in containerd:github.com/containerd/containerd/v2/cmd/containerd: containerd-shim-runc-v2:github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2: runc:github.com/opencontainers/runc:seccomp crictl:sigs.k8s.io/cri-tools/cmd/crictl:; do
    IFS=: read -r name pkg tags <<<"$c"
    [ -x "bin/tools/$name" ] && continue
    echo "building the peer: $name (pinned in test/tools/go.mod)"
    (cd test/tools && go build -tags "no_btrfs $tags" -ldflags '-s -w' -o "../../bin/tools/$name" "$pkg")
  done
  CGO_ENABLED=0 go build -tags containers_image_openpgp,grpcnotrace -o bin/test/ ./test/bench ./test/cmd/registry
  exec unshare --mount --net --propagation slave -- "$0" --inside "$@"
fi
shift
bin=$PWD/bin; t=$(mktemp -d /tmp/postern-bench.XXXXXX); chmod 711 "$t"; pids=(); logs=/var/log/pods
cleanup() { set +e; for ((i=${#pids[@]}-1; i>=0; i--)); do kill -TERM "${pids[$i]}" 2>/dev/null; wait "${pids[$i]}" 2>/dev/null; done; umount -l "$t"/ctrd/state/*/*/* 2>/dev/null; [ -n "${KEEP:-}" ] || rm -rf --one-file-system "$t" "$logs"/bench_bench-*; }
trap cleanup EXIT
wait_for() { for _ in $(seq 400); do "$@" >/dev/null 2>&1 && return; sleep 0.05; done; echo "timed out: $*" >&2; tail -n 20 "$t"/*.log "$t"/*/log/*.log >&2; exit 1; }
ip link set lo up
"$bin/test/registry" --addr 127.0.0.1:0 --dir "$t/registry" --large & pids+=($!)
wait_for test -s "$t/registry/addr"; reg=$(cat "$t/registry/addr")
for net in a b; do
  mkdir -p "$t/net-$net"; sub=$([ $net = a ] && echo 10.223 || echo 10.224)
  cat > "$t/net-$net/10-bench.conflist" <<N
{"cniVersion":"1.0.0","name":"bench-$net","plugins":[{"type":"bridge","bridge":"bench-$net","isGateway":true,"ipMasq":true,"ipam":{"type":"host-local","dataDir":"$t/ipam","ranges":[[{"subnet":"$sub.0.0/16"}]],"routes":[{"dst":"0.0.0.0/0"}]}},{"type":"portmap","capabilities":{"portMappings":true}}]}
N
done
printf '[[registry]]\nlocation = "%s"\ninsecure = true\n' "$reg" > "$t/registries.conf"
# postern TREE BINARIES
postern() {
  mkdir -p "$t/$1/etc/trust.d"; cp "$t/registry/demo.pub" "$t/$1/etc/trust.d/"
  printf 'default = "reject"\n[authorities.demo]\nkeys = ["trust.d/demo.pub"]\n[[rules]]\nscope = ["%s/**"]\nthreshold = { of = ["demo"], need = 1 }\n' "$reg" > "$t/$1/etc/trust.toml"
  printf '[image]\nregistries_conf = "%s"\n[network]\nconf_dir = "%s"\nbin_dirs = ["/usr/lib/cni"]\n' "$t/registries.conf" "$t/net-$1" > "$t/$1.toml"
  "$2/postern" up --root "$t/$1" --profile baseline --config "$t/$1.toml" > "$t/$1.log" 2>&1 & pids+=($!)
  wait_for "$bin/tools/crictl" -r "unix://$t/$1/run/postern.sock" version
}
measure() { "$bin/test/bench" --ours "$t/a/run/postern.sock" --ours-exe "$bin/postern" --logs "$logs" --registry "$reg" "$@"; }
postern a "$bin"
if [ -n "${PEER_BIN:-}" ]; then
  peer=$(realpath "$PEER_BIN"); postern b "$peer"
  measure --peer "$t/b/run/postern.sock" --peer-exe "$peer/postern" --peer-name other "$@"
  exit
fi
# the peer
mkdir -p "$t/certs/$reg"; printf 'server = "http://%s"\n[host."http://%s"]\ncapabilities = ["pull", "resolve"]\n' "$reg" "$reg" > "$t/certs/$reg/hosts.toml"
cat > "$t/containerd.toml" <<C
version = 4
root = "$t/ctrd/root"
state = "$t/ctrd/state"
[ttrpc]
  address = "$t/c.ttrpc.sock"
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = "$reg/bench/pause:1"
  [plugins.'io.containerd.cri.v1.images'.registry]
    config_path = "$t/certs"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "$t/net-b"
[plugins.'io.containerd.server.v1.grpc']
  address = "$t/c.sock"
C
PATH=$bin/tools:$PATH "$bin/tools/containerd" --config "$t/containerd.toml" > "$t/containerd.log" 2>&1 & pids+=($!)
wait_for "$bin/tools/crictl" -r "unix://$t/c.sock" version
measure --peer "$t/c.sock" --peer-exe "$bin/tools/" "$@"
