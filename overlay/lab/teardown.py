"""Removing a lab, whatever state it was left in; doing it twice is fine.

What is ours: the namespaces of the lab's description, which was written before the first of them was made and only
after none of their names was taken; and, should the description be lost, those that carry the lab's mark. With the
namespaces go their links, routes and rules; before them, every process in them, and what those pinned in bpffs.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from overlay.errors import LabError
from overlay.lab import bpffs, namespace, plan
from overlay.lab.process import end_all
from overlay.lab.shell import require_root, run
from overlay.lab.state import StateDirectory, all_labs
from overlay.lab.topology import check_name

PINS = bpffs.MOUNT_POINT / "overlay"
"""Where the kernel datapath pins: one directory a network namespace, with the namespace's inode number in its name."""

_SECOND_LOOK_SECONDS = 0.1
"""A killed `up` may have had a command under way, which ends by itself within milliseconds."""

_LOOKS = 10
"""How often we remove what we find before we give up: something makes it faster than we remove it, or it cannot be."""


@dataclass(frozen=True, slots=True)
class Removed:
    """What was there and is gone."""

    processes: int = 0
    namespaces: tuple[str, ...] = ()
    pins: int = 0
    files: bool = False

    def __add__(self, other: Removed) -> Removed:
        return Removed(
            self.processes + other.processes,
            self.namespaces + other.namespaces,
            self.pins + other.pins,
            self.files or other.files,
        )

    def __str__(self) -> str:
        if self == Removed():
            return "nothing was left to remove"
        parts = [f"{len(self.namespaces)} namespaces with all their links", f"{self.processes} processes"]
        if self.pins:
            parts.append(f"{self.pins} directories of pinned maps")
        if self.files:
            parts.append("the lab's files")
        return "removed " + ", ".join(parts)


def tear_down(name: str, state: StateDirectory) -> Removed:
    """Removes the lab ``name``; interrupting it by Ctrl-C is put off until it is done.

    Raises:
        LabError: no root, a process that cannot be killed, or a namespace that cannot be removed.
    """
    check_name(name)
    require_root()
    removed = Removed()
    with _uninterrupted():
        for _ in range(_LOOKS):
            if names := _ours(name, state):
                _return_cards(state, names)
                removed += _remove(names)
                time.sleep(_SECOND_LOOK_SECONDS)
            else:
                break
        else:
            raise LabError(f"cannot be removed: {', '.join(_ours(name, state))}", about=f"lab {name}")
        removed += Removed(files=state.remove())
        bpffs.restore()
    return removed


def remove_orphans() -> list[str]:
    """Removes the labs whose owner died without removing them (a test run that was killed); their names."""
    orphans = []
    for state in all_labs():
        # A lab that is just being made, or removed, by somebody else may be unreadable: it is not an orphan then.
        with contextlib.suppress(LabError):
            spec, owner = state.load()
            if owner is not None and not owner.alive:
                tear_down(spec.name, state)
                orphans.append(spec.name)
    return orphans


def _ours(name: str, state: StateDirectory) -> list[str]:
    """The lab's namespaces that are there, described or marked."""
    described: set[str] = set()
    with contextlib.suppress(LabError):
        spec, _ = state.load()
        described = set(spec.namespaces) if spec.name == name else set()
    return [
        found for found in namespace.existing(f"{name}-") if found in described or namespace.marked_by(found) == name
    ]


def _return_cards(state: StateDirectory, names: Iterable[str]) -> None:
    """Gives network cards back under their own names: the kernel, which would as well, knows those no more."""
    with contextlib.suppress(LabError):
        spec, _ = state.load()
        for card, holder in plan.cards(spec).items():
            if holder in names:
                batch = "\n".join(plan.return_batch(card, os.getpid()))
                run(["ip", "-force", "-batch", "-"], namespace=holder, text=batch, check=False)


def _remove(names: Iterable[str]) -> Removed:
    names = tuple(names)
    inodes = namespace.inodes(names)
    ended = end_all(inodes)
    pins = _remove_pins(inodes)
    # -force: another `down` may be at it as well, and what it removed before us is no reason to stop.
    batch = "".join(f"netns del {name}\n" for name in names)
    run(["ip", "-force", "-batch", "-"], text=batch, check=False)
    return Removed(ended, names, pins)


def _remove_pins(inodes: Iterable[int]) -> int:
    """Unpins what the namespaces' agents pinned; programs and maps end with their last reference."""
    wanted = {str(inode) for inode in inodes}
    count = 0
    if PINS.is_dir():
        for path in PINS.iterdir():
            if wanted & set(re.findall(r"\d+", path.name)):
                shutil.rmtree(path, ignore_errors=True)
                count += 1
        with contextlib.suppress(OSError):
            PINS.rmdir()
    return count


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ignores Ctrl-C and its like, here and (signal(7): what is ignored stays so) in the commands that we run."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
