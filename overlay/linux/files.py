"""Files that are either the old or the new content, never something between, whatever dies when."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

from overlay.errors import FileError

MAX_BYTES = 1 << 16
"""Longest file of ours that is read; they have under 1 KiB."""


def read_regular(path: Path, limit: int = MAX_BYTES) -> bytes:
    """A file's content; of a pipe or a device one would wait for ever, or read without end.

    Args:
        limit: in bytes.

    Raises:
        OSError: it cannot be read, is no regular file, or is longer.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe without a writer opens at once
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "is no regular file", str(path))
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"has more than {limit} bytes", str(path))
    return content


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file that others may have damaged.

    Raises:
        FileNotFoundError: there is none.
        FileError: it cannot be read, or holds something else.
    """
    try:
        found = json.loads(read_regular(path))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        cause = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise FileError(f"cannot be used ({cause})", about=str(path)) from error
    if not isinstance(found, dict):
        raise FileError("cannot be used (no JSON object)", about=str(path))
    return found


def write_atomically(path: Path, content: str, *, mode: int = 0o644) -> bool:
    """Replaces ``path`` by a file of ``content`` with ``mode`` whatever the umask; makes the directory (0755).

    A symbolic link stays, and what it names is replaced. What is no regular file (/dev/null) is never replaced.

    Returns:
        Whether anything had to be changed: same content and mode are left alone, so watchers see no change.

    Raises:
        FileError: the file cannot be written; the old one is untouched.
    """
    wanted, place = content.encode(errors="surrogateescape"), Path(os.path.realpath(path))
    try:
        if _is_there(place, wanted, mode):
            return False
        if not place.parent.is_dir():
            place.parent.mkdir(parents=True)
            place.parent.chmod(0o755)
        handle, name = tempfile.mkstemp(prefix=f".{place.name}.", dir=place.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(wanted)
                os.fchmod(file.fileno(), mode)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, place)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise
    except OSError as error:
        raise FileError(
            error.strerror or str(error), about=f"cannot write {path}", remedy="check the path and its permissions"
        ) from error
    return True


def _is_there(place: Path, wanted: bytes, mode: int) -> bool:
    """Whether the file is as it should be. Raises OSError: what is there is no file."""
    try:
        there = place.stat()
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(there.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file")
    if (there.st_size, stat.S_IMODE(there.st_mode)) != (len(wanted), mode):
        return False
    return read_regular(place, len(wanted)) == wanted
