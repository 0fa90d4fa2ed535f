# Process 1 of an emulated machine once its root is there: mounts what a booted Debian has mounted, runs the job, says
# how it ended, and powers off.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 HOME=/root TERM=dumb
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /dev/pts /dev/shm /dev/net /run/netns
mknod /dev/net/tun c 10 200
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo "$(<"/sys/fs/cgroup/cgroup.controllers")" | sed 's/[a-z]*/+&/g' >/sys/fs/cgroup/cgroup.subtree_control 2>/dev/null
[ -e /dev/fd ] || ln -s /proc/self/fd /dev/fd
echo 0 >/proc/sys/kernel/printk
ip link set lo up
hostname guest
modprobe -q virtio_net # of what udev would load, all that there may be
echo "guest: Linux $(uname -r), up $(cut -d' ' -f1 /proc/uptime) s"
bash /machine/job.sh </dev/null
status=$?
echo "guest: up $(cut -d' ' -f1 /proc/uptime) s"
echo "guest: the job ended with $status"
echo o >/proc/sysrq-trigger
sleep 60
