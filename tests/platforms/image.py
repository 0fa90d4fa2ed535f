"""File systems for emulated machines: layers of a root, which each machine finds in its memory.

A layer is a squashfs of files at the places where they belong below /, not compressed: a machine that counts its time
in instructions would pay for that. It is mapped into the machine like a module of persistent memory (NVDIMM), so that
reading is no device's work and nothing is ever waited for.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator, Set
from pathlib import Path

from tests.platforms.debian import alone, run
from tests.support.earlier import extracted

PACKAGES = (
    *("python3-venv", "iproute2", "libbpf1", "iptables", "nftables", "procps", "kmod", "busybox-static"),
    *("etcd-server", "etcd-client", "iputils-ping", "iperf3", "sockperf", "ethtool", "tcpdump", "openssl"),
    *("clang", "llvm", "libbpf-dev", "libc6-dev"),
)
"""What an emulated machine has of this one's packages, with all that they depend on."""

_SECTION = 128 << 20
"""Bytes by which the kernel adds memory (x86's SECTION_SIZE_BITS): a layer's size is a multiple."""

_LINKS = ("/", "/usr/bin", "/usr/sbin", "/usr/lib", f"/usr/lib/{sysconfig.get_config_var('MULTIARCH')}")
"""Where symbolic links belong to no package: update-alternatives(1) and merged /usr make them."""

_UNUSED = ("/usr/share/doc", "/usr/share/locale", "/usr/share/man", "/usr/share/zoneinfo", "/boot")
"""Of packages."""

_NOT_READ = {".git", ".venv-lowest", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", "dist"}
"""Of a checkout."""


def system(folder: Path) -> Path:
    """The layer of this machine's own programs, made unless ``folder`` has it of the same versions of packages.

    Raises:
        RuntimeError: apt, dpkg or mksquashfs(1) failed.
    """
    packages = sorted(_with_dependencies())
    versions = run("dpkg-query", "--show", *packages)
    image = folder / f"system-{hashlib.sha256(versions.encode()).hexdigest()[:12]}.squashfs"
    with alone(folder):
        if not image.exists():
            for older in folder.glob("system-*.squashfs"):
                older.unlink()
            pack(_files_of(packages), image)
    return image


def checkout(source: Path, image: Path) -> Path:
    """The layer of a checkout with its virtual environment, compiled."""
    run(sys.executable, "-m", "compileall", "-q", str(source / "overlay"), str(source / "tests"))
    pack(_below(source, _NOT_READ), image)
    return image


def earlier(image: Path, place: Path) -> Path | None:
    """The layer with the tree of :mod:`tests.support.earlier` at ``place``; None without the history that has it."""
    with tempfile.TemporaryDirectory(dir=image.parent) as folder:
        root = Path(folder)
        copy = root / place.relative_to("/")
        copy.mkdir(parents=True)
        if not extracted(copy):
            return None
        run(sys.executable, "-m", "compileall", "-q", str(copy))
        pack(_below(copy), image, root)
    return image


def patched(source: Path, patch: Path, image: Path) -> Path:
    """The layer of those files of a checkout that a patch changes, changed; to be stacked on the checkout's.

    Raises:
        RuntimeError: the patch does not apply.
    """
    changed = [line.split("\t")[2] for line in run("git", "apply", "--numstat", str(patch)).splitlines()]
    with tempfile.TemporaryDirectory(dir=image.parent) as folder:
        root = Path(folder)
        copy = root / source.relative_to("/")
        for name in changed:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / name, copy / name)
        run("git", "apply", str(patch), cwd=copy)
        pack((copy / name for name in changed), image, root)
    return image


def pack(paths: Iterable[Path], image: Path, root: Path = Path("/")) -> None:
    """Makes a layer of files, directories (without what is in them) and links, by their names below ``root``.

    Raises:
        RuntimeError: tar(1) or mksquashfs(1) failed.
    """
    image.parent.mkdir(parents=True, exist_ok=True)
    part = image.with_suffix(f".part{os.getpid()}")
    part.unlink(missing_ok=True)
    tar = subprocess.Popen(
        ["tar", f"--directory={root}", "--create", "--format=gnu", "--no-recursion", "--null", "--files-from=-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    squash = subprocess.Popen(
        ["mksquashfs", "-", str(part), "-tar", "-quiet", "-no-progress", "-noI", "-noD", "-noF", "-noX", "-no-xattrs"],
        stdin=tar.stdout,
        stdout=subprocess.DEVNULL,
    )
    assert tar.stdin is not None
    assert tar.stdout is not None
    tar.stdout.close()
    with tar.stdin as names:
        for path in sorted(_with_parents(path.relative_to(root) for path in paths)):
            names.write(os.fsencode(path) + b"\0")
    failed = squash.wait(600) or tar.wait(60)
    if failed:
        part.unlink(missing_ok=True)
        raise RuntimeError(f"{image} could not be made: tar or mksquashfs ended with {failed}")
    part.chmod(0o600)
    os.truncate(part, -(-part.stat().st_size // _SECTION) * _SECTION)
    part.rename(image)


def _with_parents(paths: Iterable[Path]) -> set[Path]:
    return {each for path in paths for each in (path, *path.parents) if each.name}


def _with_dependencies() -> set[str]:
    """The packages that every system has, PACKAGES, and what they depend on, as far as this machine has them."""
    fields = "${Package} ${Essential} ${Priority} ${db:Status-Status}\n"
    listed = run("dpkg-query", "--show", "--showformat", fields).splitlines()
    installed = {name: rest for name, *rest in map(str.split, listed) if rest[-1] == "installed"}
    always = [name for name, rest in installed.items() if rest[0] == "yes" or rest[1] == "required"]
    but = (f"--no-{kind}" for kind in ("suggests", "recommends", "conflicts", "breaks", "replaces", "enhances"))
    asked = (*always, *(name for name in PACKAGES if name in installed))
    needed = run("apt-cache", "depends", "--recurse", "--installed", *but, *asked).splitlines()
    return {name for name in needed if name in installed}


def _files_of(packages: Iterable[str]) -> Iterator[Path]:
    for name in run("dpkg", "--listfiles", *packages).splitlines():
        # /bin and /lib may be links; and not all that a package lists is there.
        path = Path(os.path.realpath(os.path.dirname(name)), os.path.basename(name))
        if name.startswith("/") and not name.startswith(_UNUSED) and path.name != "." and os.path.lexists(path):
            yield path
    for folder in _LINKS:
        yield from (path for path in Path(folder).iterdir() if path.is_symlink())
    for tree in (Path("/etc"), Path(sysconfig.get_path("stdlib")), Path("/usr/lib/python3")):
        yield from _below(tree)
    # As they are on any system; what this one keeps in them is its own affair.
    yield from map(Path, ("/root", "/tmp", "/var/tmp", "/run", "/proc", "/sys", "/dev"))


def _below(folder: Path, but: Set[str] = frozenset()) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in but]
        yield Path(place)
        yield from (Path(place, name) for name in (*folders, *files))
