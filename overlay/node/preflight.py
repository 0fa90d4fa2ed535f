"""What must be there before anything else makes sense, each named with its remedy where it is missing."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from overlay.errors import DeviceError, PrivilegeError

_CAP_NET_ADMIN = 12
"""Bit of CAP_NET_ADMIN in a capability set (linux/capability.h)."""

_TUN = Path("/dev/net/tun")


def may_change_network() -> None:
    """Raises PrivilegeError where links and routes of this namespace may not be changed."""
    if not _effective_capabilities() & (1 << _CAP_NET_ADMIN):
        raise PrivilegeError(
            "this changes links and routes, and may not", remedy="run it as root, or with CAP_NET_ADMIN"
        )


def may_make_tun() -> None:
    """Raises DeviceError where no TUN device can be made."""
    try:
        mode = os.stat(_TUN).st_mode
    except OSError as error:
        raise DeviceError(
            error.strerror or str(error), about=str(_TUN), remedy="load the driver with 'modprobe tun'"
        ) from error
    if not stat.S_ISCHR(mode):
        raise DeviceError(
            "is no character device",
            about=str(_TUN),
            remedy=f"remove it and make it with 'mknod {_TUN} c 10 200'",
        )


def _effective_capabilities() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0
