#!/usr/bin/env bash
# test.sh [package...]  Every test of the repository, unit and end to end, as root; ends with a line that counts them.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$(id -u)" != 0 ]; then echo "make test needs root: the tests use the real kernel features" >&2; exit 1; fi
pkgs=("$@"); [ $# -gt 0 ] || pkgs=(./...)
# Where there is AppArmor, containers have its default profile, which postern up loads.
[ ! -e /sys/kernel/security/apparmor ] || apparmor_parser --replace --skip-cache --quiet profiles/apparmor/postern-default
set +e
go test -json -count=1 -p 2 -timeout 20m -tags containers_image_openpgp,seccomp "${pkgs[@]}" | bin/test/report test/skips.txt
exit "$((PIPESTATUS[0] | PIPESTATUS[1]))"
