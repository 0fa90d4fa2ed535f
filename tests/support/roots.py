"""Roots of other releases of Debian, from its packages alone: their Docker, systemd, iptables, nft and Python.

    python -m tests.support.roots trixie forky      build what is missing; prints each root's path

A root is built once, in a cache outside of the tree, and only read from then on: whatever runs in it runs on a
copy-on-write view in namespaces of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.platforms.debian import mirror

CACHE = Path(os.environ.get("OVERLAY_ROOTS", "/var/cache/overlay-platforms/roots"))

PACKAGES = (
    *("systemd", "dbus", "python3", "python3-venv", "make", "ca-certificates"),
    *("docker.io", "docker-cli", "iptables", "nftables", "iproute2", "iputils-ping", "procps", "kmod", "libbpf1"),
    *("busybox-static", "etcd-client", "man-db"),
)

_SCRIPT = Path("/usr/share/debootstrap/scripts/sid")
"""Debian's releases differ in nothing that debootstrap cares about; it has no names for the newest."""


def build(suite: str) -> Path:
    """The root of ``suite`` ("trixie"), made where it is missing. Raises RuntimeError with debootstrap's last words."""
    root = CACHE / suite
    if root.exists():
        return root
    unfinished = CACHE / f"{suite}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    CACHE.mkdir(parents=True, exist_ok=True)
    # Not by debootstrap's --include: some of these depend on what it unpacks later.
    _run("debootstrap", "--variant=minbase", suite, str(unfinished), mirror(), str(_SCRIPT))
    (unfinished / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
    (unfinished / "usr/sbin/policy-rc.d").chmod(0o755)
    quiet = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "--no-install-recommends")
    known = _run("chroot", str(unfinished), "apt-cache", "--generate", "pkgnames").split()
    _run("chroot", str(unfinished), *quiet, "install", "-y", *(package for package in PACKAGES if package in known))
    _run("chroot", str(unfinished), "apt-get", "clean")
    (unfinished / "usr/sbin/policy-rc.d").unlink()
    unfinished.rename(root)
    return root


_ENTER = """
set -e
root=$1; shift
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o lowerdir="$root",upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root
cd /mnt/root
mount -t proc proc proc
mount --rbind /dev dev
mount --rbind /sys sys
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mkdir -p var/lib/docker run/outside
mount -t tmpfs tmpfs var/lib/docker
pivot_root . run/outside
umount -l run/outside
exec "$@"
"""
"""Not chroot: dockerd makes its root private, which must be a mount point for that."""


def inside(root: Path, *command: str) -> list[str]:
    """The command line that runs ``command`` as process 1 in a copy-on-write view of ``root``, in mount and process
    namespaces of its own: they end with it, and with what started it."""
    own = ("unshare", "--mount", "--pid", "--ipc", "--fork", "--kill-child")
    return [*own, "sh", "-c", _ENTER, "sh", str(root), *command]


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(build(name))
