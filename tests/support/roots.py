"""Roots of other releases of Debian, from its packages alone: their Docker, systemd, iptables, nft and Python.

    python -m tests.support.roots trixie forky                  build what is missing; prints each root's path
    python -m tests.support.roots --packages git,make trixie    with these instead of what our tests need

A root is built once, in a cache outside of the tree, and only read from then on: whatever runs in it runs on a
copy-on-write view in namespaces of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType

from tests.platforms.debian import mirror

CACHE = Path(os.environ.get("OVERLAY_PLATFORMS", "/var/cache/overlay-platforms"), "roots")

PACKAGES = (
    *("systemd", "dbus", "python3", "python3-venv", "make", "ca-certificates"),
    *("docker.io", "docker-cli", "iptables", "nftables", "iproute2", "iputils-ping", "procps", "kmod", "libbpf1"),
    *("busybox-static", "etcd-server", "etcd-client", "man-db"),
)

_SCRIPT = Path("/usr/share/debootstrap/scripts/sid")
"""Debian's releases differ in nothing that debootstrap cares about; it has no names for the newest."""

_SETTINGS = Path(__file__).parents[1] / "platforms/settings.sh"


def build(suite: str, packages: tuple[str, ...] = PACKAGES) -> Path:
    """The root of ``suite`` ("trixie"), made where it is missing. Raises RuntimeError with debootstrap's last words.

    Args:
        packages: what is there besides a minimal system; a suite that has no such package does without.
    """
    of_its_own = "" if packages == PACKAGES else f"-{sha256(','.join(packages).encode()).hexdigest()[:8]}"
    root = CACHE / f"{suite}{of_its_own}"
    if root.exists():
        return root
    unfinished = CACHE / f"{root.name}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    CACHE.mkdir(parents=True, exist_ok=True)
    # Not by debootstrap's --include: some of these depend on what it unpacks later.
    _run("debootstrap", "--variant=minbase", suite, str(unfinished), mirror(), str(_SCRIPT))
    _run("sh", str(_SETTINGS), str(unfinished))
    (unfinished / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
    (unfinished / "usr/sbin/policy-rc.d").chmod(0o755)
    quiet = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "--no-install-recommends")
    known = _run("chroot", str(unfinished), "apt-cache", "--generate", "pkgnames").split()
    wanted = (package for package in packages if package in known)
    # What some of them do when they are installed needs /proc.
    own = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec")
    entered = (*own, 'mount -t proc proc "$1/proc"; exec chroot "$@"', "sh", str(unfinished))
    _run(*entered, *quiet, "install", "-y", *wanted)
    _run("chroot", str(unfinished), "sh", "-c", "apt-get clean && rm -rf /var/lib/apt/lists/*")
    (unfinished / "usr/sbin/policy-rc.d").unlink()
    _run("sh", str(_SETTINGS), str(unfinished))  # again: a package may have brought files of its own
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
while [ "$1" != -- ]; do
    mkdir -p ".$2"
    mount --bind "$1" ".$2"
    shift 2
done
shift
pivot_root . run/outside
umount -l run/outside
exec "$@"
"""
"""Not chroot: dockerd makes its root private, which must be a mount point for that."""


def inside(root: Path, *command: str, binds: Mapping[Path, str] = MappingProxyType({})) -> list[str]:
    """The command line that runs ``command`` as process 1 in a copy-on-write view of ``root``, in mount and process
    namespaces of its own: they end with it, and with what started it.

    Args:
        binds: directories of this machine, and where they are seen there.
    """
    own = ("unshare", "--mount", "--pid", "--ipc", "--fork", "--kill-child")
    seen = (word for source, target in binds.items() for word in (str(source), target))
    return [*own, "sh", "-c", _ENTER, "sh", str(root), *seen, "--", *command]


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


def _main() -> None:
    parser = ArgumentParser(prog="python -m tests.support.roots")
    parser.add_argument("--packages", type=lambda names: tuple(names.split(",")), default=PACKAGES)
    parser.add_argument("suites", nargs="+", metavar="SUITE")
    arguments = parser.parse_args()
    try:
        for suite in arguments.suites:
            print(build(suite, arguments.packages))
    except RuntimeError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    _main()
