"""Standard input, output and error as whoever started us left them: closed, full, of an encoding that lacks signs."""

from __future__ import annotations

import errno
import io
import os
import sys

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""What becomes of output that nobody can keep."""


def mend() -> None:
    """Makes all three usable.

    A closed one becomes /dev/null: the next socket would get its number, and the log would go into it. What cannot be
    encoded is shown by its code, rather than ending a command.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115  (lives as long as we do)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flush() -> str | None:
    """Sends off what was printed: here, not at exit, where nobody could tell what it means that it cannot be.

    Returns:
        Why it could not; None where it could, or where its reader (head, less) has gone and wants no more.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        forget_the_reader()
    except OSError as error:
        forget_the_reader()
        return lost(error) or str(error)
    return None


def forget_the_reader() -> None:
    """Nothing more is said, and nothing is left to flush at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def lost(error: BaseException) -> str | None:
    """What to say where ``error`` is that standard output takes no more (/dev/full); None where it is another."""
    if isinstance(error, OSError) and error.errno in _NO_ROOM and error.filename is None:
        return f"standard output: {error.strerror}"
    return None
