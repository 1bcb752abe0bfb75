#!/usr/bin/env bash
# vm.sh [-l LSM] COMMAND...  Runs COMMAND as root, in the present directory, in an emulated machine that has what a machine
# with cgroup v1 lacks: Debian's kernel with cgroup v2 alone, all capabilities, and LSM: apparmor (default), selinux (enforcing,
# with Debian's policy and ours; selinux-permissive only logs) or none. Output and exit status are the command's. This machine's / is there, read-only under
# an overlay: writes are lost. /tmp is an ext4 file system of its own, as container storage must not lie on the overlay. Ten to
# twenty times slower than here. Needs root for the first run only, which fetches the kernel into bin/vm.
#   VM_MEM MiB (4096)   VM_CPUS (1; with more QEMU 7.2 loses an interrupt between them now and then, and all stand still)   VM_LIMIT seconds (1800)
set -euo pipefail
repo=$(cd "$(dirname "$0")/../.." && pwd); vm=$repo/bin/vm; lsm=apparmor
[ "${1:-}" != -l ] || { lsm=$2; shift 2; }
[ $# -gt 0 ] || { sed -n '2,8s/^# \?//p' "$0" >&2; exit 2; }
first=landlock,lockdown,yama,integrity
case $lsm in
  apparmor) boot="lsm=$first,apparmor,bpf" ;;
  selinux | selinux-permissive) boot="lsm=$first,selinux,bpf enforcing=0" ;; # until the policy is loaded
  none) boot="lsm=$first,bpf" ;;
  *) echo "vm.sh: $lsm is not one of apparmor, selinux, selinux-permissive, none" >&2; exit 2 ;;
esac
boot+=" no_timer_check" # the kernel's own test of its timer fails on a machine that is busy, and panics
"$repo/test/install.sh" vm

# The kernel: its package is unpacked, not installed.
if [ ! -e "$vm/ready" ]; then
  rm -rf "$vm"; mkdir -p "$vm"; cd "$vm"
  pkg=$(apt-cache depends linux-image-amd64 | sed -n 's/^ *Depends: \(linux-image-6.*\)$/\1/p' | head -n 1)
  echo "vm.sh: fetching ${pkg:?no linux-image-amd64 in the package lists: run apt-get update}" >&2
  apt-get download -q "$pkg" >/dev/null 2>&1; dpkg -x ./*.deb .; rm ./*.deb
  depmod -b . "$(basename lib/modules/*)"; touch ready; cd "$OLDPWD"
fi
case $lsm in selinux*) "$repo/test/vm/policy.sh" "$vm/selinux" ;; esac
rel=$(basename "$vm"/lib/modules/*)
t=$(mktemp -d /tmp/postern-vm.XXXXXX); trap 'rm -rf "$t"' EXIT

# The initial file system mounts / by 9p and hands over to guest.sh; all other modules are taken from there.
mkdir -p "$t"/ird/{bin,dev,proc,sys,lower,rw,root,mods}; cp /bin/busybox "$t/ird/bin/"; n=10
for f in $(for m in virtio_pci 9pnet_virtio 9p overlay; do modprobe -d "$vm" -S "$rel" --show-depends "$m"; done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }'); do
  cp "$f" "$t/ird/mods/$n-${f##*/}"; n=$((n + 1))
done
cp "$repo/test/vm/init.sh" "$t/ird/init"; chmod 755 "$t/ird/init"
{ for v in PATH HOME POSTERN_SLOW ${!POSTERN_@}; do [ -z "${!v:-}" ] || printf 'export %s=%q\n' "$v" "${!v}"; done
  printf 'vm=%q repo=%q lsm=%q\n' "$vm" "$repo" "$lsm"; cat "$repo/test/vm/guest.sh"
  case $lsm in selinux*) cat "$repo/test/vm/selinux.sh" ;; esac
  printf 'cd %q\n' "$PWD"; printf '%q ' "$@"; printf '\necho $? > /dev/ttyS1\nsync; echo b > /proc/sysrq-trigger; while :; do :; done\n'; } > "$t/ird/guest.sh"
(cd "$t/ird" && find . | cpio -o -H newc --quiet | gzip -1) > "$t/ird.gz"

# The exit status comes by a serial line of its own, so that no output can be taken for it.
# The time of a machine with one processor goes by the instructions it executed: however busy the host is, nothing there misses
# what it has milliseconds for.
accel="-accel tcg,thread=multi"; [ "${VM_CPUS:-1}" != 1 ] || accel="-accel tcg,thread=single -icount shift=1"
timeout --foreground "${VM_LIMIT:-1800}" qemu-system-x86_64 $accel -cpu max -m "${VM_MEM:-4096}" -smp "${VM_CPUS:-1}" \
  -display none -monitor none -no-reboot -serial stdio -serial "file:$t/status" -kernel "$vm/boot/vmlinuz-$rel" -initrd "$t/ird.gz" \
  -virtfs local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap \
  -append "console=ttyS0 quiet log_buf_len=8M panic=-1 random.trust_cpu=on $boot" </dev/null | stdbuf -oL tr -d '\r' || true
status=$(tr -d '\r\n' < "$t/status")
[ -n "$status" ] || { echo "vm.sh: the machine ended before the command did (limit ${VM_LIMIT:-1800} s)" >&2; exit 1; }
exit "$status"
