#!/bin/sh
# Runs a command in a fresh clone of this repository on a fresh Debian: no package but a minimal system's, no cache, an
# empty home. All that it does ends with it.
#
#   fresh.sh SUITE COMMAND…        for example: fresh.sh trixie make demo
#
# PACKAGES   what is there besides a minimal system, separated by commas (git, make and certificates)
# WITHOUT    network: no way out of there, for what must need no index
# BRING      a file that is in /root there
#
# This machine's own settings for package indexes (apt, pip, certificates, resolver) hold in there as well.
set -eu

suite=$1
shift
source=$(cd "$(dirname "$0")/../.." && pwd)
pristine=$(cd "$source" && python3 -m tests.support.roots --packages "${PACKAGES:-git,make,ca-certificates}" "$suite")

root=$(mktemp -d "$(dirname "$pristine")/fresh.XXXXXX")
trap 'rm -rf --one-file-system "$root"' EXIT
trap 'exit 130' INT TERM
cp -a "$pristine/." "$root"
git clone --quiet --no-local "$source" "$root/root/overlay"

[ -z "${BRING:-}" ] || cp "$BRING" "$root/root/"

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
