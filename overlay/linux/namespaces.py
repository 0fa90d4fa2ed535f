"""Network namespaces of this machine, as far as /proc shows them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from overlay.linux import libc
from overlay.text import lines_of

T = TypeVar("T")

_FIRST_PID_NAMESPACE = 0xEFFFFFFC
"""``PROC_PID_INIT_INO`` (linux/proc_ns.h)."""


def visible() -> dict[int, Path]:
    """Those of all processes, and those mounted somewhere (``ip netns``, Docker): inode numbers, and what to open."""
    found: dict[int, Path] = {}
    for link in Path("/proc").glob("[0-9]*/ns/net"):
        with suppress(OSError, ValueError):
            found.setdefault(int(os.readlink(link).removeprefix("net:[").removesuffix("]")), link)
    for line in lines_of(Path("/proc/self/mountinfo").read_bytes()):
        _, _, _, root, place, *_ = line.split(" ")
        if root.startswith("net:["):
            found.setdefault(int(root[len("net:[") : -1]), Path(place))
    return found


def is_the_machines() -> bool:
    """Whether the calling thread is in the network namespace that the machine itself has.

    That is process 1's, of the first of all pid namespaces.
    """
    try:
        return has_ours(1) and os.stat("/proc/self/ns/pid").st_ino == _FIRST_PID_NAMESPACE
    except OSError:
        return False


def has_ours(pid: int) -> bool:
    """Whether a process is in the calling thread's network namespace; not so where there is none, or it is hidden.

    Its link in /proc is not everybody's to read; but each network namespace has files of its own in /proc, which have
    numbers.
    """
    try:
        return os.stat("/proc/thread-self/net/dev").st_ino == os.stat(f"/proc/{pid}/net/dev").st_ino
    except OSError:
        return False


def inside(namespace: Path, function: Callable[[], T]) -> T:
    """Calls ``function`` in a thread that is in ``namespace``, and waits for it.

    Raises:
        OSError: the namespace is gone, or this process may not enter it; and whatever ``function`` raises.
    """
    outcome: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
            try:
                libc.enter(descriptor, libc.CLONE_NEWNET)
            finally:
                os.close(descriptor)
            outcome.append(function())
        except BaseException as error:  # noqa: BLE001  (it is the caller's)
            failure.append(error)

    # Only a thread's own namespace changes, and the thread ends.
    thread = threading.Thread(target=run, name="in-namespace", daemon=True)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]
