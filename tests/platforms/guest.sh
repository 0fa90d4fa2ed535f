# Process 1 of a virtual machine once its root is there: mounts what a booted Debian has mounted, runs the job, says how
# it ended, and powers off. The command line names the job: overlay.job=FILE, a shell script.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 HOME=/root TERM=dumb
word() { sed -n "s/.*overlay\.$1=\([^ ]*\).*/\1/p" /proc/cmdline; }
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /dev/pts /dev/shm /run/netns
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo "$(<"/sys/fs/cgroup/cgroup.controllers")" | sed 's/[a-z]*/+&/g' >/sys/fs/cgroup/cgroup.subtree_control 2>/dev/null
[ -e /dev/fd ] || ln -s /proc/self/fd /dev/fd
mkdir -p /lib/modules; mount --bind "$(word modules)" /lib/modules
modprobe -a virtio_blk ext4
disk=a first=
for point in $(word mounts | tr , ' '); do
    until [ -b /dev/vd$disk ]; do sleep 0.1; done
    mount -t ext4 /dev/vd$disk "$point" || echo "guest: nothing at $point"
    first=${first:-$point} disk=$(echo $disk | tr a-y b-z)
done
cd "$first"
echo 0 >/proc/sys/kernel/printk
ip link set lo up
hostname guest
# What each test would wait for at its first use: modules, and programs that come by 9p.
modprobe -qa tun veth bridge br_netfilter sch_ingress cls_bpf vxlan nf_tables nft_compat nft_chain_nat nft_ct nft_nat \
    nf_conntrack xt_comment xt_mark xt_conntrack xt_addrtype xt_MASQUERADE iptable_filter iptable_nat nf_conntrack_netlink
for program in ip tc nft xtables-nft-multi xtables-legacy-multi iperf3 ping etcd etcdctl sockperf ethtool; do
    path=$(command -v $program) && { ldd "$path" | grep -o '/[^ ]*'; echo "$path"; } | xargs cat >/dev/null
done 2>/dev/null
echo "guest: Linux $(uname -r), $(nproc) processors"
bash "$(word job)" </dev/null
echo "guest: the job ended with $?"
echo o >/proc/sysrq-trigger
sleep 60
