#!/bin/busybox sh
# Process 1 of the initial RAM disk: stacks the layers that are in persistent memory, the first below, under a writable
# one, puts /machine there, and hands over to /machine/guest.sh.
b=/bin/busybox
$b mkdir -p /proc /sys /dev /layers /root
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
for module in $($b cat /modules/order); do $b insmod /modules/$module || echo "init: $module does not load"; done
$b mount -t tmpfs -o size=75% tmpfs /layers
$b mkdir /layers/upper /layers/work
lower=
for device in /dev/pmem*; do
    layer=/layers/${device##*/}
    $b mkdir $layer
    $b mount -t squashfs -o ro $device $layer || echo "init: no layer on $device"
    lower=$layer${lower:+:$lower}
done
$b mount -t overlay -o lowerdir=$lower,upperdir=/layers/upper,workdir=/layers/work overlay /root || echo "init: no root"
$b cp -a /machine /root/machine
for part in proc sys dev; do $b mount -o move /$part /root/$part; done
exec $b switch_root /root /bin/bash /machine/guest.sh
