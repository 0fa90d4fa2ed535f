#!/bin/busybox sh
# Process 1 of the initial RAM disk: puts this machine's root, read-only by 9p, below a writable layer in memory, and
# hands over to the program that the kernel's command line names: overlay.guest=PATH.
b=/bin/busybox
$b mkdir -p /proc /sys /dev /host /layer /root
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
for module in $($b cat /modules/order); do $b insmod /modules/$module || echo "init: $module does not load"; done
$b mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=loose,ro host /host || echo "init: no root"
$b mount -t tmpfs -o size=75% tmpfs /layer
$b mkdir /layer/upper /layer/work
$b mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work overlay /root || echo "init: no layer"
for part in proc sys dev; do $b mount -o move /$part /root/$part; done
guest=$($b sed -n 's/.*overlay\.guest=\([^ ]*\).*/\1/p' /root/proc/cmdline)
exec $b switch_root /root /bin/bash "$guest"
