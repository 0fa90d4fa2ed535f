"""Files that are either the old or the new content, never something between, whatever dies when."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from overlay.errors import FileError

MAX_BYTES = 1 << 16
"""Longest file of ours that is read; they have under 1 KiB."""


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file that others may have damaged.

    Raises:
        FileNotFoundError: there is none.
        FileError: it cannot be read, or holds something else.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        found = json.loads(content) if len(content) <= MAX_BYTES else None
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        cause = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise FileError(f"cannot be used ({cause})", about=str(path)) from error
    if not isinstance(found, dict):
        raise FileError(f"cannot be used (no JSON object of at most {MAX_BYTES} bytes)", about=str(path))
    return found


def write_atomically(path: Path, content: str, *, mode: int = 0o644) -> bool:
    """Replaces ``path`` by a file of ``content`` with ``mode`` whatever the umask; makes the directory (0755).

    Returns:
        Whether anything had to be changed: same content and mode are left alone, so watchers see no change.

    Raises:
        FileError: the file cannot be written; the old one is untouched.
    """
    try:
        with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):
            if path.read_text() == content and path.stat().st_mode & 0o7777 == mode:
                return False
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True)
            path.parent.chmod(0o755)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w") as file:
                file.write(content)
                os.fchmod(file.fileno(), mode)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise
    except OSError as error:
        raise FileError(
            error.strerror or str(error), about=f"cannot write {path}", remedy="check the path and its permissions"
        ) from error
    return True
