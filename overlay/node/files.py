"""Files that are either the old or the new content, never something between, whatever dies when."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from overlay.errors import FileError


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
