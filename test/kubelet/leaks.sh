# leaks.sh  Sourced by kubelet.sh: what a node holds, to compare before its first pod and after its last. Needs $bin, $t and step.
daemons=(posternd postern-helper postern-logd postern-policyd postern-auditd)
daemon() { pgrep -f "^$bin/$1 --root $t/p" | head -n 1; }

# holds prints what is there for pods only: mounts and pinned namespaces, cgroups, files, links, addresses and rules of the network.
holds() {
  grep -o " $t/p/[^ ]* " /proc/self/mountinfo
  find /sys/fs/cgroup -type d -path '*/kubepods/*pod*' -o -type d -path '*/postern/*'
  find p/run p/lib -mindepth 1 | grep -vE '^p/lib/((layers|records|audit|fetch)/|box/cni/results$)' # images and the audit log stay
  ip -o link | awk -F ': ' '$2 != "pods0" { print "link", $2 }' # the bridge stays
  find ipam -type f -name '*.*.*.*' 2>/dev/null
  iptables-save 2>/dev/null | grep -E '^-A' | grep -vE 'CNI-HOSTPORT-(SETMARK|MASQ|DNAT)|CNI-ADMIN|CNI-FORWARD -j' # the plugins' own chains stay, empty
}
# sizes prints "DAEMON fds N" and "DAEMON threads N".
sizes() {
  local d pid
  for d in "${daemons[@]}"; do
    pid=$(daemon "$d"); echo "$d fds $(ls "/proc/$pid/fd" | wc -l)"; awk -v d="$d" '$1 == "Threads:" { print d, "threads", $2 }' "/proc/$pid/status"
  done
}
# goroutines prints "DAEMON goroutines N": at SIGQUIT a Go program lists them and ends; its parent starts it anew.
goroutines() {
  local d pid before now
  for d in "${daemons[@]}"; do
    pid=$(daemon "$d") before=$(grep -c '^goroutine ' "p/log/$d.log"); kill -QUIT "$pid"
    for _ in $(seq 300); do now=$(daemon "$d"); [ -n "$now" ] && [ "$now" != "$pid" ] && break; sleep 0.1; done
    echo "$d goroutines $(($(grep -c '^goroutine ' "p/log/$d.log") - before))"
  done
}
# grown BEFORE NOW: fails where a number is larger than it was by more than what comes and goes: connections that stay open once
# they are needed. One for each of the pods that there were is more than that.
grown() {
  awk 'NR == FNR { was[$1 $2] = $3; next }
    { if (!($1 $2 in was) || $3 == 0 || $3 > was[$1 $2] + 12) { print $1 ": " $2 " " was[$1 $2] + 0 " before, " $3 " now"; bad = 1 } }
    END { exit bad }' "$1" "$2"
}
leaked() { local new; holds | sort > holds.now; new=$(comm -13 holds.before holds.now); [ -z "$new" ] || { echo "$new"; return 1; }; }
