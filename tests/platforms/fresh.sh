#!/bin/sh
# Runs a command in a fresh clone of this repository on a fresh Debian: no package but a minimal system's, no cache, an
# empty home. All that it does ends with it.
#
#   fresh.sh SUITE COMMAND…        for example: fresh.sh trixie make demo
#
# ROOTS      where bootstrapped systems are kept for the next time (/var/tmp/overlay-roots)
# PACKAGES   what is there besides a minimal system, separated by commas (git, make and certificates)
# WITHOUT    network: no way out of there, for what must need no index
# BRING      a file that is in /root there
#
# This machine's own settings for package indexes (apt, pip, certificates, resolver) hold in there as well.
set -eu

suite=$1
shift
source=$(cd "$(dirname "$0")/../.." && pwd)
roots=${ROOTS:-/var/tmp/overlay-roots}
packages=${PACKAGES:-git,make,ca-certificates}
pristine=$roots/$suite-$(printf %s "$packages" | cksum | cut -d' ' -f1)

mkdir -p "$roots"
if [ ! -d "$pristine" ]; then
    mirror=$(sed -n 's/^URIs: *\([^ ]*\).*/\1/p; s/^deb \(\[[^]]*\] \)*\([^ ]*\) .*/\2/p' \
        /etc/apt/sources.list.d/*.sources /etc/apt/sources.list 2>/dev/null | head -n 1)
    rm -rf "$pristine.new"
    debootstrap --variant=minbase --include="$packages" "$suite" "$pristine.new" "${mirror:-http://deb.debian.org/debian}" \
        >"$roots/$suite.log" 2>&1 || { tail -n 20 "$roots/$suite.log"; exit 1; }
    rm -f "$pristine.new"/var/cache/apt/archives/*.deb
    mv "$pristine.new" "$pristine"
fi

root=$(mktemp -d "$roots/fresh.XXXXXX")
trap 'rm -rf --one-file-system "$root"' EXIT
trap 'exit 130' INT TERM
cp -a "$pristine/." "$root"
git clone --quiet --no-local "$source" "$root/root/overlay"

[ -z "${BRING:-}" ] || cp "$BRING" "$root/root/"

apt-config dump | grep -E '^Acquire::(Check-|http|https|Retries)' >"$root/etc/apt/apt.conf.d/90machine" || true
for file in /etc/apt/auth.conf.d /etc/pip.conf /etc/ssl/certs/ca-certificates.crt /etc/resolv.conf /etc/hosts; do
    [ ! -e "$file" ] || { mkdir -p "$root$(dirname "$file")" && cp -aL "$file" "$root$(dirname "$file")/"; }
done
settings=$(env | grep -E '^(PIP_(CERT|INDEX_URL|DEFAULT_TIMEOUT)|SSL_CERT_FILE|https?_proxy|no_proxy|OVERLAY_[A-Z_]*)=' || true)

network=
[ "${WITHOUT:-}" != network ] || network=--net

# pivot_root rather than chroot: `ip netns` and dockerd need a root that is a mount point.
IFS='
'
# shellcheck disable=SC2086
setpriv --pdeathsig KILL unshare --mount --pid --ipc --uts $network --fork --kill-child --propagation private \
    sh -euc '
    root=$1
    shift
    mount --bind "$root" "$root"
    cd "$root"
    mount -t proc proc proc
    mount --rbind /sys sys
    mount --rbind /dev dev
    mount -t bpf bpf sys/fs/bpf
    mount -t tmpfs -o mode=755 tmpfs run
    mount -t tmpfs tmpfs tmp
    mkdir run/lock run/outside
    pivot_root . run/outside
    umount -l /run/outside
    rmdir /run/outside
    hostname fresh
    ip link set lo up 2>/dev/null || true
    cd /root/overlay
    exec "$@"
' sh "$root" env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 $settings "$@"
