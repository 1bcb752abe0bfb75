#!/usr/bin/env bash
# systemd.sh DIR PROGRAM ARGS...  Runs PROGRAM as a service of a systemd that is the first process of a PID and a cgroup namespace of
# its own: output in DIR/out, exit status in DIR/status. The machine keeps its cgroups' layout, settings and names.
set -euo pipefail; source "${0%/*}/../node.sh"
dir=$1; shift
if [ "$dir" != --inside ]; then
  roots=(); [ -e /sys/fs/cgroup/cgroup.controllers ] && roots=(/sys/fs/cgroup) || for h in /sys/fs/cgroup/*/cgroup.procs; do [ -h "${h%/*}" ] || roots+=("${h%/*}"); done
  name=postern-systemd-$$
  cleanup() {
    for _ in $(seq 100); do
      left=0
      for h in "${roots[@]}"; do
        [ ! -d "$h/$name" ] || find "$h/$name" -depth -type d -exec rmdir {} + 2>/dev/null || left=1
      done
      [ $left = 1 ] || return 0
      sleep 0.1
    done
    echo "systemd.sh: cgroups are left" >&2; exit 1
  }
  trap cleanup EXIT
  for h in "${roots[@]}"; do
    [ ! -e "$h/cgroup.subtree_control" ] || [ ${#roots[@]} != 1 ] || for c in $(cat "$h/cgroup.controllers"); do echo "+$c" > "$h/cgroup.subtree_control" || true; done
    mkdir "$h/$name"
    for f in cpuset.cpus cpuset.mems; do [ ! -e "$h/$f" ] || [ -s "$h/$name/$f" ] || [ ${#roots[@]} = 1 ] || cat "$h/$f" > "$h/$name/$f"; done
  done
  printf '%q ' "$@" > "$dir/command"
  printf '[Unit]\nWants=job.service\n' > "$dir/default.target"
  for u in sysinit basic shutdown; do printf '[Unit]\nDefaultDependencies=no\n' > "$dir/$u.target"; done
  # A bus: some programs ask systemd by it alone.
  bus_config "$dir/bus.conf"
  printf '[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=/run/dbus/system_bus_socket\n' > "$dir/dbus.socket"
  printf '[Unit]\nDefaultDependencies=no\nRequires=dbus.socket\n[Service]\nExecStart=/usr/bin/dbus-daemon --config-file=%s --address=systemd: --nofork --nopidfile\n' "$dir/bus.conf" > "$dir/dbus.service"
  cat > "$dir/job.service" <<U
[Unit]
DefaultDependencies=no
Requires=dbus.service
After=dbus.service
SuccessAction=exit-force
FailureAction=exit-force
[Service]
Type=oneshot
TimeoutStartSec=infinity
ExecStart=/usr/bin/unshare --mount /bin/bash -c 'umount /proc/sys; cd $PWD; until busctl status org.freedesktop.systemd1; do sleep 0.1; done >/dev/null 2>&1; . $dir/command > $dir/out 2>&1; echo \$? > $dir/status'
U
  # In a subshell, so that the cleaning is not itself in what is to be removed.
  ( for h in "${roots[@]}"; do echo $BASHPID > "$h/$name/cgroup.procs"; done
    exec unshare --cgroup --mount --pid --uts --ipc --fork --kill-child --propagation private "$0" --inside "$dir" ) & unshare=$!
  # A cgroup of version 2 that has processes cannot have controllers beneath it: the one that waits here goes out when the other is in.
  if [ ${#roots[@]} = 1 ]; then
    until pgrep -P $unshare >/dev/null || ! kill -0 $unshare 2>/dev/null; do sleep 0.02; done
    echo $unshare > "${roots[0]}/cgroup.procs" || true
  fi
  wait $unshare; exit
fi
dir=$1
mount -t proc proc /proc; mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys
mount -t tmpfs -o mode=755 t /run; mount --bind /dev/null /dev/console # systemd would tell there how far it is
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
  umount /sys/fs/cgroup; mount -t cgroup2 c /sys/fs/cgroup # not over itself: the kernel refuses that
  while mapfile -t procs < /sys/fs/cgroup/cgroup.procs; [ ${#procs[@]} != 1 ]; do sleep 0.02; done # one, and no fork of it
else
  mkdir /run/cg; mount -t tmpfs -o mode=755 t /run/cg
  for h in /sys/fs/cgroup/*/cgroup.procs; do
    h=${h%/*}; c=${h##*/}; [ ! -h "$h" ] || continue
    mkdir /run/cg/"$c"
    case $c in
      unified) mount -t cgroup2 c /run/cg/unified ;;
      systemd) mount -t cgroup -o none,name=systemd c /run/cg/systemd ;;
      *) mount -t cgroup -o "$c" c /run/cg/"$c" ;;
    esac
  done
  mount --rbind /run/cg /sys/fs/cgroup
fi
echo 0123456789abcdef0123456789abcdef > /run/machine-id; [ ! -e /etc/machine-id ] || mount --bind /run/machine-id /etc/machine-id
export container=postern SYSTEMD_UNIT_PATH=$dir:/run/systemd/transient:/run/systemd/system.control
exec /lib/systemd/systemd --system --log-target=console --show-status=false --unit=default.target
