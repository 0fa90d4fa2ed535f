"""The tree of control groups, version 2: where it is mounted."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from overlay.errors import NodeError
from overlay.linux import libc
from overlay.text import lines_of

_CHOSEN_BY_OURSELVES = Path("/run/overlay/cgroup2")


def root() -> Path:
    """The root of the tree, beside which version 1 may have others (``/sys/fs/cgroup/unified``).

    Where nobody has mounted it, we do.

    Raises:
        NodeError: it cannot be had.
    """
    for line in lines_of(Path("/proc/self/mountinfo").read_bytes()):
        fields, _, kind = line.partition(" - ")
        if kind.startswith("cgroup2 "):
            _, _, _, inside, place, *_ = fields.split(" ")
            if inside == "/":
                return Path(place)
    try:
        _CHOSEN_BY_OURSELVES.mkdir(parents=True, exist_ok=True)
        libc.mount("cgroup2", str(_CHOSEN_BY_OURSELVES), "cgroup2", "")
    except OSError as error:
        raise NodeError(f"cannot be mounted ({error.strerror})", about="cgroup2") from error
    return _CHOSEN_BY_OURSELVES


def number(cgroup: Path) -> int:
    """What the kernel calls it by."""
    return os.stat(cgroup).st_ino


def holds(cgroup: Path) -> bool:
    """Whether this process is in ``cgroup``, or below it."""
    return is_within(lines_of(Path("/proc/self/cgroup").read_bytes()), root(), cgroup)


def is_within(told: Iterable[str], root: Path, cgroup: Path) -> bool:
    """Whether a process of which /proc/PID/cgroup tells this is in ``cgroup``, or below it. Pure.

    Of one outside of what our cgroup namespace has, the kernel tells a path that begins with ``/..``.
    """
    for line in told:
        if line.startswith("0::/"):
            path = Path(line[len("0::/") :])
            return ".." not in path.parts and (root / path).is_relative_to(cgroup)
    return False
