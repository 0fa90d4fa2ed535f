"""bpffs, the file system in which maps and links are pinned so that they outlive who made them."""

from __future__ import annotations

import logging
from pathlib import Path

from overlay.linux import libc

MOUNT_POINT = Path("/sys/fs/bpf")

_MAGIC = 0xCAFE4A11
"""``BPF_FS_MAGIC`` of linux/magic.h."""

_log = logging.getLogger(__name__)


def ensure() -> bool:
    """Whether it is at its place, where it is mounted if it is not."""
    if _is_mounted():
        return True
    try:
        libc.mount("bpf", str(MOUNT_POINT), "bpf", "mode=0700")
    except OSError as error:
        _log.warning(
            "cannot mount bpffs at %s (%s): nothing is pinned, so a restart starts anew", MOUNT_POINT, error.strerror
        )
        return False
    return True


def _is_mounted() -> bool:
    try:
        return libc.file_system_magic(str(MOUNT_POINT)) == _MAGIC
    except OSError:
        return False
