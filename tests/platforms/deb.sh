#!/bin/sh
# The Debian package on a system that has what it depends on and nothing else, no index and no network: installed, run,
# removed, purged, and nothing left.
#
#   deb.sh SUITE [PACKAGE]   for example, after make release: deb.sh bookworm dist/overlay_0.1.0_amd64.deb; without one,
#                            it is made on the spot, on a fresh system of that suite
set -eu

suite=$1
fresh=$(dirname "$0")/fresh.sh
package=${2:-}
if [ -z "$package" ]; then
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    package=$folder/overlay.deb
    PACKAGES=git,make,ca-certificates,python3,python3-venv \
        "$fresh" "$suite" sh -c 'make release >&2 && cat dist/*.deb' >"$package"
fi
PACKAGES=python3,python3-venv,iproute2,libbpf1,iptables WITHOUT=network BRING=$package "$fresh" "$suite" sh -euc '
    cd /root
    package=$1
    everything() { # what dpkg keeps about packages comes and goes with them, and is not theirs
        find / /run /tmp -xdev \( -path /var/lib/dpkg -o -path /var/log -o -path /tmp/now \) -prune -o -print | sort
    }
    for program in pip pip3 curl wget; do ! command -v $program || exit 1; done
    before=$(everything)
    dpkg --install "$package"
    overlay --version
    overlay agent --help >/dev/null
    overlay cleanup
    dpkg --verify overlay
    dpkg --remove overlay
    [ -e /etc/default/overlay ]
    ! [ -e /opt/overlay ] && ! [ -e /usr/bin/overlay ]
    dpkg --purge overlay
    everything >/tmp/now
    echo "$before" | diff - /tmp/now
    echo "installed, removed, purged: nothing left"
' sh "$(basename "$package")"
