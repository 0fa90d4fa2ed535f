"""Network namespaces by name, and entering one for the length of a call."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

from overlay.errors import LabError
from overlay.lab.plan import MARK
from overlay.lab.shell import NETNS, run
from overlay.linux import libc

T = TypeVar("T")


def exists(name: str) -> bool:
    return (NETNS / name).exists()


def existing(prefix: str) -> list[str]:
    """Names of all namespaces that begin with ``prefix``."""
    return sorted(path.name for path in NETNS.glob(f"{prefix}*")) if NETNS.is_dir() else []


def inode(name: str) -> int | None:
    """The namespace's number, which /proc/PID/ns/net shows as well; None where there is no such namespace."""
    try:
        found = os.stat(NETNS / name)
    except FileNotFoundError:
        return None
    # Before `ip netns add` has mounted the namespace on it, or after it failed to, it is an empty file elsewhere.
    return found.st_ino if found.st_dev == os.stat("/proc/self/ns/net").st_dev else None


def inodes(names: Iterable[str]) -> list[int]:
    return [number for name in names if (number := inode(name)) is not None]


def marked_by(name: str) -> str | None:
    """The lab whose mark a namespace carries; None where it has none."""
    if inode(name) is None:
        return None
    done = run(["ip", "-j", "link", "show", "dev", "lo"], namespace=name, check=False)
    if done.returncode != 0:
        return None
    alias: str = json.loads(done.stdout)[0].get("ifalias", "")
    return alias.removeprefix(MARK) if alias.startswith(MARK) else None


def call_inside(name: str, function: Callable[[], T]) -> T:
    """Calls ``function`` in a namespace and returns what it returns; a socket that it opens stays in there.

    The namespace is a thread's, so the call runs in a thread of its own that ends with it.

    Raises:
        LabError: there is no such namespace. What ``function`` raises is raised here.
    """
    result: list[T] = []
    failure: list[BaseException] = []

    def enter_and_call() -> None:
        try:
            _enter(name)
            result.append(function())
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread
            failure.append(error)

    thread = threading.Thread(target=enter_and_call, name=f"in {name}")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


def _enter(name: str) -> None:
    """Moves the calling thread."""
    try:
        descriptor = os.open(NETNS / name, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise LabError("does not exist", about=f"namespace {name}") from error
    try:
        libc.enter(descriptor, libc.CLONE_NEWNET)
    except OSError as error:
        raise LabError(error.strerror or str(error), about=f"cannot enter namespace {name}") from error
    finally:
        os.close(descriptor)
