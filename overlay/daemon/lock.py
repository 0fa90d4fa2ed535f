"""One daemon of a name a state directory: a lock that ends with the process, however it ends."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from overlay.errors import FileError, NodeError


def file_name(name: str) -> str:
    """Of the lock of the daemon ``name``, in its state directory."""
    return f"{name}.lock"


def is_lost(descriptor: int, directory: Path, name: str) -> bool:
    """Whether others have removed the file on which the lock is held, so that another daemon could take one."""
    try:
        return not os.path.samestat(os.fstat(descriptor), (directory / file_name(name)).stat())
    except OSError:
        return True


def lock(directory: Path, name: str) -> int:
    """Takes the lock of the daemon ``name``; it lasts as long as the returned file descriptor is open.

    Raises:
        NodeError: another one holds it.
        FileError: the directory cannot be used.
    """
    path = directory / file_name(name)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise FileError(
            error.strerror or str(error), about=f"cannot use {directory}", remedy="choose another --state-dir"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise NodeError(
            f"another {name} runs there (process {holder or 'unknown'})",
            about=str(directory),
            remedy="stop it, or give this one a --state-dir of its own",
        ) from error
    with suppress(OSError):  # a full disk: the lock holds all the same, and only who holds it is not known
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor
