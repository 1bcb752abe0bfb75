#!/usr/bin/env bash
# pen.sh COMMAND...  Runs COMMAND as root where a runtime and a kubelet can reign without this machine noticing: in mount,
# pid, network, host name, IPC and cgroup namespaces of their own. All that COMMAND starts ends with it. Inside
#   /sys/fs/cgroup      has the machine's layout (v1, v2 or both), each hierarchy from a cgroup of the pen's own on
#   /var/lib/kubelet, /var/log/pods, /var/log/containers, /run   are empty and the pen's own
#   the network         is loopback, and an uplink 10.99.0.1/24 with a default route that leads nowhere
#   /proc/sys           shows what a kubelet insists on setting as set: it would set the machine's
# PEN is the directory to keep all of this in; it must exist.
set -euo pipefail
self=$(realpath "$0"); : "${PEN:?}"
hierarchies() { awk '$2 ~ "^/sys/fs/cgroup" && $3 ~ "^cgroup2?$" { print $2 }' /proc/mounts; }
is_v2() { [ -e "$1/cgroup.controllers" ]; }

case ${1:-} in
--entered) # in the pen's cgroups; they are the root of the cgroup namespace from here on
  for h in $(hierarchies); do # v2: a cgroup that hands controllers down holds no process itself
    if is_v2 "$h"; then mkdir "$h/$PEN_CGROUP/init"; echo $$ > "$h/$PEN_CGROUP/init/cgroup.procs"; fi
  done
  exec unshare --mount --pid --net --uts --ipc --fork --kill-child --mount-proc -- "$self" --inside "${@:2}" ;;
--inside) shift ;;
*)
  export PEN_CGROUP=postern-pen.$$; made=()
  for h in $(hierarchies); do
    is_v2 "$h" && for c in $(cat "$h/cgroup.controllers"); do echo "+$c" > "$h/cgroup.subtree_control" 2>/dev/null || true; done
    mkdir "$h/$PEN_CGROUP"; made+=("$h/$PEN_CGROUP")
    for f in cpuset.cpus cpuset.mems; do if ! is_v2 "$h" && [ -e "$h/$f" ]; then cat "$h/$f" > "$h/$PEN_CGROUP/$f"; fi; done
  done
  gone() { local d; for d in "${made[@]}"; do [ ! -d "$d" ] || find "$d" -depth -type d -exec rmdir {} + 2>/dev/null || return 1; done; }
  leave() { for _ in $(seq 50); do gone && return; sleep 0.1; done; echo "pen.sh: left behind: ${made[*]}" >&2; }
  trap leave EXIT
  (for d in "${made[@]}"; do echo "$BASHPID" > "$d/cgroup.procs"; done; exec unshare --cgroup -- "$self" --entered "$@") & child=$!
  trap 'kill -KILL "$child" 2>/dev/null' INT TERM
  status=0; wait "$child" || status=$?
  exit "$status" ;;
esac

mkdir "$PEN/hold"
for h in $(hierarchies); do # in place of the machine's, not over it: programs read the list of mounts
  mount --bind "$h/$PEN_CGROUP" "$PEN/hold"; umount "$h"; mount --move "$PEN/hold" "$h"
  if is_v2 "$h"; then for c in $(cat "$h/cgroup.controllers"); do echo "+$c" > "$h/cgroup.subtree_control" 2>/dev/null || true; done; fi
done
mount --make-rshared / # volumes with propagation need it; what is shared is shared within the pen
hostname penned
ip link set lo up; ip link add pen0 type veth peer name pen1; ip link set pen1 up
ip addr add 10.99.0.1/24 dev pen0; ip link set pen0 up; ip route add default via 10.99.0.254
mount -t tmpfs -o mode=755 tmpfs /run; mkdir /run/lock
for d in /var/lib/kubelet /var/log/pods /var/log/containers; do # on a disk: the kubelet looks for its file system
  mkdir -p "$d" "$PEN/own$d"; mount --bind "$PEN/own$d" "$d"; mount --make-rshared "$d"
done
mkdir "$PEN/sysctl" "$PEN/proc"; mount -t proc proc "$PEN/proc" # one that is whole: else the kernel lets no user namespace mount its own
while read -r name value; do
  echo "$value" > "$PEN/sysctl/${name##*/}"; mount --bind "$PEN/sysctl/${name##*/}" "/proc/sys/$name"
done <<'S'
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
S
cd "$PEN"; "$@"
