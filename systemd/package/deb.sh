#!/bin/sh
# Makes the Debian package: systemd/install.sh's layout under /usr, and the wheels that its postinst installs from.
#
#   deb.sh TARGET WHEELS   TARGET: a directory for it; WHEELS: of the package and all that it needs (requirements/wheels.sh)
#
# PYTHON             has the package in it, and the version that the wheels are for
# SOURCE_DATE_EPOCH  the time of all that is in it (now)
set -eu
umask 022

target=$(realpath "$1")
wheels=$(realpath "$2")
here=$(cd "$(dirname "$0")/../.." && pwd)
# 1.0rc1 comes before 1.0: deb-version(7).
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$here/pyproject.toml" | sed -E 's/(a|b|rc|\.dev)([0-9]+)$/~\1\2/')
architecture=$(dpkg --print-architecture)
# Wheels with machine code are for one version of Python alone.
lowest=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
beyond=$("$PYTHON" -c 'import sys; print("%d.%d" % (sys.version_info[0], sys.version_info[1] + 1))')

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT INT TERM
chmod 755 "$stage"
DESTDIR=$stage PREFIX=/usr "$here/systemd/install.sh" files
install -D -m 755 "$here/systemd/install.sh" "$stage/usr/lib/overlay/install.sh"
install -D -m 644 -t "$stage/usr/lib/overlay/wheels" "$wheels"/*.whl
install -D -m 644 "$here/LICENSE" "$stage/usr/share/doc/overlay/copyright"
install -D -m 644 -t "$stage/usr/share/doc/overlay" "$here/README.md" "$here/CHANGELOG.md"

mkdir "$stage/DEBIAN"
for script in preinst postinst prerm postrm; do
    install -m 755 "$here/systemd/package/$script" "$stage/DEBIAN/$script"
done
echo /etc/default/overlay >"$stage/DEBIAN/conffiles"
size=$(du -sk --apparent-size --exclude=DEBIAN "$stage" | cut -f1)
(cd "$stage" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | LC_ALL=C sort -z | xargs -0 md5sum >DEBIAN/md5sums)
cat >"$stage/DEBIAN/control" <<END
Package: overlay
Version: $version
Architecture: $architecture
Maintainer: overlay maintainers
Installed-Size: $size
Depends: python3 (>= $lowest), python3 (<< $beyond), python3-venv, iproute2, libbpf1, iptables | nftables
Recommends: docker.io
Section: net
Priority: optional
Description: flannel-compatible overlay network agent
 Every node leases a subnet from etcd, and every container gets an address
 that every other container of the cluster reaches without NAT.
END
# Wheels are compressed already.
dpkg-deb --root-owner-group -Zgzip -z1 --build "$stage" "$target/overlay_${version}_$architecture.deb"
