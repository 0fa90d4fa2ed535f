#!/bin/sh
# Boots systemd as process 1 of namespaces of its own, on a copy-on-write view of a root, this machine's or another's.
#
#   boot.sh ROOT FILES STAGE BASE   ROOT: an empty directory for the new root; FILES: a tree that is copied over it;
#                                   STAGE: a staged installation (make install DESTDIR=STAGE), or nothing;
#                                   BASE: what is seen there, / for this machine's own
#
# Called as process 1 of new pid, mount, uts, ipc and cgroup namespaces, in the network namespace of a node.
# Everything mounted here ends with the mount namespace, so with the last process in it.
set -eu
folder=$1 files=$2 stage=$3 base=$4

mount --make-rprivate /
mount -t tmpfs -o size=2g tmpfs "$folder"
mkdir "$folder/upper" "$folder/work" "$folder/opt" "$folder/optwork" "$folder/root"
# No layer may lie within another, and everything lies within /: hence the copies.
if [ -n "$stage" ]; then
    (cd "$stage" && find . -mindepth 1 -maxdepth 1 ! -name opt -exec cp -a {} "$folder/upper" \;)
fi
cp -a "$files/." "$folder/upper"
mount -t overlay -o "lowerdir=$base,upperdir=$folder/upper,workdir=$folder/work" overlay "$folder/root"
if [ -n "$stage" ]; then
    # redirect_dir: an upgrade renames directories.
    options="lowerdir=$stage/opt,upperdir=$folder/opt,workdir=$folder/optwork,redirect_dir=on"
    mount -t overlay -o "$options" overlay "$folder/root/opt"
fi
cd "$folder/root"

mount -t proc proc proc
mount --bind proc/sys proc/sys
mount --bind proc/sys/net proc/sys/net
mount -o remount,bind,ro proc/sys
mount -t sysfs sysfs sys
mount -t bpf bpf sys/fs/bpf

# The same cgroup hierarchies as outside, each seen from the group we were put into; another's systemd may know the
# unified one alone (258 and newer).
if [ "$base" = / ]; then
    mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
    grep -E ' cgroup2? ' /proc/self/mounts | while read -r _ point type options _; do
        case $point in
        /sys/fs/cgroup/*)
            mkdir -p ".$point"
            controller=$(printf %s "$options" | tr , '\n' | grep -vE '^(rw|ro|nosuid|nodev|noexec|relatime|nsdelegate|xattr|release_agent=.*)$' | paste -sd,)
            mount -t "$type" ${controller:+-o "$controller"} cgroup ".$point"
            ;;
        esac
    done
else
    mount -t cgroup2 cgroup2 sys/fs/cgroup
fi

mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm dev/net
for node in null:3 zero:5 full:7 random:8 urandom:9 console:3; do
    mknod -m 666 "dev/${node%:*}" c 1 "${node#*:}"
done
mknod -m 666 dev/tty c 5 0
mknod -m 666 dev/net/tun c 10 200
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs tmpfs tmp
mkdir -p var/lib/docker var/lib/containerd
mount -t tmpfs tmpfs var/lib/docker
mount -t tmpfs tmpfs var/lib/containerd

mkdir run/outside
pivot_root . run/outside
umount -l /run/outside
rmdir /run/outside
hostname "$(cat /etc/hostname)"
exec env -i container=overlay-test PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --unit=multi-user.target --log-target=journal --show-status=no
