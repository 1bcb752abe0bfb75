#!/usr/bin/env bash
# policy.sh DIR  Makes DIR/policy and DIR/file_contexts: Debian's SELinux policy with profiles/selinux, for the emulated machine.
# Debian's packages are unpacked into DIR, not installed. Our modules are held against the rules of that policy and promises.cil.
set -euo pipefail
cd "$(dirname "$0")/../.."
d=$1; mkdir -p "$d"; d=$(cd "$d" && pwd)
if [ ! -e "$d/ready" ]; then
  echo "policy.sh: fetching Debian's SELinux policy and its compiler" >&2
  (cd "$d"; apt-get download -q selinux-policy-default secilc policycoreutils semodule-utils >/dev/null 2>&1; for p in *.deb; do dpkg -x "$p" .; done; rm ./*.deb)
  for m in base unconfined; do bunzip2 -c "$d/usr/share/selinux/default/$m.pp.bz2" | "$d/usr/libexec/selinux/hll/pp" /dev/stdin "$d/$m.cil"; done
  sed -i '/^(selinuxuser/d; /^(userprefix/d' "$d/base.cil" # logins, of users that other modules define
  touch "$d/ready"
fi
base=("$d/base.cil" "$d/unconfined.cil" profiles/selinux/container.cil profiles/selinux/postern.cil)
"$d/usr/bin/secilc" -M 1 -c 33 -o "$d/checked" -f /dev/null "${base[@]}" test/vm/promises.cil
"$d/usr/bin/secilc" -N -M 1 -c 33 -o "$d/policy" -f "$d/file_contexts" "${base[@]}" test/vm/harness.cil
