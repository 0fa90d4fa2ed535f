"""A Debian kernel, unpacked, with what it boots from and the layer of its modules."""

from __future__ import annotations

import lzma
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.platforms import image
from tests.platforms.debian import Suite, alone, run

_INIT = Path(__file__).with_name("init.sh")
_BUSYBOX = Path("/bin/busybox")

_BOOT_MODULES = ("nfit", "nd_pmem", "squashfs", "overlay", "virtio_pci")
"""What is needed before the root is there: its layers are in persistent memory, below a writable one."""

_MODULES = ("net", "lib", "crypto", "arch", "fs", "drivers/net", "drivers/virtio", "drivers/nvdimm", "drivers/acpi")
"""Directories of modules that a machine may need."""

_PHYSICAL = ("drivers/net/ethernet", "drivers/net/wireless", "drivers/net/usb", "fs/xfs", "fs/btrfs", "net/mac80211")
"""Of those, what no emulated machine has."""


@dataclass(frozen=True)
class Kernel:
    """A kernel that can boot.

    Attributes:
        version: its release, as ``uname -r`` prints it there.
        image: the kernel itself.
        initramfs: what brings up the root.
        modules: the layer with its modules (see :mod:`tests.platforms.image`).
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
    with alone(folder):
        if not (folder / "modules.squashfs").exists():
            _unpack(suite, folder)
    return _found(folder)


def _unpack(suite: Suite, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    root = folder / "root"
    (root / "usr/lib").mkdir(parents=True)
    suite.update()
    for package in suite.kernel_packages():
        suite.unpack(package, root)
    _merge_usr(root)
    kernel = _found(folder)
    _plain_modules(root / "usr/lib/modules" / kernel.version)
    run("depmod", "--basedir", str(root), kernel.version)
    _build_initramfs(kernel, root)
    image.pack((root / "usr/lib/modules").rglob("*"), kernel.modules, root)


def _merge_usr(root: Path) -> None:
    """/lib becomes a link to /usr/lib, as it is on this machine; from Debian 13 on packages know of no other."""
    if (root / "lib").exists():
        shutil.copytree(root / "lib", root / "usr/lib", symlinks=True, dirs_exist_ok=True)
        shutil.rmtree(root / "lib")
    (root / "lib").symlink_to("usr/lib")


def _plain_modules(folder: Path) -> None:
    """Unpacks compressed modules, since busybox loads plain ELF alone and xz takes long in emulation; drops others."""
    for path in [*folder.rglob("*.ko"), *folder.rglob("*.ko.xz")]:
        place = path.relative_to(folder / "kernel")
        needed = any(place.is_relative_to(each) for each in _MODULES)
        if not needed or any(place.is_relative_to(each) for each in _PHYSICAL):
            path.unlink()
        elif path.suffix == ".xz":
            path.with_suffix("").write_bytes(lzma.decompress(path.read_bytes()))
            path.unlink()


def _found(folder: Path) -> Kernel:
    (modules,) = (folder / "root/usr/lib/modules").iterdir()
    version = modules.name
    inside, beside = modules / "vmlinuz", folder / f"root/boot/vmlinuz-{version}"
    return Kernel(version, inside if inside.exists() else beside, folder / "initramfs", folder / "modules.squashfs")


def _build_initramfs(kernel: Kernel, root: Path) -> None:
    """busybox, the modules that the root needs in the order of their dependencies, and init.sh."""
    tree = kernel.initramfs.with_name("tree")
    (tree / "modules").mkdir(parents=True)
    (tree / "bin").mkdir()
    shutil.copy(_BUSYBOX, tree / "bin/busybox")
    shutil.copy(_INIT, tree / "init")
    (tree / "init").chmod(0o755)
    modules = list(_with_dependencies(root, kernel.version))
    for path in modules:
        shutil.copy(path, tree / "modules")
    (tree / "modules/order").write_text("".join(f"{path.name}\n" for path in modules))
    archive(tree, kernel.initramfs)
    shutil.rmtree(tree)


def archive(tree: Path, target: Path) -> None:
    """Everything below ``tree`` as the kernel reads an initial RAM disk (cpio's newc)."""
    files = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
    with target.open("wb") as out:
        subprocess.run(
            ["cpio", "--quiet", "-o", "-H", "newc"], cwd=tree, input=files.encode(), stdout=out, check=True, timeout=60
        )


def _with_dependencies(root: Path, version: str) -> Iterator[Path]:
    """Files of the modules that booting needs, each after those that it needs itself."""
    seen: set[Path] = set()
    for module in _BOOT_MODULES:
        printed = run("modprobe", "--dirname", str(root), "--set-version", version, "--show-depends", module)
        for line in printed.splitlines():
            kind, _, path = line.strip().partition(" ")
            if kind == "insmod" and (found := Path(path.strip())) not in seen:
                seen.add(found)
                yield found
