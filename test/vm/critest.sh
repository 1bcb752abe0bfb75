#!/usr/bin/env bash
# critest.sh [LSM...]  critest in the emulated machine, with AppArmor and with SELinux enforcing: the specs that such a kernel
# enables, and a few of each kind besides.
#   FOCUS=REGEXP chooses others: FOCUS=. is the whole suite: about 25 minutes with each
set -euo pipefail
cd "$(dirname "$0")/../.."
test/critest/critest.sh --build
lsms=("$@"); [ $# -gt 0 ] || lsms=(apparmor selinux)
focus=${FOCUS:-'AppArmor|SELinux|runtime should support (starting container|execSync|removing running PodSandbox)|should support seccomp localhost|setting host name|mount propagation should be private'}
bad=0
for lsm in "${lsms[@]}"; do
  echo "== critest with $lsm: $focus"
  VM_LIMIT="${VM_LIMIT:-14400}" test/vm/vm.sh -l "$lsm" bash -c '
    unshare --mount --net --propagation slave -- test/critest/critest.sh --inside -ginkgo.timeout 4h -ginkgo.focus "$1"; s=$?
    [ $s = 0 ] || cat /tmp/postern-critest.log; test/vm/denials.sh; exit $s' critest "$focus" || bad=1
done
exit $bad
