#!/usr/bin/env bash
# test.sh [PACKAGE...]  The tests that touch the kernel, and the demo, in the emulated machine: cgroup v2 alone, AppArmor on.
#   POSTERN_VERBOSE=1 says each test   POSTERN_RUN=REGEXP chooses tests   LSM=selinux, selinux-permissive or none boots without AppArmor
set -euo pipefail
cd "$(dirname "$0")/../.."
pkgs=("$@"); [ $# -gt 0 ] || pkgs=(test/undo privsep/confine privsep/mount privsep/netns privsep/machine privsep/tree runtime/launch runtime/stats runtime/node test/e2e demo)
out=bin/test/vm; rm -rf "$out"; mkdir -p "$out"
for p in "${pkgs[@]}"; do
  case $p in
    demo) ;;
    test/undo) CGO_ENABLED=0 go test -c -trimpath -tags containers_image_openpgp,grpcnotrace -o "$out/${p//\//-}" "./$p" ;; # one file, which a profile can name
    *) go test -c -tags containers_image_openpgp,seccomp -o "$out/${p//\//-}" "./$p" ;;
  esac
done
export POSTERN_SLOW="${POSTERN_SLOW:-15}"; export VM_LIMIT="${VM_LIMIT:-3600}"
exec test/vm/vm.sh -l "${LSM:-apparmor}" bash -c '
  [ ! -e /sys/kernel/security/apparmor ] || apparmor_parser -Krq profiles/apparmor/postern-default
  bad=0; out=$PWD/'"$out"'
  for p in "$@"; do
    start=$SECONDS; echo "== $p"
    if [ "$p" = demo ]; then test/demo/demo.sh; else (cd "$p" && "$out/${p//\//-}" -test.timeout 1h ${POSTERN_RUN:+-test.run "$POSTERN_RUN"} ${POSTERN_VERBOSE:+-test.v}); fi
    s=$?; [ $s = 0 ] && [ -z "${POSTERN_VERBOSE:-}" ] || test/vm/denials.sh; [ $s = 0 ] || bad=1; echo "== $p: exit $s after $((SECONDS - start)) s"
  done; exit $bad' test "${pkgs[@]}"
