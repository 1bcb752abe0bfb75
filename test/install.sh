#!/usr/bin/env bash
# install.sh GROUP...  Installs, on Debian 12 as root, the packages that a make target needs, and says which and why.
# Groups: build (compile), run (demo, tests), vm (the emulated machine), bench (the peer), critest, node-e2e, fuzz. What is there already is left alone.
set -euo pipefail
declare -A why=(
  [gcc]="compiles postern-launch (cgo)" [libc6-dev]="compiles postern-launch (cgo)" [pkg-config]="finds libseccomp"
  [libseccomp-dev]="seccomp filters of containers" [containernetworking-plugins]="CNI plugins: bridge, host-local, portmap"
  [iptables]="masquerading and host ports of the CNI plugins" [busybox-static]="content of the images that the tests make"
  [bash-static]="content of the suites' images" [netcat-openbsd]="content of the suites' images"
  [iproute2]="network namespaces of the tests" [procps]="ps in the demo" [util-linux]="unshare, flock" [curl]="port-forward check of the demo"
  [crun]="an OCI runtime that a RuntimeClass names in the tests" [runc]="another one"
  [nginx-light]="content of the suites' images" [apache2-bin]="content of critest's images"
  [dbus-daemon]="system bus of the tests with systemd" [systemd]="makes cgroups in the tests; its logind asks the kubelet before a node goes down"
  [git]="module checks" [qemu-system-x86]="emulates a machine with cgroup v2 and AppArmor" [cpio]="packs its initial file system"
  [e2fsprogs]="makes its disk" [kmod]="finds its kernel modules" [apparmor]="loads AppArmor profiles there"
  [bzip2]="unpacks Debian's SELinux policy")
declare -A group=(
  [build]="gcc libc6-dev pkg-config libseccomp-dev"
  [run]="containernetworking-plugins iptables busybox-static iproute2 procps util-linux curl crun runc dbus-daemon systemd"
  [vm]="qemu-system-x86 busybox-static cpio kmod e2fsprogs apparmor bzip2"
  [bench]="containernetworking-plugins iptables busybox-static iproute2 util-linux"
  [critest]="containernetworking-plugins iptables busybox-static iproute2 util-linux procps nginx-light apache2-bin"
  [node-e2e]="bash-static netcat-openbsd curl iproute2 procps util-linux nginx-light"
  [fuzz]="")
# Containers run under an AppArmor profile where there is AppArmor, and it has to be loaded.
[ ! -e /sys/kernel/security/apparmor ] || group[run]+=" apparmor"
missing=()
for g in "$@"; do
  for p in ${group[$g]?unknown group $g}; do
    dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null | grep -qx installed || missing+=("$p")
  done
done
[ ${#missing[@]} = 0 ] && exit 0
if [ "$(id -u)" != 0 ]; then
  echo "install: these Debian packages are missing: ${missing[*]}; run as root, or install them and try again" >&2; exit 1
fi
for p in "${missing[@]}"; do echo "install: $p (${why[$p]})"; done
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq >/dev/null
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
