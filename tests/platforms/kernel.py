"""A Debian kernel, unpacked so that qemu can boot it on this machine's own root."""

from __future__ import annotations

import lzma
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.platforms.debian import Suite, run

_INIT = Path(__file__).with_name("init.sh")
_BUSYBOX = Path("/bin/busybox")

_BOOT_MODULES = ("virtio_pci", "9p", "9pnet_virtio", "overlay")
"""What is needed before this machine's root is there: it comes by 9p, with a writable layer above it."""


@dataclass(frozen=True)
class Kernel:
    """A kernel that can boot.

    Attributes:
        version: its release, as ``uname -r`` prints it there.
        image: the kernel itself.
        initramfs: what brings up the root.
        modules: the directory that becomes /lib/modules.
    """

    version: str
    image: Path
    initramfs: Path
    modules: Path


def prepare(suite: Suite, folder: Path) -> Kernel:
    """Fetches and unpacks the suite's kernel into ``folder``, unless that has one already.

    Raises:
        RuntimeError: the archive has no kernel, or what it has cannot be unpacked.
    """
    if not (folder / "initramfs").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        suite.update()
        for package in suite.kernel_packages():
            suite.unpack(package, folder / "root")
        if not (folder / "root/lib").exists():
            (folder / "root/lib").symlink_to("usr/lib")
        kernel = _found(folder)
        run("depmod", "--basedir", str(folder / "root"), kernel.version)
        _build_initramfs(kernel)
    return _found(folder)


def _found(folder: Path) -> Kernel:
    (modules,) = (folder / "root/lib/modules").iterdir()
    version = modules.name
    inside, beside = modules / "vmlinuz", folder / f"root/boot/vmlinuz-{version}"
    image = inside if inside.exists() else beside
    return Kernel(version, image, folder / "initramfs", folder / "root/lib/modules")


def _build_initramfs(kernel: Kernel) -> None:
    """busybox, the modules that the root needs in the order of their dependencies, and init.sh (cpio's newc)."""
    tree = kernel.initramfs.with_name("tree")
    (tree / "modules").mkdir(parents=True)
    (tree / "bin").mkdir()
    shutil.copy(_BUSYBOX, tree / "bin/busybox")
    shutil.copy(_INIT, tree / "init")
    (tree / "init").chmod(0o755)
    names = []
    for path in _with_dependencies(kernel):
        content = path.read_bytes()
        # busybox loads plain ELF alone.
        names.append(path.name.removesuffix(".xz"))
        (tree / "modules" / names[-1]).write_bytes(lzma.decompress(content) if path.suffix == ".xz" else content)
    (tree / "modules/order").write_text("\n".join(names) + "\n")
    files = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
    part = kernel.initramfs.with_suffix(".part")
    with part.open("wb") as out:
        subprocess.run(
            ["cpio", "--quiet", "-o", "-H", "newc"], cwd=tree, input=files.encode(), stdout=out, check=True, timeout=60
        )
    part.rename(kernel.initramfs)
    shutil.rmtree(tree)


def _with_dependencies(kernel: Kernel) -> Iterator[Path]:
    seen: set[Path] = set()
    for module in _BOOT_MODULES:
        printed = run(
            "modprobe", "--dirname", str(kernel.modules.parents[1]), "--set-version", kernel.version,
            "--show-depends", module,
        )  # fmt: skip
        for line in printed.splitlines():
            kind, _, path = line.strip().partition(" ")
            if kind == "insmod" and (found := Path(path.strip())) not in seen:
                seen.add(found)
                yield found
