"""Who this node is, whatever its address: the ``NodeID`` in its lease.

The default comes from machine-id(5), hashed as that page asks for, and is the same after every boot. An agent in a
network namespace of its own is a node of its own, so the namespace goes into the hash there: its name under /run/netns
(ip-netns(8)), which is the same whenever it is made again, else its number.
"""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path

from overlay.linux.files import read_regular

_NAMED = Path("/run/netns")
_MACHINE_ID = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))

_NOT_YET = "uninitialized"
"""What an image has in the file until a machine has booted from it (machine-id(5)): no two may go by that."""


def default_node_id() -> str:
    """A stable id of 16 hexadecimal digits; from the host name where there is no machine-id."""
    parts = ["overlay", _machine_id() or socket.gethostname(), _namespace()]
    return hashlib.sha256(os.fsencode("\0".join(parts))).hexdigest()[:16]


def _machine_id() -> str:
    for path in _MACHINE_ID:
        try:
            text = os.fsdecode(read_regular(path)).strip()
            if text != _NOT_YET and text.strip("0"):
                return text
        except OSError:
            continue
    return ""


def _namespace() -> str:
    """The network namespace, empty for the machine's own (that of process 1)."""
    own = os.stat("/proc/self/ns/net")
    for path in sorted(_NAMED.glob("*")):
        try:
            if os.path.samestat(own, path.stat()):
                return path.name
        except OSError:
            continue
    try:
        first = os.stat("/proc/1/ns/net")
    except OSError:
        # Without CAP_SYS_PTRACE one may not look, as under systemd's sandbox, which is in the machine's own.
        return ""
    return "" if os.path.samestat(own, first) else str(own.st_ino)
