# After guest.sh: loads the SELinux policy. What is tested lies on file systems with labels: the programs, which are copied there,
# and /tmp; the rest of / has none.
mount -t selinuxfs s /sys/fs/selinux
dd if="$vm/selinux/policy" of=/sys/fs/selinux/load bs=16M status=none # one write: the kernel takes no part of a policy
chcon system_u:object_r:tmp_t:s0 /tmp; chcon -t var_log_t /var/log; chcon -t var_lib_t /var/lib; chcon -t var_run_t /run
chcon -t null_device_t /dev/null; chcon -t zero_device_t /dev/zero /dev/full; chcon -t urandom_device_t /dev/random /dev/urandom; chcon -t devtty_t /dev/tty
chcon -t ptmx_t /dev/ptmx; chcon -t loop_control_device_t /dev/loop-control; chcon -t fixed_disk_device_t /dev/loop[0-9]*
mkdir /tmp/.bin; chcon -t bin_t /tmp/.bin; cp -r "$repo"/bin/postern* "$repo"/bin/test "$repo"/bin/tools /tmp/.bin/ 2>/dev/null
for p in init helper launch cni streamd logd policyd imaged auditd; do chcon -t "postern_${p}_exec_t" "/tmp/.bin/postern-$p"; done
chcon -t posternd_exec_t /tmp/.bin/posternd
mount --bind /tmp/.bin "$repo/bin"
[ "$lsm" != selinux ] || echo 1 > /sys/fs/selinux/enforce
