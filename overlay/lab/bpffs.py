"""The bpf file system, which the agent's kernel datapath mounts where it is missing, as systemd does at boot.

On a machine without it, the last lab to go takes it away again; where it was before the first lab, it stays.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from overlay.lab.process import poll
from overlay.lab.shell import run

MOUNT_POINT = Path("/sys/fs/bpf")
_WAS_MISSING = Path("/run/overlay-lab.bpffs-was-missing")
_OF_THE_KERNEL = ("maps.debug", "progs.debug")
"""What is in every bpffs of a kernel with preloaded iterators (kernel/bpf/preload)."""
_PATIENCE = 5.0
"""Seconds in which it may be busy."""


def note() -> None:
    """Before agents are started: remembers whether there was one."""
    if not os.path.ismount(MOUNT_POINT):
        _WAS_MISSING.touch()


def restore() -> None:
    """After a lab is gone: unmounts it if it was missing before and nobody has anything in it."""
    if _WAS_MISSING.exists() and unmount():
        with contextlib.suppress(FileNotFoundError):
            _WAS_MISSING.unlink()


def unmount() -> bool:
    """Unmounts it, if it is mounted and nobody has anything in it; whether it is gone."""
    if not os.path.ismount(MOUNT_POINT):
        return True
    if any(path.name not in _OF_THE_KERNEL for path in MOUNT_POINT.iterdir()):
        return False
    # Somebody whose end is not over yet may still be looking at it.
    return poll(_try_to_unmount, _PATIENCE)


def _try_to_unmount() -> bool:
    run(["umount", str(MOUNT_POINT)], check=False)
    return not os.path.ismount(MOUNT_POINT)
