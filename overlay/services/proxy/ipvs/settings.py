"""IPVS's settings that Services need, as they were before, and as they are. They are the whole network namespace's.

What they were is noted at the device of ours (``ip link`` shows it as its alias), so that whoever removes the device
knows it, and nobody believes it once it is gone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from overlay.errors import NodeError
from overlay.linux.ipvs import SETTINGS

WANTED: Mapping[str, int] = {
    # Flows are known to the rest of netfilter, so that they can be masqueraded.
    "conntrack": 1,
    # A flow whose server was taken away is given another one, and not sent nowhere.
    "expire_nodest_conn": 1,
    # A client does not keep a server that gets no new connections.
    "expire_quiescent_template": 1,
    # A port that is used again is a new connection, and not sent to the server that the last one had, gone or not.
    "conn_reuse_mode": 1,
}

_REMEDY = "let the daemon write to /proc/sys/net (a unit's ReadWritePaths)"


def read(folder: Path = SETTINGS) -> dict[str, int]:
    """Those of :data:`WANTED`. Raises NodeError."""
    try:
        return {name: int((folder / name).read_text()) for name in WANTED}
    except (OSError, ValueError) as error:
        raise NodeError(str(error), about=str(folder), remedy=_REMEDY) from error


def write(settings: Mapping[str, int], folder: Path = SETTINGS) -> None:
    """Raises NodeError, as where /proc/sys may only be read."""
    for name, value in settings.items():
        try:
            (folder / name).write_text(f"{value}\n")
        except OSError as error:
            raise NodeError(error.strerror or str(error), about=str(folder / name), remedy=_REMEDY) from error


def why_not(folder: Path = SETTINGS) -> str:
    """Why they cannot be as wanted; empty where they can."""
    try:
        found = read(folder)
    except NodeError as error:
        return str(error)
    stuck = [name for name in WANTED if found[name] != WANTED[name] and not os.access(folder / name, os.W_OK)]
    return f"{folder / stuck[0]} is read-only: {_REMEDY}" if stuck else ""


def as_note(found: Mapping[str, int]) -> str:
    """What of them is to be changed, as it is now: ``conntrack=0 expire_nodest_conn=0``."""
    return " ".join(f"{name}={value}" for name, value in found.items() if value != WANTED[name])


def from_note(note: str) -> dict[str, int]:
    """What :func:`as_note` noted; nothing else that may stand there."""
    pairs = (word.partition("=") for word in note.split())
    return {name: int(value) for name, _, value in pairs if name in WANTED and value.isdigit()}
