#!/usr/bin/env bash
# kubelet.sh [conformance|baseline]  A real kubelet on Postern, standalone and with static pods: one pod's life (probes, hooks,
# logs, exec, attach, port-forward, stats), then the kubelet, Postern and each daemon started again beneath it, then its end.
# With baseline all images must be signed, and pods that Postern refuses are tried too.
# A line per step, "ok NAME SECONDS" or "FAIL NAME: what was seen"; the exit status is the number of failures.
# Everything happens in pen.sh. KEEP=1 keeps its directory. SLOW=n multiplies the time limits. FEATURES is what else stands in the
# kubelet's featureGates, such as "EventedPLEG: true".
set -euo pipefail
cd "$(dirname "$0")/../.."; here=$PWD/test/kubelet bin=${POSTERN_BIN:-$PWD/bin}; crictl=$bin/tools/crictl ctl=$bin/test/kubeletctl
if [ "${1:-}" != --inside ]; then
  PEN=$(mktemp -d /tmp/postern-kubelet.XXXXXX); chmod 711 "$PEN"; export PEN
  "$here/pen.sh" "$here/kubelet.sh" --inside "${1:-conformance}" & pen=$!
  trap 'kill -TERM "$pen"' INT TERM
  status=0; wait "$pen" || status=$?
  while kill -0 "$pen" 2>/dev/null; do wait "$pen" || true; done # a signal ends the first wait early
  if [ -n "${KEEP:-}" ]; then echo "kept: $PEN"; else rm -rf --one-file-system "$PEN"; fi
  exit "$status"
fi
profile=$2 t=$PEN failed=0 steps=0; cri=unix://$t/p/run/postern.sock; cd "$t"
source "$here/leaks.sh"; source "$here/../node.sh"
set +e # from here on a failure is counted

# step SECONDS NAME COMMAND...: again and again until it succeeds or the time is over.
step() {
  local limit=$(($1 * ${SLOW:-1})) name=$2 since=$SECONDS started=$EPOCHREALTIME out; shift 2; steps=$((steps + 1))
  while ! out=$("$@" 2>&1); do
    if [ $((SECONDS - since)) -ge "$limit" ]; then echo "FAIL $name: $(tail -n 3 <<<"$out" | tr '\n' ' ' | cut -c -600)"; failed=$((failed + 1)); return 1; fi
    sleep 0.2
  done
  awk -v n="$name" -v a="$started" -v b="$EPOCHREALTIME" 'BEGIN { printf "ok   %-30s %5.1f s\n", n, b - a }'
}
shows() { local want=$1 got; shift; got=$("$@" 2>&1); grep -qE -- "$want" <<<"$got" || { echo "wanted /$want/, got: $(tail -c 500 <<<"$got")"; return 1; }; }
lacks() { local not=$1 got; shift; got=$("$@" 2>&1); ! grep -qE -- "$not" <<<"$got" || { echo "still: $(grep -E -- "$not" <<<"$got")"; return 1; }; }
equals() { local want=$1 got; shift; got=$("$@" 2>&1) && [ "$got" = "$want" ] || { echo "wanted $want, got: $got"; return 1; }; }
ends() { local want=$1 got=0; shift; "$@" || got=$?; [ "$got" = "$want" ] || { echo "exit status $got, wanted $want"; return 1; }; }
c() { "$crictl" -c "$t/crictl.yaml" "$@" 2>/dev/null; }
pods() { "$ctl" pods; }
on() { local flags=(); while [[ $1 == -* ]]; do flags+=("$1"); shift; done; "$ctl" exec "${flags[@]}" "$pod" "$@"; } # on [-spdy -i -t] CONTAINER COMMAND...
place() { # FILE [NAME]; only the widest profile lets a pod have a port of the node
  local drop=x^; [ "$profile $1" != "baseline life" ] || drop=', hostPort: [0-9]*'
  sed "s|@IMAGE@|$image|; s|@UNSIGNED@|$reg/demo/unsigned:1|; s|$drop||; s|name: $1,|name: ${2:-$1},|" "$here/pods/$1.yaml" > "${2:-$1}.yaml"; mv "${2:-$1}.yaml" manifests/
}
up() { setsid "$bin/postern" up --root "$t/p" --profile "$profile" --config "$t/postern.toml" >> up.log 2>&1 & uppid=$!; }
kubelet() { setsid "$bin/tools/kubelet" --config "$t/kubelet.yaml" --root-dir /var/lib/kubelet --cert-dir "$t/pki" --hostname-override penned --node-ip 10.99.0.1 >> kubelet.log 2>&1 & kpid=$!; }
end() { kill "$1" && wait "$1"; }
give_up() { tail -n 15 up.log p/log/*.log; grep -E '^[EF]' kubelet.log | tail -n 10; exit 1; }

mkdir manifests pki; echo 'nameserver 10.99.0.1' > resolv.conf
printf 'runtime-endpoint: "%s"\ntimeout: 30\n' "$cri" > crictl.yaml
"$bin/test/registry" --dir "$t/registry" &
for _ in $(seq 100); do [ -s registry/addr ] && break; sleep 0.1; done
reg=$(cat registry/addr) image=$(cat registry/addr)/demo/signed:1 pod=default/life-penned
printf '[[registry]]\nlocation = "%s"\ninsecure = true\n' "$reg" > registries.conf
node_config "$t" pods0 10.85.0.0/16
if [ "$profile" = baseline ]; then
  mkdir -p p/etc/trust.d; cp registry/demo.pub p/etc/trust.d/
  printf 'default = "reject"\n[authorities.demo]\nkeys = ["trust.d/demo.pub"]\n[[rules]]\nscope = ["%s/**"]\nthreshold = { of = ["demo"], need = 1 }\n' "$reg" > p/etc/trust.toml
fi
sed "s|@CRI@|$cri|; s|@DIR@|$t|; s|@FEATURES@|${FEATURES:+, $FEATURES}|" "$here/kubelet.yaml" > kubelet.yaml

# A system bus and a logind of the pen's own: who holds its lock is asked before the node goes down. It knows no power switch.
mkdir -p /run/dbus /run/systemd/logind.conf.d; export DBUS_SYSTEM_BUS_ADDRESS=unix:path=/run/dbus/system_bus_socket
printf '[Login]\nInhibitDelayMaxSec=60\nNAutoVTs=0\nReserveVT=0\n' > /run/systemd/logind.conf.d/pen.conf
bus_config bus.conf
dbus-daemon --config-file="$t/bus.conf" --nofork > bus.log 2>&1 &
locks() { systemd-inhibit --list --no-legend --no-pager; }
for _ in $(seq 100); do [ -S /run/dbus/system_bus_socket ] && break; sleep 0.1; done
/lib/systemd/systemd-logind > logind.log 2>&1 &
step 20 logind-answers locks

up
step 30 postern-answers c version || give_up
goroutines > goroutines.before
step 30 postern-answers-again c version || give_up
holds | sort > holds.before; sizes > sizes.before
kubelet
step 90 kubelet-healthy curl -fsS http://127.0.0.1:10248/healthz || give_up
place life
step 60 pod-running shows "pod $pod Running" pods || give_up
step 20 init-container shows '^  first .*exited=0' pods
step 20 http-readiness shows "pod $pod Running ready" pods
step 10 containers-running shows '^  tick restarts=0 running' pods
step 10 logs shows '^tick 1$' "$ctl" logs $pod tick
step 10 logs-both-streams shows '^err$' "$ctl" logs $pod web
step 10 hook-poststart equals ran on web cat /work/poststart
step 10 exec-websocket equals hello on web echo hello
step 10 exec-spdy equals hello on -spdy web echo hello
step 10 exec-status ends 7 on web sh -c 'exit 7'
step 10 exec-stderr shows '^to-stderr$' on web sh -c 'echo to-stderr >&2'
step 10 exec-missing-program shows 'not found|no such file' on web /no/such/program
sum() { head -c 1048576 /dev/zero | on "$@" -i web wc -c; }
step 20 exec-stdin-websocket equals 1048576 sum
step 20 exec-stdin-spdy equals 1048576 sum -spdy
big() { on "$@" web sh -c 'head -c 8388608 /dev/zero' | wc -c; }
step 30 exec-output-8MiB equals 8388608 big
step 10 exec-terminal shows '/dev/pts/' on -t web tty
step 10 downward-api shows '^10\.85\.' on web sh -c 'echo $POD_IP'
step 10 memory-volume shows '^tmpfs /quick tmpfs' on web grep ' /quick ' /proc/mounts
step 10 memory-limit shows '^67108864$' on web sh -c 'cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null'
step 10 capabilities shows 'CapEff:.*0000000000000400$' on web grep CapEff /proc/self/status
step 10 seccomp shows 'Seccomp:.*2$' on web grep Seccomp: /proc/self/status
step 10 hosts-file shows 'life-penned' on web cat /etc/hosts
step 10 port-forward equals 'from the init container' "$ctl" fetch $pod 8080 /index.html
[ "$profile" = baseline ] || step 10 host-port equals 'from the init container' curl -fsS http://10.99.0.1:18080/index.html
step 15 attach shows '^tick [0-9]+' "$ctl" attach -for 2s $pod tick
step 15 attach-spdy shows '^tick [0-9]+' "$ctl" attach -spdy -for 2s $pod tick
step 40 stats shows 'memory=' "$ctl" stats $pod web
step 20 metrics-of-containers shows 'container_memory_working_set_bytes\{container="web"|container_memory_working_set_bytes\{[^}]*web' curl -ksS https://127.0.0.1:10250/metrics/cadvisor
on web touch /work/sick
step 30 liveness-restarts shows '^  tick restarts=1' pods
on web rm -f /work/sick
step 60 recovers shows '^  tick restarts=[1-9][0-9]* running' pods
step 10 previous-log shows '^tick 1$' "$ctl" logs $pod tick previous

# Pods of other shapes.
shapes=(once again hungry crash volumes chatty mapped probed secure greedy); [ "$profile" = baseline ] || shapes+=(system)
for p in "${shapes[@]}"; do place "$p"; done
step 60 volumes-running shows 'pod default/volumes-penned Running ready' pods
reader() { "$ctl" exec default/volumes-penned reader "$@"; }
step 10 volume-subpath equals 'from aside' reader cat /part/file
step 10 volume-downward shows 'colour="blue"' reader cat /about/labels
step 10 volume-downward-subpath shows 'colour="blue"' reader cat /one
step 10 volume-image equals signed reader cat /files/etc/image
step 10 volume-image-read-only shows 'Read-only' reader touch /files/x
step 10 rootfs-read-only shows 'Read-only' reader touch /x
step 10 user-and-groups equals '1000 1000 1000 2000 3000' reader sh -c 'echo $(id -u) $(id -g) $(id -G)'
step 10 host-aliases shows '^10.1.2.3.*alias.example' reader cat /etc/hosts
step 10 dns-config shows 'search.*search.example' reader cat /etc/resolv.conf
step 30 ended-phase shows 'pod default/once-penned Failed' pods
step 10 ended-message shows '^  said .*exited=3 Error the reason' pods
step 10 ended-message-of-log shows '^  logged .*exited=4 Error the last words' pods
step 10 ended-well shows '^  done .*exited=0 Completed' pods
step 30 ended-oom shows '^  eater .*exited=137 OOMKilled' pods
step 40 on-failure-again shows '^  second restarts=1 exited=0 Completed' pods
step 10 on-failure-phase shows 'pod default/again-penned Succeeded' pods
step 30 crash-loop shows '^  exits restarts=[1-9].* (waiting CrashLoopBackOff|exited=1)' pods
step 30 program-missing shows '^  missing .*(no such file|not found)' pods
step 40 user-namespace-running shows 'pod default/mapped-penned Running ready' pods
step 10 user-namespace-map lacks '^ *0 +0 ' "$ctl" exec default/mapped-penned root cat /proc/self/uid_map
step 10 user-namespace-volume shows '^0 0$' "$ctl" exec default/mapped-penned root stat -c '%u %g' /work/file
server() { "$ctl" exec default/probed-penned server "$@"; }
step 60 tcp-probes shows 'pod default/probed-penned Running ready' pods
server rm /tmp/www/health
step 40 http-liveness-restarts shows '^  server restarts=1 running' pods
one() { "$ctl" exec default/secure-penned one "$@"; }
step 40 non-root-enforced shows '^  refused .*waiting CreateContainerConfigError: .*non-root' pods
step 10 groups-strict equals 1000 one id -G # the image's own files have one more for this user
step 10 no-new-privileges shows '^NoNewPrivs:.*1$' one grep NoNewPrivs /proc/self/status
step 10 no-capabilities shows '^CapBnd:.*0000000000000000$' one grep CapBnd /proc/self/status
step 10 sysctl equals 80 one cat /proc/sys/net/ipv4/ip_unprivileged_port_start
others() { one sh -c 'grep -l tra[p] /proc/[0-9]*/cmdline 2>/dev/null | wc -l'; }
step 10 shared-processes equals 2 others
within() { local found; found=$(find /sys/fs/cgroup -type d -path "*/kubepods$1/pod*$(c ps -q --name "$2")*"); [ -n "$found" ] || { find /sys/fs/cgroup -type d -path '*kubepods*'; return 1; }; }
step 10 qos-guaranteed within '' '^server$'
step 10 qos-burstable within /burstable '^web$'
step 10 qos-best-effort within /besteffort '^reader$'
step 10 qos-guaranteed-cpu shows '^10000( 100000)?$' server sh -c 'cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null'
step 10 qos-guaranteed-memory shows '^33554432$' server sh -c 'cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null'
step 10 qos-oom-score equals 1000 reader cat /proc/self/oom_score_adj
step 60 evicted-by-layer grep -q 'cannot evict a critical pod.*"default/greedy-penned"' kubelet.log # it would, were the pod not a static one
polite() { # a pod of that name, and what it logs
  place polite "$1"
  step 60 "$1-running" shows "pod default/$1-penned Running ready" pods
  tail -n +1 -F /var/log/pods/default_$1-penned_*/guest/0.log > polite.log 2>/dev/null & tailpid=$!
  step 10 "$1-here" grep -q ' here$' polite.log
}
in_order() { equals 'here hooked signalled gone' eval 'awk "{ print \$4 }" polite.log | xargs' && kill "$tailpid"; }
polite guest
rm manifests/guest.yaml
step 40 guest-gone lacks 'default/guest-penned' pods
step 20 termination-in-order in_order
if [ "$profile" != baseline ]; then
  step 40 system-running shows 'pod kube-system/system-penned Running ready' pods
  step 10 system-host-pid shows 'tools/kubelet' "$ctl" exec kube-system/system-penned agent ps
  step 10 system-host-path equals "$(head -n 1 /etc/passwd)" "$ctl" exec kube-system/system-penned agent head -n 1 /host-etc/passwd
  step 10 system-propagation grep -q ' /run/made/by/kubelet/m ' /proc/mounts
  # All that the helper's bounding set has; it lacks SYS_MODULE, SYS_TIME and thirteen more. The c or d is SYS_RESOURCE.
  step 10 system-privileged shows 'CapEff:.*80b[cd]acfdff$' "$ctl" exec kube-system/system-penned agent grep CapEff /proc/self/status
fi
# Every line once, whatever the kubelet rotated and packed meanwhile.
whole() { local n; n=$(for f in /var/log/pods/default_chatty-penned_*/talker/*; do zcat -f "$f"; done | awk '$4 == "line" { all++; if (!seen[$5]++) one++ } END { print all + 0, one + 0 }'); equals '60000 60000' echo "$n"; }
rotated() { local n; n=$(ls /var/log/pods/default_chatty-penned_*/talker | wc -l); [ "$n" -gt 2 ] || { echo "$n files"; return 1; }; }
step 60 log-rotated rotated
step 60 log-rotated-whole whole
for p in "${shapes[@]}"; do rm "manifests/$p.yaml"; done

# What runs must not notice that something beneath it starts again.
web=$(c ps -q --name web) tick=$(c ps -q --name tick)
same() { equals "$web $tick" eval 'echo "$(c ps -q --name web) $(c ps -q --name tick)"'; }
end "$kpid"; kubelet
step 60 kubelet-again shows "pod $pod Running ready" pods
step 10 kubelet-again-same same
end "$uppid"; up
step 30 postern-again c version
step 10 postern-again-same same
step 20 postern-again-exec equals hello on web echo hello
for d in "${daemons[@]}"; do
  kill -KILL "$(daemon "$d")"
  step 30 "killed-$d" equals hello on web echo hello
  step 20 "killed-$d-same" same
done
step 30 killed-logs-go-on shows "^tick" "$ctl" logs $pod tick
gapless() { "$ctl" logs $pod tick | awk '$1 == "tick" { if (n && $2 != n + 1) { print "after " n ": " $2; bad = 1 } n = $2 } END { exit bad || n < 20 }'; }
step 10 killed-log-without-gap gapless
step 10 killed-no-restart shows '^  web restarts=0 running' pods

if [ "$profile" = baseline ]; then
  event() { grep -E "Event occurred.*/$1-penned.*reason=\"$2\"" kubelet.log | grep -E -- "$3"; }
  revisions() { cat p/log/*policyd* | grep -c ': revision '; }
  before=$(revisions); newer() { [ "$(revisions)" -gt "$before" ] || { tail -n 1 p/log/*policyd*; return 1; }; }
  cp "$here/site.rego" p/etc/policy/
  step 30 policy-loaded newer
  for p in privileged hostport hostpath unsigned frozen; do place $p; done
  step 60 refused-privileged event privileged FailedCreatePodSandBox 'CEIL-PRIV .* Fix: '
  step 60 refused-hostport event hostport FailedCreatePodSandBox 'CEIL-HOSTPORT .* Fix: '
  step 60 refused-hostpath shows 'waiting Create.*(CEIL-MOUNT|PSS-B-HOSTPATH)' pods
  step 60 refused-policy event late FailedCreatePodSandBox 'policy denied .*SITE-FROZEN .* Fix: wait for the thaw'
  step 60 refused-unsigned shows 'waiting (SignatureValidationFailed|ErrImagePull|ImagePullBackOff): .*UNSIGNED' pods
  pods > refused.txt; [ -z "${KEEP:-}" ] || cat refused.txt
  rm manifests/{privileged,hostport,hostpath,unsigned,frozen}.yaml
  step 10 refused-others-run shows "pod $pod Running ready" pods
fi

# The node goes down: logind waits for the kubelet, which waits for its pods. They stay down, and so do their reasons.
polite farewell
step 10 shutdown-lock shows '^kubelet .*shutdown' locks
busctl emit /org/freedesktop/login1 org.freedesktop.login1.Manager PrepareForShutdown b true
step 40 shutdown-lock-given-back lacks '^kubelet' locks
step 10 shutdown-in-order in_order
step 10 shutdown-nothing-runs equals '' c ps -q
step 10 shutdown-phase shows 'pod default/farewell-penned Failed' pods
end "$kpid"; rm manifests/{farewell,life}.yaml; kubelet
step 60 kubelet-after-shutdown curl -fsS http://127.0.0.1:10248/healthz
step 40 pod-gone lacks "$pod" pods
step 120 containers-gone equals '' c ps -aq
none_left() { [ -z "$(ls -A /var/lib/kubelet/pods)" ]; }
step 90 volumes-gone none_left
step 120 sandboxes-gone equals '' c pods -q
no_logs() { [ -z "$(ls -A /var/log/pods)" ]; }
no_cgroup() { local l; l=$(find /sys/fs/cgroup -type d -path '*kubepods*/*pod*' | head -n 3); [ -z "$l" ] || { echo "$l"; return 1; }; }
step 30 logs-gone no_logs
step 30 cgroups-gone no_cgroup
# Nothing unused, and the disk said to be nearly full: images are what the kubelet can free.
end "$kpid"; sed -i 's|evictionHard: {|&nodefs.available: "99%", |; s|nodefs.available: "0%", ||' kubelet.yaml; kubelet
step 60 images-collected equals '' c images -q
end "$kpid"
step 60 nothing-leaked leaked
slim() { sizes > sizes.now; grown sizes.before sizes.now; }
step 60 daemons-slim slim
goroutines > goroutines.now; step 1 daemons-goroutines grown goroutines.before goroutines.now
end "$uppid"
no_mount() { ! grep "$t/p/" /proc/self/mountinfo; }
step 10 mounts-gone no_mount
echo "$profile: $((steps - failed)) of $steps steps; error lines in the kubelet's log: $(grep -c '^E' kubelet.log)"
exit "$failed"
