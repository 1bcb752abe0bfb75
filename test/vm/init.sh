#!/bin/busybox sh
# The emulated machine's first process: makes the host's / visible under a writable overlay and goes on in it.
b=/bin/busybox
$b mount -t proc p /proc; $b mount -t sysfs s /sys; $b mount -t devtmpfs d /dev
for m in /mods/*; do $b insmod "$m" || echo "init: $m"; done
$b mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,ro,cache=loose host /lower || echo "init: no 9p"
$b mount -t tmpfs -o size=3g t /rw; $b mkdir /rw/u /rw/w
$b mount -t overlay -o lowerdir=/lower,upperdir=/rw/u,workdir=/rw/w o /root || echo "init: no overlay"
$b cp /guest.sh /root/.guest.sh
for d in proc sys dev; do $b mount --move /$d /root/$d; done
exec $b switch_root /root /bin/bash /.guest.sh
