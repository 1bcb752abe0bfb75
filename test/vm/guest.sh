# What an init system would have done, then the command. vm.sh puts variables before and the command after this text.
ln -s /proc/self/fd /dev/fd; ln -s /proc/self/fd/0 /dev/stdin; ln -s /proc/self/fd/1 /dev/stdout; ln -s /proc/self/fd/2 /dev/stderr
mkdir -p /dev/pts /dev/shm /dev/mqueue
mount -t devpts -o ptmxmode=666 d /dev/pts; mount -t tmpfs s /dev/shm; mount -t mqueue q /dev/mqueue
mount -t cgroup2 c /sys/fs/cgroup; mount -t securityfs s /sys/kernel/security
for d in /run /var/log; do mount -t tmpfs -o mode=755 t "$d"; done;
mkdir -p /lib/modules; mount --bind "$vm/lib/modules" /lib/modules
for m in loop ext4 erofs bridge br_netfilter veth dummy nf_tables nft_compat nft_chain_nat xt_MASQUERADE xt_comment xt_addrtype xt_mark xt_nat \
  xt_conntrack xt_multiport xt_statistic xt_tcpudp; do modprobe "$m" 2>/dev/null; done
# Layers, writable layers and volumes lie on ext4, as on a node: on tmpfs, Linux 6.1 maps no owners.
truncate -s 3G /dev/shm/disk; mkfs.ext4 -q -m 0 -O ^has_journal -E lazy_itable_init=1,nodiscard /dev/shm/disk; mount -o loop /dev/shm/disk /tmp; chmod 1777 /tmp
mkdir /tmp/.lib; mount --bind /tmp/.lib /var/lib
ip link set lo up
echo 0 > /proc/sys/kernel/printk_ratelimit # so that whatever an LSM refuses is in the kernel's log
touch -c "$repo"/bin/postern* "$repo"/bin/test/* "$repo"/bin/tools/crictl # copies: what is built meanwhile does not come between
